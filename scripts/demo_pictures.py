"""Pictures of a demo run: masked clips, the loss, what the prototypes stand for, confusion matrices."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
import torch

from datasets.lists.read import read_list
from datasets.masks.masks import MaskConfig
from datasets.pretraining import PretrainDataset
from datasets.sampling import ClipConfig
from datasets.transforms.presets import IMAGENET_MEAN, IMAGENET_STD, PretrainTransform, normalize_clips
from engine.checkpointing.io import read_checkpoint
from models import create_model
from models.objectives import SwappedClusterPrediction
from models.sigma import Sigma
from models.tokens import gather_tokens, patchify, split_by_mask

NUM_CLIPS = 64  # that the prototypes are compared with


def load_model(path: Path) -> tuple[Sigma, dict]:
    """A pre-training model from its checkpoint, and the options it was made with."""
    content = read_checkpoint(path)
    args = content["args"]
    model = create_model(
        args["model"],
        target_type=args["target_type"],
        loss_func=args["loss_func"],
        img_size=args["input_size"],
        num_frames=args["num_frames"],
        tubelet_size=args["tubelet_size"],
        decoder_depth=args["decoder_depth"],
        decoder_num_classes=args["decoder_num_classes"],
        projection_dims=args["projection_dims"],
        normalize_target=args["normalize_target"],
        num_prototypes=args["num_prototypes"],
        sinkhorn_eps=args["sinkhorn_eps"],
        sinkhorn_iterations=args["sinkhorn_iterations"],
    )
    assert isinstance(model, Sigma)
    model.load_state_dict(content["model"])
    return model.eval(), args


def sample_clips(model: Sigma, args: dict, data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips and masks as pre-training sees them: (B, T, 3, H, W) uint8 and (B, N) bool."""
    dataset = PretrainDataset(
        read_list(data / "val.csv"),
        ClipConfig(num_frames=args["num_frames"], sampling_rate=args["sampling_rate"]),
        MaskConfig(mask_ratio=args["mask_ratio"]),
        transform=PretrainTransform(args["input_size"], args["augmentation"]),
        grid=model.encoder.grid,
        seed=0,
    )
    items = [dataset[(0, index)] for index in range(min(NUM_CLIPS, len(dataset)))]
    return torch.stack([item["clip"] for item in items]), torch.stack([item["mask"] for item in items])


