"""What proposes the next run: trials of a search, seeds of a rule."""
