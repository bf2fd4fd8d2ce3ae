"""Rebuilds the model of a native state dict from the tensors' shapes and the options of its run."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..classifier import Classifier
from ..objectives import OBJECTIVES
from ..registry import ModelError, create_model
from ..sigma import Sigma
from ..targets import TARGETS
from ..vit import VARIANTS, Variant
from .load import trained_grid, true_heads

_VARIANT = re.compile(r"(?:pretrain_videomae|pretrain_sigma|vit)_([a-z]+)_patch")
State = Mapping[str, torch.Tensor]


def rebuild(state: State, args: Mapping[str, Any]) -> Classifier | Sigma:
    """Make the model of native tensors and load them strictly.

    For inference and export: in evaluation mode, without dropout and stochastic depth.

    Args:
        state: of a classifier or a pre-training model, float types; the model's are float32.
        args: options of the run that made them, as far as known. The tensors do not tell `num_frames` (default 16) and
            `input_size` (224) nor, for widths not in `models.vit.VARIANTS`, `num_attention_heads` and
            `decoder_num_attention_heads`; `target_type`, `normalize_target`, `sinkhorn_eps`, `sinkhorn_iterations` and
            `position_grid` are used where they matter.

    Raises:
        ModelError: an encoder alone, tensors missing or left over, or sizes that no model here has.
    """
    prefix = "encoder." if any(name.startswith("encoder.") for name in state) else ""
    _check_complete(state, prefix)
    patches = _patches(state, prefix)
    build = _build_pretraining if prefix else _build_classifier
    model = build(state, args, tubelet_size=patches.shape[2], patch_size=patches.shape[4])
    _load(model, state)
    encoder = model.encoder if isinstance(model, Sigma) else model
    grid = trained_grid(args, encoder.tubelet)
    if grid is not None and grid != encoder.grid:
        for part in (model.encoder, model.decoder) if isinstance(model, Sigma) else (model,):
            part.resample_positions(grid)
    return model.eval()


def encoder_options(state: State, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of `create_model` for a classifier with the encoder of native tensors, whatever they are of.

    Args:
        state, args: see `rebuild`; an encoder alone will do.

    Raises:
        ModelError: no encoder among the tensors, or sizes that no model here has.
    """
    prefix = "encoder." if any(name.startswith("encoder.") for name in state) else ""
    _check_encoder(state, prefix)
    patches = _patches(state, prefix)
    options = {"tubelet_size": patches.shape[2], "mlp_ratio": _mlp_ratio(state, prefix)}
    sizes = _encoder_sizes(state, prefix, args)
    return _name("vit", args, patches.shape[4]), {**options, **sizes, **_clip_options(state, prefix, args)}


def _patches(state: State, prefix: str) -> torch.Tensor:
    """The weight of the tubelet embedding."""
    patches = state[f"{prefix}patch_embed.proj.weight"]
    if patches.ndim != 5 or patches.shape[1] != 3 or patches.shape[3] != patches.shape[4]:
        raise ModelError(
            f"patch_embed.proj.weight {tuple(patches.shape)}: tubelets here are (width, 3, frames, patch, patch)"
        )
    return patches


def _build_pretraining(state: State, args: Mapping[str, Any], *, tubelet_size: int, patch_size: int) -> Sigma:
    if (ratio := _mlp_ratio(state, "encoder.")) != 4:
        raise ModelError(f"the encoder's MLPs are {ratio:g} times as wide as it: pre-training models have 4")
    sizes = {f"encoder_{option}": value for option, value in _encoder_sizes(state, "encoder.", args).items()}
    model = create_model(
        _name("pretrain_videomae", args, patch_size),
        tubelet_size=tubelet_size,
        **sizes,
        **_clip_options(state, "encoder.", args),
        **_pretraining_options(state, args),
    )
    assert isinstance(model, Sigma)
    return model


