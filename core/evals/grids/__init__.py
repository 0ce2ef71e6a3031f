"""Many heads on the same features at once."""
