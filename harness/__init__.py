"""The engine: runs, measures, audits and tracks any stage; knows no pipeline."""

__version__ = "0.1.0.dev0"
