"""The pictures of one video: a sheet of frames and a film for each kind.

Letters: C clips, T H W frames and pixels, t h w token grid, N tokens of a clip, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from models.analysis.components import as_colours, principal_components
from models.analysis.figures import predicts_pixels, reconstruct
from models.analysis.prototypes import predict
from models.analysis.rollout import attention_weights, rollout
from models.sigma import Sigma

from . import overlays
from .clips import Clips
from .gallery import Gallery
from .sheets import Text, film, resized, sheet
from .subject import Subject

COLUMNS = 8  # frames in a sheet
SIDE, SIDE_IN_SHEET = 288, 192  # pixels of a frame
SHOWN_PROTOTYPES = 10  # that have a colour

OF_PROTOTYPES = ("prototypes", "histogram")

Rows = dict[str, np.ndarray]  # (C T, SIDE, SIDE, 3) by name


@dataclass(frozen=True)
class Drawn:
    """A sheet (H, W, 3) and a film (T, H, W, 3), uint8."""

    sheet: np.ndarray
    film: np.ndarray


def draw(kind: str, subject: Subject, clips: Clips) -> Drawn:
    """One kind of KINDS for one video."""
    frames = resized(clips.pictures(), SIDE)
    with torch.inference_mode():
        text, rows = KINDS[kind](subject, clips, frames)
    return finish(text, rows, frames, clips=clips, subject=subject)


def finish(text: Text, rows: Rows, frames: np.ndarray, *, clips: Clips, subject: Subject) -> Drawn:
    """Sheet and film of rows below the clips themselves, with what video and model they are of."""
    text = Text(text.title, [clips.describe(), subject.describe, *text.notes], text.legend)
    rows = {"the clip" if len(clips.frames) == 1 else "the clips": frames, **rows}
    captions = clips.captions()
    chosen = columns_of(len(captions), subject.encoder.tubelet[0])
    strips = {name: resized(row[chosen], SIDE_IN_SHEET) for name, row in rows.items()}
    return Drawn(sheet(text, strips, [captions[place] for place in chosen]), film(text, rows, captions))


def columns_of(num_frames: int, tubelet: int) -> list[int]:
    """First frames of at most COLUMNS tubelets, evenly spread."""
    slots = num_frames // tubelet
    count = min(COLUMNS, slots)
    return [tubelet * (place * slots // count) for place in range(count)]


def show_masks(subject: Subject, clips: Clips, frames: np.ndarray) -> tuple[Text, Rows]:
    """What the encoder sees of the clips; of a model that predicts pixels, what it makes of the rest."""
    model = subject.model
    assert isinstance(model, Sigma)
    masks = subject.draw_masks(len(clips.frames))
    grid = model.encoder.grid
    rows = {"what the encoder sees": overlays.show_visible(frames, masks.unflatten(1, grid).flatten(0, 1).numpy())}
    share = f"{subject.masks.mask_type} mask, {100 * masks.float().mean():.0f} % of the tubelets are hidden (grey)"
    if not predicts_pixels(model):
        return Text("Mask of the pre-training", [share]), rows
    filled = []
    for clip, frames_of, mask in zip(subject.normalized(clips), clips.frames, masks, strict=True):
        predicted, places = predict(model, clip, mask[None])
        rgb = frames_of[None].to(subject.device).transpose(1, 2).float() / 255
        filled.append(reconstruct(model, rgb, predicted, places)[0].movedim(0, -1).clamp(0, 1).cpu())
    rows["hidden tubelets as predicted"] = resized((255 * torch.cat(filled)).round().to(torch.uint8).numpy(), SIDE)
    note = "Visible tubelets are the video's"
    if model.targets.normalize:  # type: ignore[union-attr]  # a PixelTarget
        note += "; each predicted one has the true tubelet's mean and contrast, which the model does not predict"
    return Text("Reconstruction of masked tubelets", [share, note]), rows


def show_clusters(subject: Subject, clips: Clips, frames: np.ndarray) -> tuple[Text, Rows]:
    """k-means over the tokens of all tubelets, resized to the frames (nearest)."""
    labels = overlays.clusters_of(subject.tokens(clips), subject.clusters, seed=subject.seed)
    shown = range(subject.clusters)
    legend = [
        (overlays.colour_of(number), f"cluster {number + 1}: {share:.0f} %")
        for number, share in zip(shown, overlays.shares(labels, shown), strict=True)
    ]
    notes = ["Tokens of space-time tubes, standardised, PCA to 50; shares are of the tokens; colours mean no class"]
    title = f"Clusters of the encoder's tokens: k-means, K = {subject.clusters}"
    return Text(title, notes, legend), {"clusters": overlays.show_labels(frames, labels)}


def show_prototypes(gallery: Gallery, subject: Subject, video: int) -> Drawn:
    """The prototype of every tubelet of a video; those that it has most have a colour."""
    clips, assigned = gallery.videos[video], gallery.assigned[video]
    counts = np.bincount(assigned.ravel(), minlength=len(gallery.shares))
    shown = [int(number) for number in counts.argsort(kind="stable")[::-1][:SHOWN_PROTOTYPES] if counts[number]]
    legend = [
        (overlays.colour_of(place), f"prototype {number}: {100 * counts[number] / counts.sum():.1f} %")
        for place, number in enumerate(shown)
    ]
    place_of = np.full(len(counts), -1)
    place_of[shown] = range(len(shown))
    rest = 100 * (1 - counts[shown].sum() / counts.sum())
    note = f"{(counts > 0).sum()} of {len(counts)} occur here; {rest:.0f} % of the tubelets have one without a colour"
    text = Text("Prototype of every tubelet", [note, gallery.describe(), subject.of_embeddings()], legend)
    frames = resized(clips.pictures(), SIDE)
    coloured = overlays.show_labels(frames, place_of[assigned].reshape(-1, *assigned.shape[2:]))
    return finish(text, {"prototypes": coloured}, frames, clips=clips, subject=subject)


def show_attention(subject: Subject, clips: Clips, frames: np.ndarray) -> tuple[Text, Rows]:
    """Attention rollout: how much of each token the mean over the output tokens is made of."""
    encoder = subject.encoder
    shares = [rollout(attention_weights(encoder, clip))[0].cpu() for clip in subject.normalized(clips)]
    values = torch.cat([part.unflatten(0, encoder.grid) for part in shares]).numpy() * encoder.num_tokens
    low, high = float(values.min()), float(values.max())
    legend = [
        ((int(c[0]), int(c[1]), int(c[2])), f"{low + place * (high - low):.2f}")
        for place, c in zip((0, 0.25, 0.5, 0.75, 1), overlays.heat(np.linspace(0, 1, 5)), strict=True)
    ]
    notes = ["Share of each token in the mean of the output tokens, all blocks, in multiples of an even share"]
    return Text("Attention rollout", notes, legend), {
        "attention": overlays.show_heat(frames, values, low=low, high=high)
    }


def show_components(subject: Subject, clips: Clips, frames: np.ndarray) -> tuple[Text, Rows]:
    """The first three principal components of the tokens as red, green and blue."""
    tokens = torch.from_numpy(subject.tokens(clips))
    components, shares = principal_components(tokens.flatten(0, 2))
    colours = as_colours(components).unflatten(0, tokens.shape[:3]).numpy()
    names = zip(("red", "green", "blue"), shares.tolist(), strict=False)
    parts = ", ".join(f"{name} {100 * share:.0f} %" for name, share in names)
    notes = [f"Share of the variance: {parts}; like colours are like tokens, over all frames shown"]
    title = "First three principal components of the encoder's tokens as colours"
    return Text(title, notes), {"components": overlays.show_colours(colours, SIDE, len(frames))}


KINDS: dict[str, Callable[[Subject, Clips, np.ndarray], tuple[Text, Rows]]] = {
    "masks": show_masks,
    "clusters": show_clusters,
    "attention": show_attention,
    "components": show_components,
}


def why_missing(kind: str, subject: Subject) -> str:
    """Why a model cannot show a kind of picture; "" if it can."""
    if kind == "masks" and not isinstance(subject.model, Sigma):
        return "it has no decoder; a checkpoint of pre-training has"
    if kind in OF_PROTOTYPES and subject.prototypes is None:
        return "it has no prototypes; a checkpoint of SIGMA's pre-training has"
    return ""
