"""The picture of the demo: a clip, its mask, and the clusters that the pre-trained model puts its tokens into."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from datasets.decoding import open_video
from datasets.masks.masks import tube_mask
from datasets.transforms.normalization import normalize_clips
from datasets.transforms.presets import PretrainTransform
from docs.images.svg import Drawing, Theme, cover
from engine.checkpointing.read_weights import read_weights
from models.objectives import SwappedClusterPrediction
from models.sigma import Sigma
from models.weights.rebuild import rebuild

NUM_CLIPS = 96  # from which the nearest tubelets are taken
SHOWN = (1, 4)  # two of them are shown whole
SHARPER = 3  # pixels shown for each pixel that the model sees, along a side
CELL, GAP = 82, 4  # a frame in the drawing
NUM_PROTOTYPES, NUM_NEAREST, TILE = 6, 5, 37


@dataclass(frozen=True)
class Clustered:
    """What the picture shows of B clips with N = t*h*w tokens each.

    frames: (B, t, H, W, 3) uint8, the first frame of every slot; masks: (B, h, w) bool; codes: (B, t, h, w);
    scores: (B, N, K) cosines; colours: (K, 3) uint8, alike for prototypes that are alike; names: the clips' classes.
    """

    frames: np.ndarray
    masks: np.ndarray
    codes: np.ndarray
    scores: np.ndarray
    colours: np.ndarray
    names: list[str]


@torch.no_grad()
def cluster(checkpoint: Path, data: Path) -> Clustered:
    """Assign all tokens of some of the demo's videos to the prototypes of its model."""
    weights = read_weights(checkpoint)
    model = rebuild(weights.tensors, weights.args)
    assert isinstance(model, Sigma) and isinstance(model.objective, SwappedClusterPrediction)
    assert model.prototypes is not None
    t, h, w = grid = model.encoder.grid
    size, num_frames = weights.args["input_size"], weights.args["num_frames"]
    lines = [line.rsplit(maxsplit=1) for line in (data / "test.csv").read_text().splitlines()[:NUM_CLIPS]]
    videos = [open_video(path).get_frames(list(range(num_frames))) for path, _ in lines]
    small, large = (
        torch.stack([PretrainTransform(side, "resize").crop(video, (0, 0, *video.shape[-2:])) for video in videos])
        for side in (size, SHARPER * size)
    )
    everything = torch.arange(t * h * w).repeat(len(videos), 1)
    projected = model.head(model.target_features(normalize_clips(small), everything))
    prototypes = F.normalize(model.prototypes, dim=-1)
    scores = F.normalize(projected, dim=-1) @ prototypes.T
    class_names = (data / "labels.txt").read_text().splitlines()
    masks = [
        tube_mask(grid, weights.args["mask_ratio"], np.random.default_rng(number)).reshape(grid)[0]
        for number in range(len(videos))
    ]
    return Clustered(
        frames=large[:, :: num_frames // t].permute(0, 1, 3, 4, 2).numpy(),
        masks=np.stack(masks),
        codes=model.objective.codes(scores.flatten(0, 1)).reshape(-1, t, h, w).numpy(),
        scores=scores.numpy(),
        colours=colours_of(prototypes),
        names=[class_names[int(label)].replace("_", " ") for _, label in lines],
    )


def colours_of(prototypes_KP: torch.Tensor) -> np.ndarray:
    """(K, 3) uint8: the ranks of the first three principal components as red, green and blue."""
    components = torch.linalg.svd(prototypes_KP - prototypes_KP.mean(0), full_matrices=False).U[:, :3]
    ranks = components.argsort(0).argsort(0).float() / (len(prototypes_KP) - 1)
    return (55 + 190 * ranks).round().to(torch.uint8).numpy()


def draw_clusters(theme: Theme, found: Clustered) -> str:
    """The picture as SVG text."""
    t = found.codes.shape[1]
    drawing = Drawing(1080, 330, theme, "Clips, their masks and the clusters of their tokens")
    for row, words in enumerate(("Clip", "Visible", "Clusters")):
        drawing.text(70, 44 + (CELL + 8) * row + CELL / 2, words, size=15, anchor="end", bold=True)
    for column, number in enumerate(SHOWN):
        left = 82 + column * (t * (CELL + GAP) + 16)
        drawing.text(left, 24, f"class “{found.names[number]}”", size=13, colour=theme.muted, anchor="start")
        draw_clip_rows(drawing, found, number, left=left)
    draw_nearest(drawing, found, left=82 + len(SHOWN) * (t * (CELL + GAP) + 16) + 8)
    return drawing.render()


def draw_clip_rows(drawing: Drawing, found: Clustered, number: int, *, left: float) -> None:
    """The frames of a clip, what the encoder sees of them, and each tubelet in the colour of its prototype."""
    frames, mask, codes = found.frames[number], found.masks[number], found.codes[number]
    patch = frames.shape[1] // len(mask)
    for slot, frame in enumerate(frames):
        x, step = left + slot * (CELL + GAP), CELL + 8
        drawing.picture(x, 44, CELL, frame)
        drawing.picture(x, 44 + step, CELL, cover(frame, mask, drawing.theme.hidden))
        coloured = found.colours[codes[slot]].repeat(patch, 0).repeat(patch, 1)
        tinted = (0.35 * frame.mean(-1, keepdims=True) + 0.65 * coloured).astype(np.uint8)
        drawing.picture(x, 44 + 2 * step, CELL, tinted)


def draw_nearest(drawing: Drawing, found: Clustered, *, left: float) -> None:
    """For the prototypes used most, the nearest tubelets of different clips."""
    clips, t, h, w = found.codes.shape
    used = np.bincount(found.codes.ravel(), minlength=len(found.colours))
    drawing.text(left, 24, "tubelets nearest to six prototypes", size=13, colour=drawing.theme.muted, anchor="start")
    side = found.frames.shape[2] // h
    for row, prototype in enumerate(used.argsort()[::-1][:NUM_PROTOTYPES]):
        y = 44 + row * (TILE + 8)
        red, green, blue = found.colours[prototype]
        drawing.square(left, y, TILE, f"#{red:02x}{green:02x}{blue:02x}")
        best = found.scores[:, :, prototype].argmax(1)
        order = found.scores[np.arange(clips), best, prototype].argsort()[::-1]
        for column, clip in enumerate(order[:NUM_NEAREST]):
            slot, i, j = np.unravel_index(best[clip], (t, h, w))
            tile = found.frames[clip, slot, i * side : (i + 1) * side, j * side : (j + 1) * side]
            drawing.picture(left + (column + 1) * (TILE + 3) + 4, y, TILE, np.ascontiguousarray(tile))
