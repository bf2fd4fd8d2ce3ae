"""Weights from a checkpoint's content into a classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from models.classifier import Classifier
from models.registry import ModelError

MIN_MATCHED = 0.95  # of the encoder's tensors; below this it is another architecture
_WRAPPERS = ("module.", "_orig_mod.")  # left in names by DDP and torch.compile
_ENCODERS = ("encoder.", "backbone.")
_HEAD = ("fc_norm.", "head.", "norm.")


@dataclass(frozen=True)
class LoadReport:
    """What loading did, by the model's tensor names."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]  # "name: shape in the file, shape in the model"

    def describe(self) -> str:
        """One line, with the names where there are few."""
        parts = [f"{len(self.matched)} tensors matched"]
        for what in ("missing", "unexpected", "mismatched"):
            names = getattr(self, what)
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            parts.append(f"{len(names)} {what}" + (f" ({shown})" if names else ""))
        return "; ".join(parts)

    @property
    def has_head(self) -> bool:
        """True if the classification head was in the file too."""
        return "head.weight" in self.matched


def encoder_state(content: Mapping[str, Any], *, model_key: str = "model|module") -> dict[str, torch.Tensor]:
    """The encoder's tensors of a checkpoint, by the classifier's names.

    Takes the content's first entry among `model_key` (names separated by `|`), or the content itself if it holds
    tensors. Of a pre-training model only the encoder is kept; of a classifier everything.

    Raises:
        ModelError: there are no weights under these keys.
    """
    weights = next((content[key] for key in model_key.split("|") if key in content), content)
    weights = weights if isinstance(weights, Mapping) else {}
    state = {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise ModelError(f"no weights under --model_key {model_key}: the checkpoint's keys are {', '.join(content)}")
    while any(name.startswith(_WRAPPERS) for name in state):  # in any order
        for wrapper in _WRAPPERS:
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    for encoder in _ENCODERS:
        if any(name.startswith(encoder) for name in state):
            return {name.removeprefix(encoder): value for name, value in state.items() if name.startswith(encoder)}
    return state


def load_encoder(model: Classifier, state: Mapping[str, torch.Tensor]) -> LoadReport:
    """Load what fits, in place.

    A head of another number of classes is left out, and so is the encoder's final norm by a model that pools instead
    of it.

    Raises:
        ModelError: a tensor of the encoder has another shape, or fewer than 95 % of them are there; names the first
            differences.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    report = LoadReport(
        matched=tuple(fitting),
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        mismatched=tuple(
            f"{name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the model"
            for name, value in state.items()
            if name in own and value.shape != own[name].shape
        ),
    )
    wanted = [name for name in own if not name.startswith(_HEAD)]
    matched = sum(name in fitting for name in wanted)
    misshapen = [row for row in report.mismatched if not row.startswith(_HEAD)]
    if misshapen or matched < MIN_MATCHED * len(wanted):
        differences = misshapen + [f"{name} is not in the file" for name in wanted if name not in state]
        raise ModelError(
            f"another architecture: {matched} of the encoder's {len(wanted)} tensors fit. "
            f"First differences: {'; '.join(differences[:3])}. Check --model, --tubelet_size and the file"
        )
    model.load_state_dict(fitting, strict=False)
    return report
