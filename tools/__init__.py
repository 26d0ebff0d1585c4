"""What works on the book's files: set-up, building, weaving, testing."""
