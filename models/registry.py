"""`create_model(name, **overrides)`: the project's model table.

It is not timm's: registering `vit_base_patch16_224` there would overwrite timm's own model of that name.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from torch import nn

from sigma_video.command_line import did_you_mean
from sigma_video.options import OptionError

from .classifier import Classifier, HeadConfig
from .decoder import Decoder, DecoderConfig
from .objectives import OBJECTIVES, ObjectiveConfig
from .projection import projection_mlp
from .sigma import Sigma
from .sinkhorn.balance import AllReduce
from .targets import TARGETS, TargetConfig
from .vit import VARIANTS, EncoderConfig, Variant, VideoTransformer

C = TypeVar("C")
MODEL_HELP = f"kind, size, patch and clip size of the model; sizes are {', '.join(VARIANTS)}"
_NAME = re.compile(r"(?P<kind>pretrain_(?:videomae|sigma)|vit)_(?P<variant>[a-z]+)_patch(?P<patch>\d+)_(?P<size>\d+)")

# A pre-training model has these twice: its decoder's are `decoder_...`.
_ENCODER_SIZES = {name: f"encoder_{name}" for name in ("embed_dim", "depth", "num_heads")}
# Fields of TargetConfig without effect on the model itself.
_OF_A_RUN = {
    *("distillation_teacher", "teacher", "teacher_weights", "center_teacher"),
    *("mlp_preloading", "freeze_projection_epochs"),
}


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
            classifier, of `HeadConfig`. None stands for what the name says. Without a `loss_func` pixel targets are
            compared by L2, all others by SWAV, as on the command line.

    Raises:
        ModelError: unknown name, or options that do not fit together.
        TypeError: an override that no field has.
    """
    named = _parse(name)
    given = {key: value for key, value in overrides.items() if value is not None}
    options = {"img_size": named.img_size, **given}
    try:
        encoder = _take(EncoderConfig, options, names={} if named.is_classifier else _ENCODER_SIZES)
        if named.is_classifier:
            head = _take(HeadConfig, options)
            _refuse_unknown(options)
            return build_classifier(name, encoder, head)
        parts = _take(DecoderConfig, options), _take(TargetConfig, options), _take(ObjectiveConfig, options)
        _refuse_unknown(options)
        return build_pretraining_model(name, encoder, *parts, all_reduce=all_reduce)
    except OptionError as error:
        raise ModelError(str(error)) from error


def build_pretraining_model(
    name: str,
    encoder: EncoderConfig,
    decoder: DecoderConfig,
    targets: TargetConfig,
    objective: ObjectiveConfig,
    *,
    all_reduce: AllReduce | None = None,
) -> Sigma:
    """SIGMA, or VideoMAE with pixel targets. An image teacher's features are given to the model's `forward`.

    With `target_type="mlp", loss_func="L2"` both networks can agree on a constant, and do: the collapsing baseline of
    the paper (unless `freeze_projection` is called).

    Raises:
        ModelError, OptionError: no such pre-training model, or options that do not fit together.
    """
    named = _parse(name, classifies=False)
    video_encoder = VideoTransformer(named.complete(encoder))
    decoder = complete_decoder(name, decoder)
    kind = TARGETS[targets.target_type]
    # The MLP is defined on standardised tubelets; only where features are compared directly are raw values a choice.
    normalize = targets.normalize_target or kind.projects
    target_network = kind.features(video_encoder.tubelet, normalize=normalize) if kind.features else None
    feature_dim = target_network.dim if target_network else video_encoder.embed_dim
    embedding_dim = targets.decoder_num_classes or kind.embedding_dim or feature_dim
    if target_network and not kind.projects and embedding_dim != feature_dim:
        raise ModelError(
            f"--target_type {targets.target_type} predicts {feature_dim} values a tubelet: leave --decoder_num_classes "
            f"{embedding_dim} out"
        )
    return Sigma(
        encoder=video_encoder,
        decoder=Decoder(decoder, grid=video_encoder.grid, out_dim=embedding_dim, use_checkpoint=encoder.use_checkpoint),
        targets=target_network,
        projection=(
            projection_mlp(feature_dim, embedding_dim, targets.projection_dims) if kind.projects else nn.Identity()
        ),
        objective=OBJECTIVES[objective.name_for(targets.target_type)].from_config(objective, all_reduce),
        num_prototypes=objective.num_prototypes,
        decoder_mask_ratio=decoder.decoder_mask_ratio,
    )


