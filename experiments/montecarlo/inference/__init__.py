"""What decides the records of `montecarlo`: all of it, and nothing else of the stage, is in their key."""
