"""Makes torchvision importable beside a torch build without its C++ operators.

Some package indexes pair a CPU build of torch with a CUDA build of torchvision. The compiled operators of such a
torchvision cannot load, and its Python part then fails on import with `operator torchvision::nms does not exist`;
so do timm and every other package that imports it. This project uses none of these operators (they are for object
detection), but its transforms, models and timm need the import to work. Declaring the operators' schemas, without
an implementation, is all the import asks for. Where the operators do load, nothing is changed.

`models` and `datasets` import this module before anything that imports torchvision. Code of your own that imports
torchvision or timm before them writes `import sigma_video.compat` first.
"""

import importlib
import sys

import torch

# The schemas that torchvision's Python code refers to while it is imported.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # a Library undoes its definitions when it is collected: keep it alive


def ensure_torchvision() -> bool:
    """Import torchvision, declaring its missing operators if need be.

    Returns:
        True if the operators had to be declared, False if torchvision loaded as it is.

    Raises:
        ImportError, RuntimeError: torchvision is absent, or broken in another way.
    """
    global _library
    if _library is not None:
        return True
    try:
        importlib.import_module("torchvision")
        return False
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    # A half-imported torchvision stays in sys.modules: forget it, or the second import returns the broken one.
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    importlib.import_module("torchvision")
    return True


ensure_torchvision()