def draw_masks(model: Sigma, clips: torch.Tensor, masks: torch.Tensor, path: Path) -> None:
    """Every other frame of six clips: on the left as they are, on the right what the encoder sees."""
    t, h, w = model.encoder.grid
    frames, height, width = clips.shape[1], clips.shape[3], clips.shape[4]
    visible = ~masks.reshape(-1, t, h, w)
    scale = (frames // t, height // h, width // w)
    for axis, factor in enumerate(scale, start=1):
        visible = visible.repeat_interleave(factor, dim=axis)
    rows = []
    for clip, seen in zip(clips[:6], visible[:6], strict=True):
        masked = torch.where(seen[:, None], clip, clip.new_tensor(110))
        rows.append(torch.cat([clip[::2], masked[::2]]))
    strip = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1).permute(1, 2, 0)
    figure, axes = plt.subplots(figsize=(12, 12 * strip.shape[0] / strip.shape[1]))
    axes.imshow(strip.numpy(), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title("clips, and what the encoder sees of them")
    save(figure, path)


@torch.no_grad()
def draw_prototypes(model: Sigma, clips: torch.Tensor, masks: torch.Tensor, path: Path) -> None:
    """The tubelets (their first frames) most similar to the twelve prototypes that are used most."""
    normalized = normalize_clips(clips)
    assert model.prototypes is not None and isinstance(model.objective, SwappedClusterPrediction)
    _, masked_BM = split_by_mask(masks, clips.device)
    projected = torch.nn.functional.normalize(model.head(model.target_features(normalized, masked_BM)), dim=-1)
    prototypes = torch.nn.functional.normalize(model.prototypes, dim=-1)
    scores_SK = projected.flatten(0, 1) @ prototypes.T
    codes = model.objective.codes(scores_SK)
    pixels = first_frames(model, normalized, masked_BM)
    most_used = codes.bincount(minlength=len(prototypes)).argsort(descending=True)[:12]
    figure, grid = plt.subplots(len(most_used), 16, figsize=(8, 0.55 * len(most_used)), layout="constrained")
    for row, prototype in zip(grid, most_used.tolist(), strict=True):
        nearest = scores_SK[:, prototype].argsort(descending=True)[: len(row)]
        for axes, index in zip(row, nearest, strict=True):
            axes.imshow(pixels[index], interpolation="nearest")
            axes.set_axis_off()
    figure.suptitle("masked tubelets nearest to the prototypes used most (a row each)")
    save(figure, path)


def first_frames(model: Sigma, normalized: torch.Tensor, masked_BM: torch.Tensor) -> np.ndarray:
    """RGB of each masked tubelet's first frame, (S, ph, pw, 3) in [0, 1]."""
    pt, ph, pw = model.encoder.tubelet
    batch, _, _, height, width = normalized.shape
    tiles = normalized[:, :, ::pt].reshape(batch, 3, -1, height // ph, ph, width // pw, pw)
    tiles = tiles.permute(0, 2, 3, 5, 4, 6, 1).reshape(batch, -1, ph, pw, 3)
    tiles = tiles[torch.arange(batch)[:, None], masked_BM].flatten(0, 1)
    return (tiles * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)).clamp(0, 1).numpy()


@torch.no_grad()
def draw_reconstructions(model: Sigma, clips: torch.Tensor, masks: torch.Tensor, path: Path) -> None:
    """Four clips, their first frames of tubelets: as they are, and with the masked tubelets predicted.

    The prediction is of standardised pixels: each tubelet's own mean and deviation are put back to make it visible.
    """
    normalized = normalize_clips(clips[:4])
    masks = masks[:4]
    _, masked_BM = split_by_mask(masks, clips.device)
    predicted = model(normalized, masks)["predicted"]
    pt, ph, pw = model.encoder.tubelet
    rgb_clip = clips[:4].transpose(1, 2).float() / 255
    raw_BMPC = gather_tokens(patchify(rgb_clip, (pt, ph, pw)), masked_BM).transpose(2, 3)
    restored = predicted.unflatten(2, (-1, 3)) * raw_BMPC.std(2, keepdim=True) + raw_BMPC.mean(2, keepdim=True)
    t, h, w = model.encoder.grid
    rgb = clips[:4, ::pt].permute(0, 1, 3, 4, 2).float() / 255
    tiles = rgb.reshape(4, t, h, ph, w, pw, 3).permute(0, 1, 2, 4, 3, 5, 6).reshape(4, -1, ph, pw, 3)
    filled = tiles.clone()
    first = restored.unflatten(2, (pt, ph, pw))[:, :, 0]
    filled[torch.arange(4)[:, None], masked_BM] = first.clamp(0, 1)
    rows = []
    for version in (tiles, filled):
        image = version.reshape(4, t, h, w, ph, pw, 3).permute(0, 2, 4, 1, 3, 5, 6)
        rows.append(image.reshape(4, h * ph, t * w * pw, 3))
    strip = torch.cat([torch.cat((a, b)) for a, b in zip(*rows, strict=True)])
    figure, axes = plt.subplots(figsize=(12, 12 * strip.shape[0] / strip.shape[1]))
    axes.imshow(strip.numpy(), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title("clips, and their masked tubelets as predicted")
    save(figure, path)


def draw_loss(log: Path, path: Path) -> None:
    """The pre-training loss, and its parts if it has any, over the steps."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    figure, axes = plt.subplots(figsize=(7, 4))
    for name in ("train/loss", "train/video_loss", "train/target_loss"):
        points = [(record["step"], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=name)
    axes.set_xlabel("step")
    axes.legend()
    axes.set_title("pre-training loss")
    save(figure, path)


def draw_confusion(folder: Path, names: list[str], path: Path) -> None:
    """What each class was taken for after fine-tuning, from the pre-trained weights and from scratch."""
    figure, both = plt.subplots(1, 2, figsize=(14, 6), layout="constrained")
    for axes, start in zip(both, ("pretrained", "scratch"), strict=True):
        arrays = np.load(folder / f"finetune-{start}" / "test_predictions.npz")
        counts = np.zeros((len(names), len(names)))
        np.add.at(counts, (arrays["labels"], arrays["probabilities"].argmax(1)), 1)
        axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        top1 = 100 * np.trace(counts) / counts.sum()
        axes.set_title(f"fine-tuned, {start}: top-1 {top1:.1f} %")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """Write the figure and free it."""
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def draw_pictures(folder: Path, data: Path, *, checkpoint: Path) -> None:
    """All pictures of the demo run in `folder`."""
    model, args = load_model(checkpoint)
    clips, masks = sample_clips(model, args, data)
    draw_masks(model, clips, masks, folder / "masks.png")
    if model.prototypes is not None:
        draw_prototypes(model, clips, masks, folder / "prototypes.png")
    else:
        draw_reconstructions(model, clips, masks, folder / "reconstructions.png")
    draw_loss(folder / "pretrain" / "log.txt", folder / "loss.png")
    draw_confusion(folder, (data / "labels.txt").read_text().splitlines(), folder / "confusion.png")
