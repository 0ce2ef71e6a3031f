"""What is stored: the tables, how a database is opened, and what runs leave in it."""
