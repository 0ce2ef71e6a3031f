"""What runs: a worker claims a run, trains it, records it and lets it go."""
