"""Distributed training: launchers, collectives, DDP and DeepSpeed backends."""
