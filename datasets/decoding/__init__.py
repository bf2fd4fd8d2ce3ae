"""One reader interface over PyAV, decord, torchcodec, folders of images and tar shards."""

from .open import open_video
from .reader import DecodeError

__all__ = ["DecodeError", "open_video"]
