"""The method as plain PyTorch modules: no rank, no argparse, no logger, no file names."""

import sigma_video.compat  # noqa: F401  (before anything that imports torchvision)

from .registry import ModelError, create_model

__all__ = ["ModelError", "create_model"]
