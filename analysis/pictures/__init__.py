"""Pictures from what runs kept: sheets of tiles as data, and the drawing of them."""
