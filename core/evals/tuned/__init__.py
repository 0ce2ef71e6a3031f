"""Evaluations that train a copy of the encoder, and their recipes."""
