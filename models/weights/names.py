"""Tensors of other projects' VideoMAE by native names.

Native names are those of the released SIGMA and VideoMAE files: a pre-training model's start with `encoder.`,
`decoder.` and so on, a classifier's have no such prefix. The same network is published by other names too: behind
prefixes of wrappers (DDP, FSDP, torch.compile, Lightning, hub classes), as the backbone of mmaction2, with attention
weights that are fused or apart, and by the names of transformers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..positions import sincos_table
from ..registry import ModelError
from .huggingface import dropped_names, from_huggingface, is_huggingface, zero_biases

State = dict[str, torch.Tensor]

# Components that wrappers put into names, at their start or inside: DDP, torch.compile, Lightning's DeepSpeed, FSDP,
# activation checkpointing, PEFT.
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module|modules_to_save\.default)"
    r"\.)+"
)
_EMBEDDING = re.compile(
    r"(?P<root>(?:.+\.)?)(?:patch_embed\.proj|patch_embed\.projection|(?P<theirs>embeddings\.patch_embeddings\.projection))"
    r"\.weight"
)
# Second networks in a file: averages of the weights and teachers.
_COPIES = re.compile(r"(^|[._])(ema|teacher|momentum|target|averaged|average|shadow|swa|old|k|key)([._]|$)")
_DECODERS = ("decoder.", "mask_token", "encoder_to_decoder.")
_HEADS = (
    "head",
    "cls_head.fc_cls",
    "cls_head.fc",
    "fc_cls",
    "classifier",
    "classification_head",
    "head.fc",
    "head.1",
    "fc",
)
_OF_A_CLASSIFIER = (*(f"{name}." for name in _HEADS), "fc_norm.", "norm.")  # beside its backbone
_OF_PRETRAINING = (*_DECODERS, "prototypes", "head.", "pos_embed")  # beside its encoder
_RENAMED = [  # in order; mmcv's FFN and embedding, mmpretrain's norms, timm's layer scale, lucidrains' attention
    (re.compile(r"(^|\.)patch_embed\.projection\."), r"\1patch_embed.proj."),
    (re.compile(r"^((?:encoder\.|decoder\.)?)layers\.(\d+)\."), r"\1blocks.\2."),
    (re.compile(r"(blocks\.\d+\.)(?:attention|self_attn)\."), r"\1attn."),
    (re.compile(r"(blocks\.\d+\.)(?:mlp|ffn)\.(?:layers\.0\.0|0)\."), r"\1mlp.fc1."),
    (re.compile(r"(blocks\.\d+\.)(?:mlp|ffn)\.(?:layers\.1|[23])\."), r"\1mlp.fc2."),
    (re.compile(r"(blocks\.\d+\.)ln_?([12])\."), r"\1norm\2."),
    (re.compile(r"(blocks\.\d+\.)ls([12])\.gamma$"), r"\1gamma_\2"),
    (re.compile(r"(blocks\.\d+\.attn\.)(?:out_proj|to_out\.0)\."), r"\1proj."),
    (re.compile(r"(blocks\.\d+\.attn\.)to_qkv\."), r"\1qkv."),
    (re.compile(r"(blocks\.\d+\.attn\.)to_([qkv])\."), r"\1\2."),
    (re.compile(r"(blocks\.\d+\.attn\.)in_proj_(weight|bias)$"), r"\1qkv.\2"),
]
_THIRD = re.compile(r"(?P<attn>.*blocks\.\d+\.attn\.)(?P<part>[qkv]|[qkv]_proj|query|key|value)\.(?P<kind>weight|bias)")
_KEY_BIAS = re.compile(r"blocks\.\d+\.attn\.k_bias$")  # cancels in the softmax
_POSITIONS = re.compile(r"(encoder\.|decoder\.)?pos_embed")


@dataclass(frozen=True)
class Recognized:
    """A file's tensors by native names, and how it names them."""

    state: State
    layout: str  # whose names they are, and behind which prefix
    left_out: list[str]  # constants, biases that cancel, and what is no part of the network


def recognize(tensors: Mapping[str, torch.Tensor]) -> Recognized:
    """Tensors of any known layout by their native names.

    What has no native name keeps its own, so that the loader reports it. Without a tubelet embedding among the names
    only wrappers are taken off.

    Raises:
        ModelError: two tensors of one name, several networks, or a learned position table.
    """
    state = _unwrapped(tensors)
    roots = sorted({match["root"] for name in state if (match := _EMBEDDING.fullmatch(name))})
    if not roots:
        return Recognized(from_huggingface(state) if is_huggingface(state) else state, "unknown names", [])
    root = _network(roots)
    inner, beside = _without_root(state, root)
    if is_huggingface(inner):
        for name in [name for name in inner if name.endswith("position_embeddings")]:
            _check_positions(name, inner[name])
        named, dropped, whose = from_huggingface(inner), dropped_names(inner), "transformers' names"
        anchor = next(name for name in inner if _EMBEDDING.fullmatch(name))
    else:
        named, dropped = _native(inner)
        whose = "native names" if named.keys() <= inner.keys() else "other names"
        anchor = next(name for name in named if _EMBEDDING.fullmatch(name))
    prefix = _prefix(tensors, root, anchor)
    return Recognized(named, whose + (f" behind {prefix}" if prefix else ""), [*dropped, *beside])


def _unwrapped(tensors: Mapping[str, torch.Tensor]) -> State:
    state: State = {}
    for name, value in tensors.items():
        if ".original_module." in name:  # PEFT's copy of a part before training; the trained one is beside it
            continue
        bare = _WRAPPERS.sub("", name)
        if bare in state:
            wrapper = next(m[0] for other in (name, *tensors) if (m := _WRAPPERS.search(other)))
            raise ModelError(f"it holds {bare} twice, with and without {wrapper}")
        state[bare] = value
    return state


