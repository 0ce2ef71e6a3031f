"""What only a real card can show. Skipped without one, and so in every other suite; see `cuda.needs_a_card`."""
