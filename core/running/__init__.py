"""Training a run and judging it: the loop, its steps, its checkpoints."""
