"""What turns the records of `montecarlo` into a report, and doubts it."""
