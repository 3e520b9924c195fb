"""What turns the records of `detect` into a report, and doubts it."""
