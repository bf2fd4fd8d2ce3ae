"""`create_model(name, **overrides)`: the project's model table.

It is not timm's: registering `vit_base_patch16_224` there would overwrite timm's own model of that name.
"""

import dataclasses
import re
from typing import Any, TypeVar

from torch import nn

from sigma_video.options import OptionError

from .classifier import Classifier, HeadConfig
from .decoder import Decoder, DecoderConfig
from .objectives import OBJECTIVES, ObjectiveConfig
from .projection import projection_mlp
from .sigma import Sigma
from .sinkhorn.balance import AllReduce
from .targets import TARGETS, PixelTarget, TargetConfig
from .vit import VARIANTS, EncoderConfig, Variant, VideoTransformer

C = TypeVar("C")
_NAME = re.compile(r"(?P<kind>pretrain_(?:videomae|sigma)|vit)_(?P<variant>[a-z]+)_patch(?P<patch>\d+)_(?P<size>\d+)")


class ModelError(ValueError):
    """A name or an option that no model can be made of; the message says the remedy."""


def create_model(name: str, *, all_reduce: AllReduce | None = None, **overrides: Any) -> nn.Module:
    """A pre-training model or a classifier by name.

    Args:
        name: `pretrain_videomae_{variant}_patch{p}_{size}` or `vit_{variant}_patch{p}_{size}` with a variant of
            `models.vit.VARIANTS`, such as `vit_base_patch16_224`.
        all_reduce: sums a tensor over ranks, for the balancing of a pre-training model.
        overrides: fields of `EncoderConfig` and, for pre-training, of `DecoderConfig`, `TargetConfig` and
            `ObjectiveConfig` (the encoder's sizes as `encoder_embed_dim`, `encoder_depth`, `encoder_num_heads`); for a
            classifier, of `HeadConfig`. None stands for what the name says.

    Raises:
        ModelError: unknown name, or options that do not fit together.
        TypeError: an override that no field has.
    """
    match = _NAME.fullmatch(name.lower())
    if match is None or match["variant"] not in VARIANTS:
        raise ModelError(
            f"--model {name}: unknown. Names are pretrain_videomae_VARIANT_patchP_SIZE (pre-training) and "
            f"vit_VARIANT_patchP_SIZE (classification), VARIANT one of {', '.join(VARIANTS)}; "
            f"for example pretrain_videomae_base_patch16_224"
        )
    sizes = VARIANTS[match["variant"]]
    given = {name: value for name, value in overrides.items() if value is not None}
    options = {"img_size": int(match["size"]), "patch_size": int(match["patch"]), **given}
    try:
        if match["kind"] == "vit":
            return _build_classifier(sizes, options)
        options = {name.removeprefix("encoder_"): value for name, value in options.items()}
        return _build_pretraining_model(sizes, options, all_reduce)
    except OptionError as error:
        raise ModelError(str(error)) from error


def _build_pretraining_model(sizes: Variant, options: dict[str, Any], all_reduce: AllReduce | None) -> Sigma:
    """SIGMA, or VideoMAE with pixel targets. An image teacher's features are given to the model's `forward`.

    With `target_type="mlp", loss_func="L2"` both networks can agree on a constant, and do: the collapsing baseline of
    the paper (unless `freeze_projection` is called).
    """
    encoder = _take(EncoderConfig, options, embed_dim=sizes.embed_dim, depth=sizes.depth, num_heads=sizes.num_heads)
    decoder = _take(
        DecoderConfig,
        options,
        decoder_embed_dim=sizes.decoder_embed_dim,
        decoder_num_heads=sizes.decoder_num_heads,
    )
    targets, objective = _take(TargetConfig, options), _take(ObjectiveConfig, options)
    _refuse_unknown(options)

    video_encoder = VideoTransformer(encoder)
    kind, tubelet = TARGETS[targets.target_type], video_encoder.tubelet
    pixel_dim = 3 * tubelet[0] * tubelet[1] * tubelet[2]
    feature_dim = pixel_dim if kind.from_pixels else video_encoder.embed_dim
    embedding_dim = targets.decoder_num_classes or kind.embedding_dim or feature_dim
    if kind.from_pixels and not kind.projects and embedding_dim != pixel_dim:
        raise ModelError(f"--target_type pixel predicts {pixel_dim} values a tubelet, not {embedding_dim}")
    return Sigma(
        encoder=video_encoder,
        decoder=Decoder(decoder, grid=video_encoder.grid, out_dim=embedding_dim, use_checkpoint=encoder.use_checkpoint),
        # The MLP is defined on standardised tubelets; only for pixel regression are raw values a choice.
        targets=PixelTarget(tubelet, normalize=targets.normalize_target or kind.projects) if kind.from_pixels else None,
        projection=(
            projection_mlp(pixel_dim, embedding_dim, targets.projection_dims) if kind.projects else nn.Identity()
        ),
        objective=OBJECTIVES[objective.name_for(targets.target_type)].from_config(objective, all_reduce),
        num_prototypes=objective.num_prototypes,
        decoder_mask_ratio=decoder.decoder_mask_ratio,
    )


def _build_classifier(sizes: Variant, options: dict[str, Any]) -> Classifier:
    """Encoder and linear head."""
    encoder = _take(EncoderConfig, options, embed_dim=sizes.embed_dim, depth=sizes.depth, num_heads=sizes.num_heads)
    head = _take(HeadConfig, options)
    _refuse_unknown(options)
    if head.num_classes is None:
        raise ModelError("a classifier needs its number of classes: give num_classes (--nb_classes)")
    return Classifier(encoder, head)


def _take(cls: type[C], options: dict[str, Any], **defaults: Any) -> C:
    """The fields of a configuration, taken out of the options; what they do not name has these defaults."""
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given = {name: options.pop(name) for name in names & options.keys()}
    return cls(**{**defaults, **{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}})


def _refuse_unknown(options: dict[str, Any]) -> None:
    if options:
        raise TypeError(f"create_model() got unknown options: {', '.join(sorted(options))}")
