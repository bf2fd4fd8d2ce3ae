"""One call from a file to a model: `load("checkpoint-99.pth")`, with all that the file says of the clips it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.catalogue import CATALOGUE
from engine.checkpointing.read_weights import StartConfig, Weights, read_weights
from engine.distributed.world import World
from engine.errors import CheckpointError
from engine.weights import read_weights_once
from models.classifier import Classifier
from models.registry import ModelError, create_model
from models.targets import IMAGENET_MEAN, IMAGENET_STD
from models.vit import VideoTransformer
from models.weights.load import encoder_state, head_pools, load_encoder, native_state, weights_hash
from models.weights.rebuild import encoder_options

POSITIONS = ("rows", "resampled")
_HEAD = ("head.", "fc_norm.")


@dataclass(frozen=True)
class ClipFacts:
    """The clips that a model takes, as its file says; None where it does not.

    Attributes:
        num_frames, input_size: of a clip, in frames and pixels.
        sampling: "dense" or "uniform"; of a pre-training, "dense".
        sampling_rate, fps: distance of a dense clip's frames, in frames or by time.
        short_side_size: to which videos are resized before the crop.
        mean, std: of RGB in 0..1, by which pixels are normalised.
    """

    num_frames: int
    input_size: int
    sampling: str
    sampling_rate: int | None
    fps: float | None
    short_side_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Loaded:
    """A model that is ready for use: in evaluation mode, without gradients.

    Attributes:
        model: a classifier; where the file has none, its encoder with a head that means nothing.
        classifies: whether the head is the file's own.
        class_names: in label order; () if the file does not name them.
        has_final_norm: whether the encoder's final norm is the file's own; else the model has none.
        clip: what the model takes.
        digest: hash of what decides tokens: the encoder's tensors, its number of heads and its position tables.
        args: options of the run that made the file.
        assumed_clip: whether neither the file nor the caller said how long and large clips are.
    """

    model: Classifier
    classifies: bool
    class_names: tuple[str, ...]
    has_final_norm: bool
    clip: ClipFacts
    digest: str
    args: Mapping[str, Any]
    licence: str = ""
    assumed_clip: bool = False

    def tokens(self, clip: torch.Tensor, *, final_norm: bool = True) -> torch.Tensor:
        """(B, 3, T, H, W), normalised, or (B, 3, 1, H, W) images, which are repeated -> (B, N, D) of the last block.

        Args:
            final_norm: after the encoder's final norm.

        Raises:
            ModelError: the encoder has no final norm.
        """
        model = self.model
        if final_norm and not self.has_final_norm:
            raise ModelError("it has no final norm, as a fine-tuned classifier that pools: give --no-final_norm")
        if clip.shape[2] == 1:
            clip = clip.expand(-1, -1, self.clip.num_frames, -1, -1)
        if final_norm or isinstance(model.norm, nn.Identity):
            return VideoTransformer.forward(model, clip)
        norm, model.norm = model.norm, nn.Identity()
        try:
            return VideoTransformer.forward(model, clip)
        finally:
            model.norm = norm

    def pooled(self, clip: torch.Tensor, *, final_norm: bool = True) -> torch.Tensor:
        """The mean over all tokens (B, D), float32; see `tokens`."""
        return self.tokens(clip, final_norm=final_norm).float().mean(dim=1)


def load(
    path: str | Path,
    start: StartConfig | None = None,
    *,
    num_frames: int | None = None,
    input_size: int | None = None,
    positions: str = "rows",
    world: World | None = None,
) -> Loaded:
    """The model of a file, folder or address of any layout that `read_weights` knows.

    Args:
        start: key of the weights, clip that they were trained on, trust; default: what the file says.
        num_frames, input_size: of the clips, in place of those that the file was trained with.
        positions: of clips with fewer frames: the first "rows" of the trained position table, or all of it "resampled".
        world: several ranks, of which one reads the file; each has to call this.

    Raises:
        CheckpointError: it cannot be read; what is in it is no model of this project. The message names the file.
    """
    start = start or StartConfig()
    how: Any = {"model_key": start.model_key, "trust": start.trust_checkpoint}
    weights = read_weights(path, **how) if world is None else read_weights_once(path, world, **how)
    try:
        return _from_weights(weights, start, num_frames=num_frames, input_size=input_size, positions=positions)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _from_weights(
    weights: Weights, start: StartConfig, *, num_frames: int | None, input_size: int | None, positions: str
) -> Loaded:
    args = start.trained_with(weights.args)
    state = native_state(weights.tensors)
    given = {"num_frames": num_frames, "input_size": input_size}
    name, options = encoder_options(state, args | {key: value for key, value in given.items() if value is not None})
    pools = head_pools(state)
    if pools is not None:
        options |= {"num_classes": len(encoder_state(state)["head.weight"]), "use_mean_pooling": pools}
    else:
        options |= {"num_classes": 1, "use_mean_pooling": False}
    model: Any = create_model(name, **options)
    report = load_encoder(model, weights.tensors, trained_with=args, with_head=pools is not None)
    if report.untrained:
        raise ModelError(f"{len(report.untrained)} tensors of the encoder are missing: {report.untrained[0]}, ...")
    has_final_norm = "norm.weight" in report.matched
    if not has_final_norm:
        model.norm = nn.Identity()
    names = weights.class_names if report.has_head and len(weights.class_names) == options["num_classes"] else ()
    return made(
        model,
        args,
        positions=positions,
        classifies=report.has_head,
        class_names=tuple(names),
        has_final_norm=has_final_norm,
        licence=weights.licence,
        assumed_clip=any(value is None and args.get(key) is None for key, value in given.items()),
    )


def made(model: Classifier, args: Mapping[str, Any], *, positions: str = "rows", **facts: Any) -> Loaded:
    """A model as `Loaded`; of random weights `args` is empty.

    Args:
        positions: see `load`.
        facts: the rest of Loaded's attributes; default: those of an encoder.
    """
    trained, own = model.position_grid, model.grid
    if positions == "rows" and trained[1:] == own[1:] and trained[0] > own[0]:
        model.resample_positions(own)  # the table of the own grid is the first rows of the trained one
    model.eval().requires_grad_(False)
    known: Any = {"classifies": False, "class_names": (), "has_final_norm": True} | facts
    clip = _clip_facts(args, num_frames=model.clip_shape[1], input_size=model.clip_shape[-1])
    return Loaded(model, clip=clip, digest=encoder_digest(model), args=args, **known)


def _clip_facts(args: Mapping[str, Any], *, num_frames: int, input_size: int) -> ClipFacts:
    spec = CATALOGUE.get(str(args.get("data_set")))
    rate, fps, side = (args.get(name) for name in ("sampling_rate", "fps", "short_side_size"))
    return ClipFacts(
        num_frames=num_frames,
        input_size=input_size,
        sampling=str(args.get("sampling") or (spec.sampler if spec else "dense")),
        sampling_rate=rate if isinstance(rate, int) else spec.sampling_rate if spec and fps is None else None,
        fps=fps if isinstance(fps, float) else None,
        short_side_size=max(side if isinstance(side, int) else 0, input_size),
    )


def encoder_digest(model: Classifier) -> str:
    """Twelve hexadecimal digits for what decides a model's tokens: tensors, number of heads, position tables."""
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(_HEAD)}
    block: Any = model.blocks[0]
    geometry = (block.attn.num_heads, *model.clip_shape, *model.tubelet, *model.position_grid)
    return weights_hash({**state, "geometry": torch.tensor(geometry)})
