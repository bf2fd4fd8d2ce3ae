"""SIGMA and VideoMAE as an installed package: `from sigma_video import create_model`.

In a checkout `models`, `datasets`, `engine` and `scripts` lie beside this folder, in an installation inside it, where
they leave those names to others (Hugging Face's `datasets`). Either way they are `sigma_video.models` and so on.
Use one or the other in a process: `models` and `sigma_video.models` are two copies, with classes of their own.
Nothing heavy is imported before it is used: `import sigma_video` does not import torch.
"""

import importlib
from pathlib import Path
from typing import Any

from .composing import install

__version__ = "0.1.0"

__all__ = ["ModelError", "create_model", "from_pretrained", "load"]
_PLACES = dict.fromkeys(("from_pretrained", "load"), ".inference.video_model")  # of what is not in `.models`

# The last entry is the folder that holds the packages and the entry scripts.
if not Path(__file__).with_name("models").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[1]))
install()


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported at the first use (PEP 562)."""
    if name in __all__:
        return getattr(importlib.import_module(_PLACES.get(name, ".models"), __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
