"""What a config will compute and hold, counted on torch's meta device before anything runs."""
