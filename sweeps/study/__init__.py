"""What is asked: a YAML file becomes a question, its rows and the cells of its table."""
