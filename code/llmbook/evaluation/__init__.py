"""What a model can do: scores, and how far to trust them."""