def _build_classifier(state: State, args: Mapping[str, Any], *, tubelet_size: int, patch_size: int) -> Classifier:
    model = create_model(
        _name("vit", args, patch_size),
        tubelet_size=tubelet_size,
        mlp_ratio=_mlp_ratio(state, ""),
        num_classes=len(state["head.weight"]),
        use_mean_pooling="fc_norm.weight" in state,
        **_encoder_sizes(state, "", args),
        **_clip_options(state, "", args),
    )
    assert isinstance(model, Classifier)
    return model


def _name(kind: str, args: Mapping[str, Any], patch_size: int) -> str:
    """The variant in it has no effect: all sizes are given."""
    return f"{kind}_base_patch{patch_size}_{_number(args, 'input_size', 224)}"


def _encoder_sizes(state: State, prefix: str, args: Mapping[str, Any]) -> dict[str, Any]:
    width = state[f"{prefix}patch_embed.proj.weight"].shape[0]
    sizes = _sizes(width, args)
    return {
        "embed_dim": width,
        "depth": _depth(state, f"{prefix}blocks."),
        "num_heads": _heads(width, sizes.num_heads if sizes else 0, args, "num_attention_heads"),
    }


def _clip_options(state: State, prefix: str, args: Mapping[str, Any]) -> dict[str, Any]:
    has_scale = f"{prefix}blocks.0.gamma_1" in state
    # The layer scales themselves are loaded.
    return {"num_frames": _number(args, "num_frames", 16), "init_values": 1.0 if has_scale else 0.0}


def _mlp_ratio(state: State, prefix: str) -> float:
    return len(state[f"{prefix}blocks.0.mlp.fc1.weight"]) / len(state[f"{prefix}patch_embed.proj.weight"])


def describe(state: State) -> str:
    """What native tensors are: classifier, pre-training model, or encoder alone.

    Raises:
        ModelError: none of these.
    """
    if not any(name.startswith("encoder.") for name in state):
        if "head.weight" in state:
            pooling = "mean pooling" if "fc_norm.weight" in state else "first token"
            return f"classifier, {len(state['head.weight'])} classes, {pooling}"
        return _encoder_alone(state, "")
    if "decoder.head.weight" not in state:
        return _encoder_alone(state, "encoder.")
    if "prototypes" in state:
        return f"pre-training model, {len(state['prototypes'])} prototypes (SIGMA)"
    return "pre-training model, regression (VideoMAE)"


def _encoder_alone(state: State, prefix: str) -> str:
    _check_encoder(state, prefix)
    return "encoder alone"


def _check_encoder(state: State, prefix: str) -> None:
    if f"{prefix}patch_embed.proj.weight" not in state or f"{prefix}blocks.0.mlp.fc1.weight" not in state:
        first = ", ".join(list(state)[:3])
        raise ModelError(f"not a model of this project: no patch_embed and blocks among its tensors ({first}, ...)")


def _check_complete(state: State, prefix: str) -> None:
    """Raise ModelError where the tensors that decide what to make are not there."""
    _check_encoder(state, prefix)
    wanted = ("decoder.head.weight", "encoder_to_decoder.weight", "mask_token") if prefix else ("head.weight",)
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ModelError(
            f"an encoder alone ({', '.join(missing)} missing): no whole model can be made of it. Fine-tune it first "
            "(--finetune FILE), or convert to sigma, safetensors or deepspeed-consolidated, which can hold any tensors"
        )


def _depth(state: State, prefix: str) -> int:
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def _number(args: Mapping[str, Any], name: str, default: int) -> int:
    """An option's value, or the default; equal numbers, such as height and width, count as one."""
    value = args.get(name)
    if isinstance(value, list | tuple) and value and all(item == value[0] for item in value):
        value = value[0]
    if value is not None and type(value) is not int:
        raise ModelError(f"{name} {value} in the file's options: one whole number is needed")
    return default if value is None else value


