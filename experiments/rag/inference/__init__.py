"""What decides the records of `rag`: all of it, and nothing else of the stage, is in their key."""
