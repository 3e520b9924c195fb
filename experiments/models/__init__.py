"""Language and vision models behind small interfaces, and the reference models that ship with rigsweep."""
