"""Processes and ranks: launchers, collectives, DDP and DeepSpeed."""
