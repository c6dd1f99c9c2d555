"""The memory and the time that a run will need, computed before it starts: `hftrain plan`."""