def _network(roots: list[str]) -> str:
    """The prefix of the network to take: with averages or a teacher beside it, the one that is trained."""
    trained = [root for root in roots if not _COPIES.search(root)] if len(roots) > 1 else roots
    if len(trained) != 1:
        names = ", ".join(root.removesuffix(".") or "without a prefix" for root in roots)
        raise ModelError(f"it holds {len(roots)} networks ({names}): choose one with --model_key PREFIX")
    return trained[0]


def _bare(name: str, root: str) -> str:
    """A name beside the encoder without the part of the encoder's prefix that it shares."""
    parts = root.split(".")[:-2]  # of a root such as `model.backbone.`: `model`
    for length in range(len(parts), 0, -1):
        if name.startswith(shared := ".".join(parts[:length]) + "."):
            return name.removeprefix(shared)
    return name


def _without_root(state: State, root: str) -> tuple[State, list[str]]:
    """The network's tensors, its encoder without a prefix or, in a pre-training model, with `encoder.`; and the rest.

    The rest is what lies beside the network: losses, a second network.
    """
    beside = {name: _bare(name, root) for name in state if not name.startswith(root)}
    is_pretraining = any(name.startswith(_DECODERS) for name in beside.values())
    has_head = any(f"{head}.weight" in beside.values() for head in _HEADS)
    own = "encoder." if root.endswith("encoder.") and (is_pretraining or not has_head) else ""
    parts = _OF_PRETRAINING if own else _OF_A_CLASSIFIER
    if root and any(match["theirs"] for name in state if (match := _EMBEDDING.fullmatch(name))):
        own, parts = "videomae.", (*_OF_A_CLASSIFIER, *_OF_PRETRAINING)
    network = {own + name.removeprefix(root): value for name, value in state.items() if name.startswith(root)}
    network |= {bare: state[name] for name, bare in beside.items() if bare.startswith(parts)}
    return network, [name for name, bare in beside.items() if not bare.startswith(parts)]


def _prefix(tensors: Mapping[str, torch.Tensor], root: str, anchor: str) -> str:
    """What stands before the native names in the file."""
    written = next(name for name in tensors if (bare := _WRAPPERS.sub("", name)).startswith(root) and _is_anchor(bare))
    for native in (anchor, anchor.replace("patch_embed.proj.", "patch_embed.projection.")):
        if written.endswith(native):
            return written.removesuffix(native)
    return written[: written.rindex("patch_embed")]


def _is_anchor(name: str) -> bool:
    return _EMBEDDING.fullmatch(name) is not None


def _native(state: State) -> tuple[State, list[str]]:
    """Names of other projects by native ones, and what is left out."""
    named: State = {}
    left_out = []
    for name, value in state.items():
        ours = name
        for pattern, replacement in _RENAMED:
            ours = pattern.sub(replacement, ours)
        if _KEY_BIAS.search(ours):
            left_out.append(name)
        elif _POSITIONS.fullmatch(ours):
            _check_positions(name, value)
            left_out.append(name)
        elif ours in named:
            raise ModelError(f"two tensors for {ours}, one of them {name}: the file is ambiguous, remove one of them")
        else:
            named[ours] = value
    named = _with_head(_with_fused_attention(named))
    return named | zero_biases(named), left_out


def _check_positions(name: str, table: torch.Tensor) -> None:
    """Raise ModelError for a position table that is not the fixed one of VideoMAE."""
    if table.ndim in (2, 3) and table.is_floating_point():
        num_tokens, width = table.shape[-2:]
        rounding = 2 * torch.finfo(table.dtype).eps + 1e-4
        fixed = sincos_table(num_tokens, width).reshape(num_tokens, width)
        if (table.reshape(-1, width).float() - fixed).abs().max() <= rounding:
            return
    raise ModelError(
        f"{name} {tuple(table.shape)} is a position table of its own, learned or of another kind: models here have the "
        "fixed one of VideoMAE, and would compute something else with these weights"
    )


def _with_fused_attention(state: State) -> State:
    """Queries, keys and values in one weight; of a fused bias those of queries and values."""
    fused: State = {}
    thirds: dict[str, State] = {}
    for name, value in state.items():
        if match := _THIRD.fullmatch(name):
            thirds.setdefault(match["attn"] + match["kind"], {})[match["part"][0]] = value
        elif name.endswith(".attn.qkv.bias"):
            thirds.setdefault(name.removesuffix("qkv.bias") + "bias", {}).update(
                zip("qkv", value.chunk(3), strict=True)
            )
        else:
            fused[name] = value
    for name, parts in thirds.items():
        attn, kind = name[: name.rindex(".") + 1], name.rpartition(".")[2]
        if not {"q", "v"} <= parts.keys() or (kind == "weight" and "k" not in parts):
            raise ModelError(f"{attn}: of queries, keys and values only {', '.join(parts)} have a {kind}")
        if kind == "weight":
            fused[f"{attn}qkv.weight"] = torch.cat([parts[part] for part in "qkv"])
        else:
            fused |= {f"{attn}q_bias": parts["q"].clone(), f"{attn}v_bias": parts["v"].clone()}
    return fused


def _with_head(state: State) -> State:
    """The head of a classifier by its native name; one without a bias gets one of zeros."""
    patches = state.get("patch_embed.proj.weight")
    if patches is None:
        return state
    for head in _HEADS:
        weight = state.get(f"{head}.weight")
        if weight is not None and weight.ndim == 2 and weight.shape[1] == len(patches):
            bias = state.get(f"{head}.bias", weight.new_zeros(len(weight)))
            rest = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
            return {**rest, "head.weight": weight, "head.bias": bias}
    return state
