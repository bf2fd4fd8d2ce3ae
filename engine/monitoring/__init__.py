"""Meters, logs and pictures of a run, and the watch on collapse."""
