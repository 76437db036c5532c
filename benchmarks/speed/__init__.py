"""How fast our own code is, always as a ratio to a plain version in the same run: `pytest benchmarks/speed`."""
