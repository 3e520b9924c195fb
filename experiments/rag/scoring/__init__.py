"""What turns the records of `rag` into a report, and doubts it."""
