"""How fast `montecarlo` is, beside the simple loop."""
