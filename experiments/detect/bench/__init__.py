"""How fast `detect` is, beside the simple versions that it is held to."""
