"""What a person types and is told: offered commands and URLs without passwords. Every room above speaks through it."""
