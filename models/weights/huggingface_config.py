"""Content of the config files of Hugging Face's VideoMAE (transformers), from our models."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..classifier import Classifier
from ..registry import ModelError
from ..sigma import Sigma
from ..targets import IMAGENET_MEAN, IMAGENET_STD, PixelTarget
from .huggingface import PRETRAINING, architecture

SAMPLING = "sigma_video"  # key of options that decide which frames are read, which transformers keeps and does not use
_SAMPLING_OPTIONS = (
    *("data_set", "sampling", "sampling_rate", "fps"),
    *("test_num_segment", "test_num_crop", "view_pooling"),
)
PROBLEM_TYPES = {"multilabel": "multi_label_classification", "regression": "regression"}  # of --task; decides scores


def huggingface_config(
    model: Classifier | Sigma,
    *,
    class_names: Sequence[str] = (),
    dtype: str = "float32",
    args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Content of config.json.

    Args:
        model: of a pre-training model other than for pixels the encoder is described.
        class_names: by label, of a classifier; empty: LABEL_0 and so on, transformers' own placeholders.
        dtype: of the weights in the file.
        args: options of the run that made the weights, of which `task`, `target_scale` and those of sampling are used.

    Raises:
        ModelError: a model, or names, that transformers' VideoMAE cannot hold.
    """
    encoder = model if isinstance(model, Classifier) else model.encoder
    _check_holdable(model)
    kind = architecture(model.state_dict())
    block: Any = encoder.blocks[0]
    config: dict[str, Any] = {
        "architectures": [kind],
        "model_type": "videomae",
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": "gelu",
        "hidden_dropout_prob": block.mlp.drop.p,
        "attention_probs_dropout_prob": block.attn.attn_drop,
        "initializer_range": 0.02,
        "layer_norm_eps": block.norm1.eps,
        "image_size": encoder.clip_shape[-1],
        "patch_size": encoder.tubelet[-1],
        "num_channels": encoder.clip_shape[0],
        "num_frames": encoder.clip_shape[1],
        "tubelet_size": encoder.tubelet[0],
        "qkv_bias": True,  # its name in transformers 4
        "qv_bias": True,  # and in 5
        "use_mean_pooling": isinstance(model, Classifier) and model.fc_norm is not None,
        "dtype": dtype,
    }
    config |= _sampling_config(args or {})
    if isinstance(model, Classifier):
        return config | _label_config(model, class_names) | _task_config(args or {})
    return config | (_decoder_config(model) if kind == PRETRAINING else {})


def _label_config(model: Classifier, class_names: Sequence[str]) -> dict[str, Any]:
    num_classes = model.head.out_features
    if class_names and len(class_names) != num_classes:
        raise ModelError(f"{len(class_names)} class names for {num_classes} classes: give one name per class")
    names = list(class_names) or [f"LABEL_{i}" for i in range(num_classes)]
    repeated = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if repeated is not None:
        raise ModelError(f"two classes are called {repeated!r}: give --class_names FILE with a name for each")
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _task_config(args: Mapping[str, Any]) -> dict[str, Any]:
    """What pipelines do with the logits, and the scale of a number, which is ours alone."""
    kind, scale = PROBLEM_TYPES.get(str(args.get("task"))), args.get("target_scale")
    return ({"problem_type": kind} if kind else {}) | ({"target_scale": list(scale)} if scale else {})


def _sampling_config(args: Mapping[str, Any]) -> dict[str, Any]:
    """How the run chose frames and views, for this project's commands: transformers has no name for it."""
    known = {name: args[name] for name in _SAMPLING_OPTIONS if args.get(name) is not None}
    return {SAMPLING: known} if known else {}


def _decoder_config(model: Sigma) -> dict[str, Any]:
    width = model.encoder_to_decoder.out_features
    blocks: list[Any] = list(model.decoder.blocks)
    return {
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": len(blocks),
        "decoder_num_attention_heads": blocks[0].attn.num_heads if blocks else 1,
        "decoder_intermediate_size": blocks[0].mlp.fc1.out_features if blocks else 4 * width,
        "norm_pix_loss": isinstance(model.targets, PixelTarget) and model.targets.normalize,
    }


def _check_holdable(model: Classifier | Sigma) -> None:
    encoder = model if isinstance(model, Classifier) else model.encoder
    if encoder.blocks[0].gamma_1 is not None:
        raise ModelError("transformers' VideoMAE has no layer scale (--init_values): use --to safetensors")
    if encoder.position_grid != encoder.grid:
        raise ModelError(
            f"the model uses the position table of {encoder.position_grid} tokens resampled to {encoder.grid}, but "
            "transformers always uses the table of the clip's own size: use --to safetensors"
        )
    if isinstance(model, Classifier) and model.fc_dropout.p > 0:
        raise ModelError(
            f"transformers' VideoMAE has no dropout before the head (fc_drop_rate {model.fc_dropout.p}): make the "
            "model without it, the weights and the predictions are the same"
        )


def preprocessor_config(model: Classifier | Sigma, *, short_side: int | None = None) -> dict[str, Any]:
    """Content of preprocessor_config.json: frames in 0..255 to what the model takes.

    Args:
        short_side: of the resized frames before the centre crop (`--short_side_size`); default: the clip's size, which
            it must not be below.
    """
    return {"image_processor_type": "VideoMAEImageProcessor", **_processing(model, short_side)}


def video_preprocessor_config(model: Classifier | Sigma, *, short_side: int | None = None) -> dict[str, Any]:
    """Content of video_preprocessor_config.json, for AutoVideoProcessor and pipelines of transformers 5: the same."""
    return {
        "video_processor_type": "VideoMAEVideoProcessor",
        "do_convert_rgb": True,
        "do_sample_frames": False,
        **_processing(model, short_side),
    }


def _processing(model: Classifier | Sigma, short_side: int | None) -> dict[str, Any]:
    encoder = model if isinstance(model, Classifier) else model.encoder
    size = encoder.clip_shape[-1]
    return {
        "do_resize": True,
        "size": {"shortest_edge": max(size, short_side or 0)},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