def _sizes(width: int, args: Mapping[str, Any]) -> Variant | None:
    """The named variant if it has this width, else the one that has; None if there is none."""
    named = _VARIANT.match(str(args.get("model", "")).lower())
    candidates: list[Variant] = [VARIANTS[named[1]]] if named and named[1] in VARIANTS else []
    return next((sizes for sizes in [*candidates, *VARIANTS.values()] if sizes.embed_dim == width), None)


def _heads(width: int, known: int, args: Mapping[str, Any], name: str) -> int:
    """Heads of a stack: as recorded in the options, else those of the variant with this width."""
    heads = true_heads(_number(args, name, 0), width) or known
    if not heads:
        known_widths = ", ".join(str(sizes.embed_dim) for sizes in VARIANTS.values())
        raise ModelError(
            f"width {width}: weights do not tell the number of heads, and it is no size of this project "
            f"({known_widths}); the file must say {name}"
        )
    return heads


def _pretraining_options(state: State, args: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `build_pretraining_model` for decoder, targets and objective."""
    narrow, predicted = state["mask_token"].shape[-1], len(state["decoder.head.weight"])
    sizes = _sizes(state["encoder.patch_embed.proj.weight"].shape[0], args)
    candidates = [sizes, *VARIANTS.values()] if sizes else list(VARIANTS.values())
    known = next((s.decoder_num_heads for s in candidates if s.decoder_embed_dim == narrow), 0)
    depth = _depth(state, "decoder.blocks.")
    options = {
        "decoder_embed_dim": narrow,
        "decoder_depth": depth,
        "decoder_num_heads": _heads(narrow, known, args, "decoder_num_attention_heads") if depth else 1,
        "decoder_num_classes": predicted,
        "target_type": _target_type(state, args),
        "loss_func": _loss(state, args),
        "projection_dims": _hidden_widths(state),
        "normalize_target": bool(args.get("normalize_target", args.get("normlize_target", True))),
    }
    if "prototypes" in state:
        options["num_prototypes"] = len(state["prototypes"])
    recorded = ("sinkhorn_eps", "sinkhorn_iterations", "sinkhorn_targets")
    return options | {name: args[name] for name in recorded if args.get(name)}


def _loss(state: State, args: Mapping[str, Any]) -> str:
    """What the options say, if it has prototypes where the file has them."""
    recorded, has_prototypes = str(args.get("loss_func")), "prototypes" in state
    if recorded in OBJECTIVES and OBJECTIVES[recorded].uses_prototypes == has_prototypes:
        return recorded
    return "SWAV" if has_prototypes else "L2"


def _target_type(state: State, args: Mapping[str, Any]) -> str:
    """What the options say, if a projection network is where it has one; else what that network and the width say."""
    has_projection, recorded = "head.0.weight" in state, str(args.get("target_type"))
    is_pixel_wide = len(state["decoder.head.weight"]) == state["encoder.patch_embed.proj.weight"][0].numel()
    fits = recorded in TARGETS and TARGETS[recorded].projects == has_projection
    if fits and (recorded != "pixel" or is_pixel_wide):
        return recorded
    if has_projection:
        return "mlp"
    return "pixel" if is_pixel_wide and "prototypes" not in state else "dino_v1"


def _hidden_widths(state: State) -> list[int]:
    """Widths between the linear layers of the projection network, which are every other of its modules."""
    layers = sorted(int(m[1]) for name in state if (m := re.fullmatch(r"head\.(\d+)\.weight", name)))
    return [len(state[f"head.{layer}.weight"]) for layer in layers[:-1]]


def _load(model: nn.Module, state: State) -> None:
    """Load every tensor; raises ModelError with the first differences."""
    own = model.state_dict()
    differences = [f"{name} is missing" for name in own if name not in state]
    differences += [f"{name} is not in the model" for name in state if name not in own]
    differences += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if differences:
        raise ModelError(f"not a whole model of this project: {_first(differences)}")
    model.load_state_dict(state, strict=True)


def _first(differences: Iterable[str]) -> str:
    rows = list(differences)
    return "; ".join(rows[:3]) + (f"; and {len(rows) - 3} more" if len(rows) > 3 else "")
