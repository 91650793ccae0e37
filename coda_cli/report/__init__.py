"""What is written about an input."""
