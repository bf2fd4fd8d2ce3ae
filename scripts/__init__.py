"""What is called from a shell."""
