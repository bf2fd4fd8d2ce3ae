"""The README.md that goes with weights in a Hugging Face folder."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..classifier import Classifier
from ..sigma import Sigma
from .huggingface import CLASSIFIER, PRETRAINING, architecture

# Options that determine the result, in the order of a run. No paths: they only describe the author's machine.
_RECIPE = (
    *("model", "task", "data_set", "num_frames", "sampling_rate", "fps", "input_size", "tubelet_size"),
    *("mask_type", "mask_ratio", "decoder_depth", "target_type", "loss_func", "normalize_target"),
    *("num_prototypes", "sinkhorn_eps", "sinkhorn_iterations", "sinkhorn_targets", "projection_dims"),
    *("distillation_teacher", "teacher", "center_teacher"),
    *("epochs", "warmup_epochs", "batch_size", "update_freq", "opt", "lr", "min_lr", "weight_decay", "opt_betas"),
    *("layer_decay", "drop_path", "fc_drop_rate", "num_sample", "aa", "reprob", "smoothing", "mixup", "cutmix"),
    *("regression_loss", "class_weights", "balanced_sampling", "samples_per_epoch", "freeze_blocks", "lora_rank"),
    *("linear_probing", "seed"),
)


def model_card(
    model: Classifier | Sigma,
    *,
    name: str,
    class_names: Sequence[str] = (),
    args: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    licence: str = "",
    whole: str = "",
) -> str:
    """Markdown with a YAML header.

    Args:
        name: title.
        args: options of the run that made the weights, as far as known.
        metrics: results, by what was measured on what.
        licence: of the weights that training started from, else of these; '': unknown, which the card says.
        whole: file beside the card with the whole pre-training model, where transformers holds its encoder alone.
    """
    kind = architecture(model.state_dict())
    header, terms = _licence(licence)
    task = "video-classification" if kind == CLASSIFIER else "feature-extraction"
    method = "videomae" if kind in (CLASSIFIER, PRETRAINING) else "sigma"
    tags = "\n".join(f"- {tag}" for tag in dict.fromkeys(["videomae", method, "video"]))
    parts = [
        f"---\n{header}\nlibrary_name: transformers\npipeline_tag: {task}\ntags:\n{tags}\n---",
        f"# {name}",
        _description(model, kind, whole),
        "## Data and recipe\n\n" + _recipe(args or {}),
        "## Results\n\n" + _results(metrics or {}),
        "## How to load\n\n" + _loading(model, kind) + (_pipeline(model, args or {}) if kind == CLASSIFIER else ""),
        "## What comes out\n\n" + _outputs(model, kind) + (_meaning(args or {}) if kind == CLASSIFIER else ""),
        "## Licence\n\n" + terms,
    ]
    if class_names:
        listed = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
        parts.insert(3, f"Classes, by label ({len(class_names)}): {listed}. All are in `config.json` (`id2label`).")
    return "\n\n".join(parts) + "\n"


def _licence(licence: str) -> tuple[str, str]:
    """YAML lines, and the section."""
    if licence.strip().lower() in ("", "unknown"):
        return "license: unknown", (
            "**Unknown.** Whoever converted these weights did not say which weights training started from, or under "
            "which terms. Find that out before you use or pass them on: weights of a fine-tuned model are under the "
            "terms of those it started from. For example VideoMAE's and MVD's are CC-BY-NC-4.0 (no commercial use)."
        )
    licence = " ".join(licence.split())
    section = f"The weights that these come from are under: {licence}. These are under the same terms."
    if re.fullmatch(r"[\w.+-]+", licence):  # an identifier
        return f"license: {licence.lower()}", section
    return f"license: other\nlicense_name: {json.dumps(licence)}", section


def _description(model: Classifier | Sigma, kind: str, whole: str) -> str:
    encoder = model if isinstance(model, Classifier) else model.encoder
    channels, frames, height, width = encoder.clip_shape
    t, h, w = encoder.grid
    what = {
        CLASSIFIER: "A video classifier: VideoMAE's transformer (arXiv 2203.12602) with a linear head",
        PRETRAINING: "A VideoMAE pre-training model (arXiv 2203.12602): encoder and the decoder that predicts pixels",
    }.get(kind, "The encoder of a SIGMA pre-training model (arXiv 2407.15447)")
    block: Any = encoder.blocks[0]
    sizes = (
        f"{len(encoder.blocks)} blocks of width {encoder.embed_dim} with {block.attn.num_heads} heads. It "
        f"takes clips of {frames} frames of {height} x {width} pixels, {channels} colours, ImageNet-normalised, and "
        f"cuts them into {t} x {h} x {w} = {encoder.num_tokens} tokens."
    )
    if kind in (CLASSIFIER, PRETRAINING):
        return f"{what}. {sizes}"
    if whole:
        return (
            f"{what}. {sizes} Its decoder, projection network and prototypes have no place in transformers' VideoMAE: "
            f"they are in `{whole}`, together with the encoder, for the `run_sigma_pretraining.py --finetune {whole}` "
            "of the project that made these weights, which continues the pre-training."
        )
    return (
        f"{what}. {sizes} Its decoder, projection network and prototypes are left out, because transformers' VideoMAE "
        "has no place for them: to continue pre-training use the file that this was converted from."
    )


def _recipe(args: Mapping[str, Any]) -> str:
    rows = [(name, args[name]) for name in _RECIPE if args.get(name) not in (None, "", [])]
    if not rows:
        return "Not recorded in the file that this was converted from."
    table = "\n".join(f"| `--{name}` | {value} |" for name, value in rows)
    return f"Options of the last training run, as recorded in its checkpoint:\n\n| option | value |\n|---|---|\n{table}"


def _results(metrics: Mapping[str, float]) -> str:
    if not metrics:
        return "None were given. Measure before you rely on it."
    return "| metric | value |\n|---|---|\n" + "\n".join(f"| {name} | {value:g} |" for name, value in metrics.items())


def _pools(model: Classifier | Sigma) -> bool:
    return isinstance(model, Classifier) and model.fc_norm is not None


def _loading(model: Classifier | Sigma, kind: str) -> str:
    norms = {
        CLASSIFIER: "model.fc_norm.eps = 1e-6  # transformers has 1e-5 here, the weights were made with 1e-6",
        PRETRAINING: "model.decoder.norm.eps = 1e-6  # transformers has 1e-5 here, the weights were made with 1e-6",
    }
    epsilon = norms.get(kind, "") if kind != CLASSIFIER or _pools(model) else ""
    code = [
        f"from transformers import VideoMAEImageProcessor, {kind}",
        "",
        'processor = VideoMAEImageProcessor.from_pretrained("THIS_FOLDER")',
        f'model = {kind}.from_pretrained("THIS_FOLDER").eval()',
        *([epsilon] if epsilon else []),
        'inputs = processor(list_of_frames, return_tensors="pt")  # one video: frames of 0..255, colours in RGB order',
    ]
    text = "```python\n" + "\n".join(code) + "\n```\n\n"
    text += (
        "The processor resizes with an antialias filter, this project's test protocol without: logits differ slightly "
        "between the two for the same file. For the same clip tensor they agree to 1e-5 of their size."
    )
    if kind != CLASSIFIER:
        text += (
            " For fine-tuning in transformers pass `use_mean_pooling=True` to VideoMAEForVideoClassification: without "
            "it the head reads the first tubelet's token only."
        )
    return text


def _pipeline(model: Classifier | Sigma, args: Mapping[str, Any]) -> str:
    """Use in transformers 5 without a model class: the pipeline, and the processor of videos."""
    encoder = model if isinstance(model, Classifier) else model.encoder
    frames, stride = encoder.clip_shape[1], args.get("sampling_rate")
    code = [
        "import numpy as np",
        "from transformers import AutoVideoProcessor, pipeline",
        "",
        'classify = pipeline("video-classification", model="THIS_FOLDER")',
        *(["classify.model.fc_norm.eps = 1e-6"] if _pools(model) else []),
        f"frames = np.stack(list_of_frames)  # ({frames}, height, width, 3) of a clip, 0..255, in RGB order",
        "answers = classify(frames)  # a list of label and score",
        "",
        'processor = AutoVideoProcessor.from_pretrained("THIS_FOLDER")',
        'inputs = processor(frames, return_tensors="pt")  # the same numbers as above',
    ]
    text = "\n\nIn transformers 5 also:\n\n```python\n" + "\n".join(code) + "\n```\n\n"
    text += (
        f"Given more frames, a path or an address, the pipeline takes {frames} frames spread evenly over the whole "
        "video; paths and addresses need `pip install torchcodec`."
    )
    if args.get("fps"):
        text += (
            f" These weights were trained on {args['fps']:g} frames a second: for the same results choose such frames."
        )
    elif args.get("sampling") == "uniform":
        text += " So are the frames that these weights were trained on."
    elif isinstance(stride, int) and stride > 1:
        text += (
            f" These weights were trained on frames that are {stride} apart: for the same results choose such frames."
        )
    return (
        text + " Where transformers says `Could not import module 'VideoMAEImageProcessor'`, torchvision does not fit "
        "torch (`python -c 'import torchvision'` shows it): install matching builds, or `import sigma_video.compat` of "
        "the project that made these weights, before or after transformers."
    )


def _outputs(model: Classifier | Sigma, kind: str) -> str:
    encoder = model if isinstance(model, Classifier) else model.encoder
    tokens = f"(B, {encoder.num_tokens}, {encoder.embed_dim})"
    lines = [
        "VideoMAE has no CLS token. Token 0 is the first tubelet, top left in the first frames, and no summary.",
        f"- `VideoMAEModel(...).last_hidden_state`: {tokens}, the tokens in the order time, row, column",
    ]
    if _pools(model):
        lines[-1] += ", before any final norm."
        lines.append(
            f"- `forward_features(clip)` of this project: (B, {encoder.embed_dim}), the mean over all tokens, then "
            "`fc_norm`; the head is linear on that."
        )
    elif isinstance(model, Classifier):
        lines[-1] += ", after the final norm."
        lines.append(
            f"- `forward_features(clip)` of this project: (B, {encoder.embed_dim}), the first token of these; the head "
            "is linear on that."
        )
    else:
        lines[-1] += ", after the final norm. For one vector a clip take their mean."
    if kind == PRETRAINING:
        norm = "pixels standardised per tubelet and colour" if _normalizes(model) else "pixels in 0..1"
        lines.append(f"- `VideoMAEForPreTraining(...).logits`: predictions at the masked tubelets, of {norm}.")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _meaning(args: Mapping[str, Any]) -> str:
    """What the numbers of the head stand for."""
    if args.get("task") == "multilabel":
        text = "any number of classes a video: the sigmoid of each is its probability alone, and they do not sum to 1"
    elif args.get("task") == "regression" and args.get("target_scale"):
        mean, deviation = args["target_scale"]
        text = (
            f"one number a video, in standard deviations of the training list: {mean:.10g} + {deviation:.10g} x logit "
            "is in its unit. The pipeline's `score` is the logit"
        )
    elif args.get("task") == "regression":
        text = "one number a video, in standard deviations of a training list that the file does not describe"
    else:
        text = "one class a video: their softmax is the probability of each"
    return f"\n- `logits`: {text}."


def _normalizes(model: Classifier | Sigma) -> bool:
    return bool(getattr(model.targets, "normalize", False))
