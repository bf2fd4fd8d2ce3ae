"""Weights to and from the tensor names of Hugging Face's VideoMAE (transformers).

Three of its classes are covered: VideoMAEForVideoClassification, VideoMAEForPreTraining (pixels only) and
VideoMAEModel, the encoder alone. The computation differs in one constant: transformers builds `fc_norm` and
`decoder.norm` with epsilon 1e-5 whatever its config says, where the released models have 1e-6. An epsilon is no weight,
so no file can hold it. The outputs of these norms differ by the factor sqrt((v + 1e-6) / (v + 1e-5)), 4.5e-6 / v
relative for a variance v of their input, until `model.fc_norm.eps = 1e-6` is set. No rescaling of weights compensates
for it: the fixed position table, which is added to the residual stream, cannot be rescaled with them.
"""

import re
from collections.abc import Iterable, Mapping

import torch

from ..registry import ModelError

CLASSIFIER, PRETRAINING, ENCODER = "VideoMAEForVideoClassification", "VideoMAEForPreTraining", "VideoMAEModel"

_IN_BLOCK = {  # ours -> theirs
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_OUTSIDE = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
_HEAD = {"fc_norm": "fc_norm", "head": "classifier"}
_DECODER = ("encoder_to_decoder.", "mask_token", "decoder.")

_THEIR_BLOCK = re.compile(r"(?P<stack>encoder\.layer|decoder\.decoder_layers)\.(?P<index>\d+)\.(?P<rest>.+)")
_THEIR_WEIGHT = re.compile(r"attention\.(?:attention\.)?(query|key|value)\.weight")
_THEIR_BIAS = re.compile(r"attention\.(?:attention\.)?(q_bias|v_bias|query\.bias|value\.bias)")
# The last two in transformers 4 and in all files on the hub, the first two in the memory of version 5.
_BIASES = {"query.bias": "q_bias", "value.bias": "v_bias", "q_bias": "q_bias", "v_bias": "v_bias"}
# Constants; and biases of the keys, zero in VideoMAE. One that is not zero cancels all the same: it adds one number to
# the scores of a query with all keys, and the softmax does not see that.
_DROPPED = re.compile(r"(^|\.)(position_embeddings|attention\.(attention\.)?(key\.bias|k_bias))$")
_OUR_BLOCK = re.compile(r"(?P<stack>decoder\.)?blocks\.(?P<index>\d+)\.(?P<rest>.+)")
_Thirds = dict[str, tuple[str, torch.Tensor]]  # query, key, value -> the name in the file, the tensor


def is_huggingface(names: Iterable[str]) -> bool:
    """True if tensors of these names are a VideoMAE model of transformers."""
    return any(_THEIR_BLOCK.fullmatch(name.removeprefix("videomae.")) for name in names)


def dropped_names(names: Iterable[str]) -> list[str]:
    """Those of transformers' names that `from_huggingface` leaves out: constants, and biases that cancel."""
    return [name for name in names if _DROPPED.search(name)]


def from_huggingface(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a transformers VideoMAE by native names.

    Takes both names of the attention's biases, and names with or without `videomae.`. A model with a decoder gets the
    names of a pre-training model, any other those of a classifier. What has no native name keeps its own, so that the
    loader reports it.

    Raises:
        ModelError: two tensors of the same meaning.
    """
    encoder = "encoder." if any(name.startswith(_DECODER) for name in state) else ""
    native: dict[str, torch.Tensor] = {}
    attention: dict[str, _Thirds] = {}
    for name, value in state.items():
        if _DROPPED.search(name):
            continue
        ours, part = _native_name(name, encoder)
        if part:
            attention.setdefault(ours, {})[part] = name, value
        elif ours in native:
            raise ModelError(f"two tensors for {ours}, one of them {name}: the file is ambiguous, remove one of them")
        else:
            native[ours] = value
    for name, thirds in attention.items():
        native |= _fused(name, thirds)
    return native | zero_biases(native)


def _fused(name: str, thirds: _Thirds) -> dict[str, torch.Tensor]:
    """One fused qkv weight of its three parts; parts that lack another keep their own names."""
    if len(thirds) < 3:
        return dict(thirds.values())
    return {name: torch.cat([thirds[part][1] for part in ("query", "key", "value")])}


def zero_biases(native: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The attention's biases, zero, of a network that was made without them."""
    if any(name.endswith(".q_bias") for name in native):
        return {}
    biases: dict[str, torch.Tensor] = {}
    for name, weight in native.items():
        if name.endswith(".attn.qkv.weight"):
            block = name.removesuffix("qkv.weight")
            biases |= {f"{block}{bias}": weight.new_zeros(len(weight) // 3) for bias in ("q_bias", "v_bias")}
    return biases


def _native_name(name: str, encoder: str) -> tuple[str, str]:
    """Our name of one of theirs, and which third of it that is: query, key, value, or '' for all."""
    inner = name.removeprefix("videomae.")
    if match := _THEIR_BLOCK.fullmatch(inner):
        block = f"{'decoder.' if match['stack'].startswith('decoder') else encoder}blocks.{match['index']}."
        rest = match["rest"]
        if weight := _THEIR_WEIGHT.fullmatch(rest):
            return f"{block}attn.qkv.weight", weight[1]
        if bias := _THEIR_BIAS.fullmatch(rest):
            return f"{block}attn.{_BIASES[bias[1]]}", ""
        layer, _, kind = rest.rpartition(".")
        for ours, theirs in _IN_BLOCK.items():
            if layer == theirs:
                return f"{block}{ours}.{kind}", ""
        return name, ""
    layer, _, kind = inner.rpartition(".")
    for table, prefix in ((_OUTSIDE, encoder), (_HEAD, "")):
        for ours, theirs in table.items():
            if layer == theirs:
                return f"{prefix}{ours}.{kind}", ""
    return name, ""


def architecture(state: Mapping[str, torch.Tensor]) -> str:
    """The class of transformers that native tensors go into.

    Of a pre-training model VideoMAEForPreTraining can hold what predicts pixels, without prototypes or projection
    network; of any other only the encoder has a place there.
    """
    if not any(name.startswith("encoder.") for name in state):
        return CLASSIFIER if "head.weight" in state else ENCODER
    patches, prediction = state.get("encoder.patch_embed.proj.weight"), state.get("decoder.head.weight")
    if patches is None or prediction is None:
        return ENCODER
    more = any(name == "prototypes" or name.startswith(("head.", "targets.")) for name in state)
    return PRETRAINING if not more and prediction.shape[0] == patches[0].numel() else ENCODER


def to_huggingface(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Native tensors by transformers' names, for the class that `architecture` says.

    The biases are called q_bias and v_bias, as in all files on the hub: these names are read by transformers 4 and, as
    it renames them, by 5.

    Raises:
        ModelError: tensors that transformers' VideoMAE has no place for, such as a layer scale.
    """
    kind = architecture(state)
    prefix = "" if kind == ENCODER else "videomae."
    result: dict[str, torch.Tensor] = {}
    unplaced = []
    for name, value in _representable(state, kind).items():
        renamed = _their_tensors(name, value, prefix)
        result |= renamed
        if not renamed:
            unplaced.append(name)
    if unplaced:
        reason = ": it has no layer scale (--init_values)" if any("gamma_" in name for name in unplaced) else ""
        raise ModelError(
            f"transformers' VideoMAE has no place for {', '.join(unplaced[:3])}"
            f"{' and more' * (len(unplaced) > 3)}{reason}; --to safetensors can hold every model"
        )
    return result


def _representable(state: Mapping[str, torch.Tensor], kind: str) -> Mapping[str, torch.Tensor]:
    """Of a pre-training model the encoder, by a classifier's names, and for pixels the decoder; else everything."""
    encoder = {name.removeprefix("encoder."): v for name, v in state.items() if name.startswith("encoder.")}
    if not encoder:
        return state
    decoder = {name: value for name, value in state.items() if name.startswith(_DECODER) and kind == PRETRAINING}
    return encoder | decoder


def _their_tensors(name: str, value: torch.Tensor, prefix: str) -> dict[str, torch.Tensor]:
    """One native tensor by their names, three for fused attention weights; none where they have no such thing."""
    layer, _, kind = name.rpartition(".")
    if match := _OUR_BLOCK.fullmatch(name):
        stack = "decoder.decoder_layers" if match["stack"] else f"{prefix}encoder.layer"
        block, rest = f"{stack}.{match['index']}.", match["rest"]
        if rest == "attn.qkv.weight":
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            return {f"{block}attention.attention.{part}.weight": third.clone() for part, third in parts}
        if rest in ("attn.q_bias", "attn.v_bias"):
            return {f"{block}attention.{rest.replace('attn', 'attention')}": value}
        layer, _, kind = rest.rpartition(".")
        return {f"{block}{_IN_BLOCK[layer]}.{kind}": value} if layer in _IN_BLOCK else {}
    if layer in _OUTSIDE:
        return {f"{prefix}{_OUTSIDE[layer]}.{kind}": value}
    if layer in _HEAD:
        return {f"{_HEAD[layer]}.{kind}": value}
    return {name: value} if name.startswith(_DECODER) else {}
