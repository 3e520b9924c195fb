"""How much `rag` gains by batching."""