def build_classifier(name: str, encoder: EncoderConfig, head: HeadConfig) -> Classifier:
    """Encoder and linear head.

    Raises:
        ModelError, OptionError: no such classifier, or options that do not fit together.
    """
    named = _parse(name, classifies=True)
    if head.num_classes is None:
        raise ModelError("a classifier needs its number of classes: give num_classes (--nb_classes)")
    return Classifier(named.complete(encoder), head)


def input_size_for(name: str, given: int | None, *, classifies: bool) -> int:
    """The height and width of clips: what the model's name says, which `--input_size` must not contradict.

    Raises:
        ModelError: unknown name, or one of the other kind.
        OptionError: `given` is another size, or the size is not a multiple of the patch.
    """
    named = _parse(name, classifies=classifies)
    size, patch = named.img_size, named.patch_size
    if not size or not patch or size % patch:
        raise OptionError(f"--model {name}: --input_size {size} is not a multiple of patch_size {patch}")
    if given not in (None, size):
        fitting = re.sub(r"\d+$", str(given), name)
        raise OptionError(
            f"--model {name} takes clips of {size} pixels, --input_size says {given}: leave it out, or choose --model "
            f"{fitting}"
        )
    return size


def complete_encoder(name: str, encoder: EncoderConfig) -> EncoderConfig:
    """The encoder's options, with what the model's name says where they leave it open. Raises ModelError."""
    return _parse(name).complete(encoder)


def complete_decoder(name: str, decoder: DecoderConfig) -> DecoderConfig:
    """The decoder's options, with what goes with the model's name where they leave it open. Raises ModelError."""
    sizes = _parse(name).sizes
    return _fill(decoder, decoder_embed_dim=sizes.decoder_embed_dim, decoder_num_heads=sizes.decoder_num_heads)


@dataclass(frozen=True)
class _Named:
    """What the name of a model says."""

    is_classifier: bool
    sizes: Variant
    patch_size: int
    img_size: int

    def complete(self, encoder: EncoderConfig) -> EncoderConfig:
        """The options of an encoder, with what they leave open."""
        sizes = self.sizes
        return _fill(
            encoder,
            patch_size=self.patch_size,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
        )


def _usual_names() -> list[str]:
    kinds = ("pretrain_videomae", "pretrain_sigma", "vit")
    return [f"{kind}_{variant}_patch16_224" for kind in kinds for variant in VARIANTS]


def _parse(name: str, *, classifies: bool | None = None) -> _Named:
    """What a name says. Raises ModelError for an unknown one, and for one of the kind that is not asked for."""
    match = _NAME.fullmatch(name.lower())
    if match is None or match["variant"] not in VARIANTS:
        raise ModelError(
            f"--model {name}: unknown. Names are pretrain_videomae_VARIANT_patchP_SIZE (pre-training) and "
            f"vit_VARIANT_patchP_SIZE (classification), VARIANT one of {', '.join(VARIANTS)}; "
            f"for example pretrain_videomae_base_patch16_224.{did_you_mean(name, _usual_names())}"
        )
    is_classifier = match["kind"] == "vit"
    if is_classifier and classifies is False:
        raise ModelError(f"--model {name} is a classifier: pre-training models are called pretrain_videomae_...")
    if not is_classifier and classifies:
        raise ModelError(f"--model {name} is for pre-training: classifiers are called vit_...")
    return _Named(is_classifier, VARIANTS[match["variant"]], int(match["patch"]), int(match["size"]))


def _fill(config: C, **values: Any) -> C:
    """A configuration in which these fields have these values where they were None."""
    open_fields = {name: value for name, value in values.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **open_fields)  # type: ignore[type-var]


def _take(cls: type[C], options: dict[str, Any], *, names: Mapping[str, str] = MappingProxyType({})) -> C:
    """The fields of a configuration, taken out of the options; `names`: of fields that have another name there."""
    given = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = names.get(field.name, field.name)
        if name in options and name not in _OF_A_RUN:
            value = options.pop(name)
            given[field.name] = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
    return cls(**given)


def _refuse_unknown(options: dict[str, Any]) -> None:
    if options:
        raise TypeError(f"create_model() got unknown options: {', '.join(sorted(options))}")
