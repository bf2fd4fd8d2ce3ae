"""Clip transforms on uint8 frames: presets, RandAugment, mixup."""
