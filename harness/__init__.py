"""The engine: runs, measures, audits and tracks any stage; knows no pipeline."""
