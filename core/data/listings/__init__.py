"""What folders hold, packed into few arrays and kept, so that a large set is not listed at every start."""
