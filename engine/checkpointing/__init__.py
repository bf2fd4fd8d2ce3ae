"""Checkpoints: written atomically, verified, and resumed from bit for bit."""
