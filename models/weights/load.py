"""Loads weights of any known layout into our models."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..classifier import Classifier
from ..positions import Grid
from ..registry import ModelError
from ..sigma import Sigma
from ..vit import VideoTransformer
from .names import recognize

MIN_MATCHED = 0.95  # of the encoder's tensors; below this it is another architecture
_HEAD = ("fc_norm.", "head.", "norm.")
# What changes an encoder's outputs; heads, decoders and losses beside it do not.
_OF_AN_ENCODER = re.compile(
    r"(encoder\.)?(blocks\.|layers?\.|patch_embed\.|embeddings\.|videomae\.|(norm|ln)_pre\.|[a-z]+_tokens?$|[a-z]+_token\.|[a-z_]*prompt"
    r"|([a-z]+_)*(pos|position|temporal|spatial|time|rope)[a-z_]*_(embed|embedding|embeddings|emb)([._]|$))"
)


@dataclass(frozen=True)
class LoadReport:
    """What loading did, by the model's tensor names."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]  # "name: shape in the file, shape in the model"
    untrained: tuple[str, ...]  # encoder tensors that keep their random values
    positions: str  # grid of the position table, and whether it was resampled
    digest: str  # `weights_hash` of what was loaded

    def describe(self) -> str:
        """One line, with the names where there are few."""
        parts = [f"{len(self.matched)} tensors matched"]
        for what in ("missing", "unexpected", "mismatched"):
            names = getattr(self, what)
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            parts.append(f"{len(names)} {what}" + (f" ({shown})" if names else ""))
        return "; ".join([*parts, f"positions {self.positions}", f"hash {self.digest}"])

    @property
    def has_head(self) -> bool:
        """True if the classification head was in the file too."""
        return "head.weight" in self.matched


def weights_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Twelve hexadecimal digits of a hash of names, dtypes, shapes and values, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def native_state(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of any known layout by their native names (see `recognize`).

    Raises:
        ModelError: two tensors of one name, several networks, or a learned position table.
    """
    return recognize(tensors).state


def encoder_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By a classifier's names: of a pre-training model the encoder only, of a classifier everything."""
    inner = {name.removeprefix("encoder."): v for name, v in state.items() if name.startswith("encoder.")}
    return inner or dict(state)


def head_pools(state: Mapping[str, torch.Tensor]) -> bool | None:
    """Whether the head of native tensors reads the mean over all tokens, or (False) the first; None: no such head."""
    if "head.weight" not in state or any(name.startswith("encoder.") for name in state):
        return None
    return True if "fc_norm.weight" in state else False if "norm.weight" in state else None


def trained_grid(args: Mapping[str, Any], tubelet: tuple[int, int, int]) -> Grid | None:
    """Token grid whose position table the weights were trained with, from the options of their run; None if unknown.

    `position_grid` is recorded if that run used a resampled table itself.

    Raises:
        ModelError: what is recorded is no grid.
    """
    if args.get("position_grid"):
        return _recorded_grid(args["position_grid"])
    frames, size = args.get("num_frames"), args.get("input_size")
    if not isinstance(frames, int) or not isinstance(size, int):
        return None
    if frames < 1 or size < 1 or frames % tubelet[0] or size % tubelet[1] or size % tubelet[2]:
        raise ModelError(
            f"it would be of clips of {frames} frames at {size} px, which tubelets of {'x'.join(map(str, tubelet))} do "
            "not divide: check --pretrained_clip and --tubelet_size"
        )
    return frames // tubelet[0], size // tubelet[1], size // tubelet[2]


def _recorded_grid(grid: Any) -> Grid:
    if not isinstance(grid, list | tuple) or len(grid) != 3 or not all(isinstance(n, int) and n > 0 for n in grid):
        raise ModelError(f"its position_grid is {grid!r}, not tokens in time, height and width")
    return grid[0], grid[1], grid[2]


def _check_heads(encoder: VideoTransformer, trained_with: Mapping[str, Any]) -> None:
    """Tensor shapes do not show the number of heads: what the file records has to be what the model has."""
    block: Any = encoder.blocks[0]
    recorded, own = trained_with.get("num_attention_heads"), block.attn.num_heads
    if isinstance(recorded, int) and own != true_heads(recorded, encoder.embed_dim):
        raise ModelError(f"it records {recorded} attention heads, the model has {own}: its outputs would differ")


def true_heads(recorded: int, width: int) -> int:
    """The number of heads, from what a file records: transformers' converter wrote 16 for ViT-S, which has 6."""
    return 6 if (recorded, width) == (16, 384) else recorded


def load_encoder(
    model: Classifier,
    tensors: Mapping[str, torch.Tensor],
    *,
    trained_with: Mapping[str, Any] | None = None,
    with_head: bool = True,
) -> LoadReport:
    """Load what fits into a classifier, in place.

    A head for another number of classes, or on other features than the model's (mean, first token), is skipped, and so
    is the encoder's final norm if the model pools instead.

    Args:
        tensors: a classifier's or a pre-training model's, in any layout that `native_state` knows.
        trained_with: options of the run that made them (see `trained_grid`); if they name another token grid than the
            model's, the position table is resampled.
        with_head: False: the model keeps its own head.

    Raises:
        ModelError: a tensor of the encoder has another shape, the patch embedding or more than 5 % of the others are
            not there (names the first differences), or the heads are others.
    """
    state = encoder_state(native := native_state(tensors))
    if not with_head or head_pools(native) not in (None, model.fc_norm is not None):
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
    grid = trained_grid(trained_with or {}, model.tubelet)
    _check_heads(model, trained_with or {})
    return _load(model, state, grid=grid, optional=_HEAD, with_positions=(model,))


def load_pretraining(
    model: Sigma, tensors: Mapping[str, torch.Tensor], *, trained_with: Mapping[str, Any] | None = None
) -> LoadReport:
    """Load what fits into a pre-training model, in place: the encoder at least, and what else has the same shape.

    Arguments and errors as for `load_encoder`.
    """
    state = native_state(tensors)
    if not any(name.startswith("encoder.") for name in state):  # a classifier's, or a backbone alone
        encoder = encoder_state(state)
        state = {f"encoder.{n}": value for n, value in encoder.items() if not n.startswith(("head.", "fc_norm."))}
    optional = ("encoder_to_decoder.", "mask_token", "decoder.", "head.", "prototypes", "encoder.norm.")
    grid = trained_grid(trained_with or {}, model.encoder.tubelet)
    _check_heads(model.encoder, trained_with or {})
    return _load(model, state, grid=grid, optional=optional, with_positions=(model.encoder, model.decoder))


def load_projection(model: Sigma, tensors: Mapping[str, torch.Tensor]) -> LoadReport:
    """Load a pre-training model's projection network, all of it, in place; nothing else of the file is used.

    Raises:
        ModelError: the file has none, or one of other widths.
    """
    state = {name: value for name, value in native_state(tensors).items() if name.startswith("head.")}
    expected = {f"head.{name}": value for name, value in model.head.state_dict().items()}
    differing = [name for name in expected if name not in state or state[name].shape != expected[name].shape]
    if differing or state.keys() != expected.keys():
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in state.items() if value.ndim > 1)
        raise ModelError(
            f"its projection network ({shapes or 'none'}) is not the model's: check --projection_dims, "
            "--decoder_num_classes, --tubelet_size and that the file is of --target_type mlp"
        )
    model.load_state_dict(state, strict=False)
    return LoadReport(tuple(state), (), (), (), (), "not concerned", weights_hash(state))


