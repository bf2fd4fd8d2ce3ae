"""What makes a step faster without changing what it computes."""
