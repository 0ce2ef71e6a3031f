"""A transformer block written out: the same numbers to rounding, in fewer calls."""
