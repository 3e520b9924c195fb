"""What may be typed and what is shown; one function a command."""
