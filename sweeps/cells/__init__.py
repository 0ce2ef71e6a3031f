"""What a study comes to at a scale: its cells as configs and runs, registered, and what they will cost."""
