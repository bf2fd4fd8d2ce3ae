"""Clips from videos: lists, decoding, sampling, masking, transforms, loaders. Knows neither models nor engine."""

import sigma_video.compat  # noqa: F401  (before anything that imports torchvision)
