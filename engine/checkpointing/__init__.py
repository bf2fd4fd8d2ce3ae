"""Checkpoints: atomic and verified writes, bit-exact resuming, reading of foreign weights."""
