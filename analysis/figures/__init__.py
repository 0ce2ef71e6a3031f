"""Figures: what will be drawn, as data, and the drawing of it."""
