"""What is seen of a run while it trains, and what becomes of it."""
