"""What pictures of a run are drawn from."""
