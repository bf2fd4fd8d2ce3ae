"""Readers of the forms in which lists are written."""
