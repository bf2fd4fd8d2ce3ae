"""Measures of what a trained model has learned. Models and clips arrive as arguments."""
