"""Pairs of frames, with the flow between them where it is known."""
