"""Comparing ways to pre-train."""
