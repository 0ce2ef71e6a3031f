"""Sets of pictures whose files hold many of them each: Parquet and WebDataset."""
