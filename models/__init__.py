"""The method as plain PyTorch modules: no rank, no argparse, no logger, no file names.

"The paper" is SIGMA, arXiv 2407.15447; "the released code" is github.com/QUVA-Lab/SIGMA at commit 9876f09.
"""

import sigma_video.compat  # noqa: F401  (before anything that imports torchvision)

from .registry import ModelError, create_model

__all__ = ["ModelError", "create_model"]
