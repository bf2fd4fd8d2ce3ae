"""For torch.hub: `torch.hub.load(REPOSITORY, "vit_base_patch16_224", num_classes=174)`.

Every model of `create_model` that has a released size is an entry of its own; `create_model` is one too, for other
sizes. These are without weights. `from_pretrained` is the model of a checkpoint, as `sigma_video.load` gives it:
`torch.hub.load(REPOSITORY, "from_pretrained", "checkpoint-99.pth").predict("video.mp4")`.
"""

import collections.abc  # not Callable from it: whatever is callable here and has a public name is an entry

from torch import nn

import sigma_video
from sigma_video import create_model

dependencies = ["torch", "torchvision", "timm", "einops", "numpy"]  # what torch.hub looks for before it loads a model


def _entry(name: str, kind: str) -> collections.abc.Callable[..., nn.Module]:
    def entry(**overrides: object) -> nn.Module:
        return create_model(name, **overrides)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f'{kind}: `create_model("{name}", **overrides)`.'
    return entry


def from_pretrained(path: str, **options: object) -> object:
    """The model of a checkpoint, a Hugging Face folder or an address: `sigma_video.load(path, **options)`."""
    return sigma_video.load(path, **options)


for _size in ("small", "base", "large", "huge"):
    for _name, _kind in (
        (f"pretrain_videomae_{_size}_patch16_224", "SIGMA, or VideoMAE (target_type='pixel', loss_func='L2')"),
        (f"vit_{_size}_patch16_224", "Classifier of num_classes"),
    ):
        globals()[_name] = _entry(_name, _kind)
