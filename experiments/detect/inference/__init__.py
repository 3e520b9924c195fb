"""What decides the records of `detect`: all of it, and nothing else of the stage, is in their key."""
