"""What work costs: time, memory, traces."""