def _load(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    grid: Grid | None,
    optional: tuple[str, ...],
    with_positions: tuple[Any, ...],
) -> LoadReport:
    """Load what fits; tensors whose names do not start with one of `optional` are required."""
    own = model.state_dict()
    mismatched = _shape_mismatches(state, own)
    fitting = {name: value for name, value in state.items() if name in own and name not in mismatched}
    required = [name for name in own if not name.startswith(optional)]
    _check_architecture(required, state, mismatched)
    _check_foreign(own, state)
    model.load_state_dict(fitting, strict=False)
    return LoadReport(
        matched=tuple(fitting),
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        mismatched=tuple(mismatched.values()),
        untrained=tuple(name for name in required if name not in fitting),
        positions=_fit_positions(with_positions, grid),
        digest=weights_hash(fitting),
    )


def _shape_mismatches(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Descriptions, by name, of the tensors that both have in different shapes."""
    return {
        name: f"{name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the model"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    }


def _check_architecture(
    required: Sequence[str], state: Mapping[str, torch.Tensor], mismatched: Mapping[str, str]
) -> None:
    """Raise ModelError where a required tensor has another shape or too many of them are missing."""
    misshapen = [mismatched[name] for name in required if name in mismatched]
    missing = [name for name in required if name not in state]
    matched = len(required) - len(misshapen) - len(missing)
    lacks_embedding = any("patch_embed." in name for name in missing)
    if misshapen or lacks_embedding or matched < MIN_MATCHED * len(required):
        differences = misshapen + [f"{name} is not in the file" for name in missing]
        raise ModelError(
            f"another architecture: {matched} of the encoder's {len(required)} tensors fit. "
            f"First differences: {'; '.join(differences[:3])}. Check --model, --tubelet_size and the file"
        )


def _check_foreign(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError for tensors of an encoder that computes something else, and for weights that are no numbers."""
    foreign = [name for name in state if name not in own and _OF_AN_ENCODER.match(name)]
    foreign = [name for name in foreign if not name.endswith("mask_token")]  # for masked tokens only
    if foreign:
        remedy = ""
        if any("gamma_" in name for name in foreign):
            remedy = ". It was made with layer scale: give --init_values 1.0, the scales themselves are in the file"
        elif any("lora" in name for name in foreign):
            remedy = ". Merge the adapters into the weights first"
        raise ModelError(
            f"another architecture: its encoder has {', '.join(foreign[:3])}"
            f"{f' and {len(foreign) - 3} more' if len(foreign) > 3 else ''}, the model has not; without them it would "
            f"compute something else{remedy}"
        )
    packed = [n for n, v in state.items() if n in own and not (v.is_floating_point() and v.element_size() > 1)]
    if packed:
        raise ModelError(f"{packed[0]} is of {state[packed[0]].dtype}: quantised weights have to be unpacked first")


def _fit_positions(parts: Sequence[Any], trained: Grid | None) -> str:
    """Give the parts the position table of the trained grid, resampled if theirs differs; says what was done."""
    own = parts[0].grid
    if trained is None:
        return f"of {_times(own)} tokens: the file does not say for what clips it was trained"
    if trained == own:
        return f"of {_times(own)} tokens, as trained"
    for part in parts:
        part.resample_positions(trained)
    return f"resampled from {_times(trained)} to {_times(own)} tokens"


def _times(grid: Grid) -> str:
    return "x".join(map(str, grid))
