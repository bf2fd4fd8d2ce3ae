"""Weights to and from the formats in the wild."""
