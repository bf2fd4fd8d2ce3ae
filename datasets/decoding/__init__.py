"""One reader interface over PyAV, decord, torchcodec, folders of images and tar shards."""

from ..errors import DecodeError
from .open import open_video

__all__ = ["DecodeError", "open_video"]
