"""The pictures of a demo run: python scripts/demo_pictures.py RUN VIDEOS --checkpoint FILE --percents N... [--dark]

Clips with their masks, what the prototypes stand for (VideoMAE: predicted tubelets), losses and accuracies, confusion
matrices.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.lists.read import read_list
from datasets.masks.masks import MaskConfig
from datasets.pretraining import PretrainDataset
from datasets.sampling import ClipConfig
from datasets.transforms.normalization import normalize_clips
from datasets.transforms.presets import PretrainTransform
from engine.checkpointing.io import read_checkpoint
from models.analysis.figures import reconstruct
from models.sigma import Sigma
from models.weights.rebuild import rebuild
from scripts import figures
from scripts.demo_stages import STARTS, finetuning_key

NUM_CLIPS = 150  # that the prototypes are compared with
NUM_SHOWN = 3  # clips
NUM_PROTOTYPES, NUM_EXAMPLES = 8, 5


@dataclass(frozen=True)
class Samples:
    """Clips as pre-training sees them, and what the model makes of them.

    Attributes:
        model: in evaluation.
        clips: (B, T, 3, H, W) uint8.
        masks: (B, N) bool, True = masked.
        labels: the class of each clip, in words.
        out: the model's results.
    """

    model: Sigma
    clips: torch.Tensor
    masks: torch.Tensor
    labels: list[str]
    out: dict[str, torch.Tensor]

    @property
    def frames(self) -> np.ndarray:
        """(B, T, H, W, 3) uint8."""
        return self.clips.permute(0, 1, 3, 4, 2).numpy()

    @property
    def visible(self) -> np.ndarray:
        """(B, T, H, W) bool, by pixel."""
        visible = ~self.masks.reshape(-1, *self.model.encoder.grid)
        for axis, factor in enumerate(self.model.encoder.tubelet, start=1):
            visible = visible.repeat_interleave(factor, dim=axis)
        return visible.numpy()

    def shown(self) -> list[int]:
        """Clips to show: the first of each of the first classes."""
        firsts = [self.labels.index(name) for name in dict.fromkeys(self.labels)]
        return [firsts[place * len(firsts) // NUM_SHOWN] for place in range(NUM_SHOWN)]


@torch.no_grad()
def load_samples(checkpoint: Path, videos: Path, *, num_clips: int = NUM_CLIPS) -> Samples:
    """The model of a checkpoint of pre-training, and what it makes of the first videos of the validation list."""
    content = read_checkpoint(checkpoint)
    args = content["args"]
    model = rebuild(content["model"], args)
    assert isinstance(model, Sigma)
    names = (videos / "labels.txt").read_text().splitlines()
    listed = read_list(videos / "val.csv")
    dataset = PretrainDataset(
        listed,
        ClipConfig(num_frames=args["num_frames"], sampling_rate=args["sampling_rate"]),
        MaskConfig(mask_ratio=args["mask_ratio"]),
        transform=PretrainTransform(args["input_size"], args["augmentation"]),
        grid=model.encoder.grid,
        seed=0,
    )
    items = [dataset[(0, index)] for index in range(min(num_clips, len(dataset)))]
    clips = torch.stack([item["clip"] for item in items])
    masks = torch.stack([torch.as_tensor(item["mask"]) for item in items])
    labels = [words(names[listed.labels[index]]) for index in range(len(items))]
    return Samples(model, clips, masks, labels, model(normalize_clips(clips), masks))


def words(name: str) -> str:
    """A class name as it is written in a picture."""
    return name.replace("_", " ")


def masks_figure(samples: Samples, *, dark: bool = False) -> Figure:
    """Clips and what the encoder sees of them."""
    chosen = samples.shown()
    share = samples.masks.float().mean().item()
    return figures.draw_masked_clips(
        samples.frames[chosen],
        samples.visible[chosen],
        [f"class: {samples.labels[index]}" for index in chosen],
        title=f"Tube masks: the encoder sees {100 * (1 - share):.0f} % of the tubelets, the rest is predicted",
        dark=dark,
    )


def prototypes_figure(samples: Samples, *, dark: bool = False) -> Figure:
    """The prototypes that are used most, with the tubelets nearest to them."""
    model, out = samples.model, samples.out
    assert model.prototypes is not None
    unit = torch.nn.functional.normalize
    scores_SK = unit(out["projected"], dim=-1).flatten(0, 1) @ unit(model.prototypes, dim=-1).T
    codes_S, places_S = out["codes_target"].flatten(), out["decoded"].flatten()
    clip_S = torch.arange(len(samples.clips)).repeat_interleave(out["decoded"].shape[1])
    counts_K = codes_S.bincount(minlength=len(model.prototypes))
    rows, names, notes = [], [], []
    for prototype in counts_K.argsort(descending=True)[:NUM_PROTOTYPES].tolist():
        own = (codes_S == prototype).nonzero()[:, 0]
        nearest = own[scores_SK[own, prototype].argsort(descending=True)].tolist()
        nearest = (nearest * NUM_EXAMPLES)[:NUM_EXAMPLES]
        rows.append([surroundings(samples, int(clip_S[s]), int(places_S[s])) for s in nearest])
        names.append(f"prototype {prototype}\n{100 * len(own) / len(codes_S):.1f} % of tokens")
        common = Counter(samples.labels[int(clip_S[s])] for s in own).most_common(2)
        notes.append("\n".join(f"{100 * count / len(own):.0f} % {label}" for label, count in common))
    frames, height, width = model.encoder.tubelet
    return figures.draw_prototypes(
        np.array(rows),
        names,
        notes,
        inner=(slice(height // 4, -(height // 4)), slice(width // 4, -(width // 4))),
        headings=("", f"nearest tubelets: {frames} frames of each", "most of its tokens come from"),
        title=f"The {len(rows)} most used of {len(counts_K)} prototypes: what the model puts in one cluster",
        dark=dark,
    )


def surroundings(samples: Samples, clip: int, place: int) -> np.ndarray:
    """(F, 3 h / 2, 3 w / 2, 3): a token's frames, with a quarter of a tubelet on each side, mirrored at the border."""
    frames, height, width = samples.model.encoder.tubelet
    slot, row, column = np.unravel_index(place, samples.model.encoder.grid)
    margin = ((0, 0), (height // 4, height // 4), (width // 4, width // 4), (0, 0))
    padded = np.pad(samples.frames[clip], margin, mode="reflect")
    top, left = row * height, column * width
    return padded[slot * frames : (slot + 1) * frames, top : top + 3 * height // 2, left : left + 3 * width // 2]


def reconstructions_figure(samples: Samples, *, dark: bool = False) -> Figure:
    """Clips, what the encoder sees, and the masked tubelets as predicted."""
    chosen = samples.shown()
    return figures.draw_reconstructions(
        samples.frames[chosen],
        samples.visible[chosen],
        fill_masked(samples, chosen),
        [f"class: {samples.labels[index]}" for index in chosen],
        title="Masked tubelets as predicted (with each one's own brightness and contrast)",
        dark=dark,
    )


def fill_masked(samples: Samples, chosen: list[int]) -> np.ndarray:
    """Clips with their masked tubelets as predicted, (B, T, H, W, 3) uint8."""
    rgb_BCTHW = samples.clips[chosen].transpose(1, 2).float() / 255
    filled = reconstruct(samples.model, rgb_BCTHW, samples.out["predicted"][chosen], samples.out["decoded"][chosen])
    return (255 * filled.movedim(1, -1).clamp(0, 1)).round().to(torch.uint8).numpy()


def training_figure(run: Path, num_classes: int, percents: list[int], *, dark: bool = False) -> Figure:
    """Losses of pre-training and fine-tuning, and the accuracies of the test by share of the labels."""
    figure, (pretraining, finetuning, accuracy) = figures.new_panels(3, dark=dark)
    log = read_log(run / "pretrain")
    parts = {"video loss": "train/video_loss", "target loss": "train/target_loss"}
    curves = {name: curve(log, key) for name, key in parts.items() if key in log[-1]} or {
        "loss": curve(log, "train/loss")
    }
    chance = ("uniform: ln K", log[-1]["train/ln_k"]) if "train/ln_k" in log[-1] else None
    figures.draw_curves(pretraining, curves, title="pre-training loss", level=chance, dark=dark)
    words = {"pretrained": "pre-trained", "scratch": "from scratch"}
    folders = {(percent, start): run / finetuning_key(percent, start) for percent in percents for start in STARTS}
    curves = {words[start]: curve(read_log(folders[percents[-1], start]), "train/loss") for start in STARTS}
    chance = (f"uniform: ln {num_classes}", float(np.log(num_classes)))
    title = f"fine-tuning loss, {percents[-1]} % of the labels"
    figures.draw_curves(finetuning, curves, title=title, level=chance, dark=dark)
    top1 = {key: json.loads((folder / "test.json").read_text())["test/top1"] for key, folder in folders.items()}
    groups = {f"{percent} %": (top1[percent, STARTS[0]], top1[percent, STARTS[1]]) for percent in percents}
    figures.draw_accuracies(accuracy, groups, ("pre-trained", "from scratch"), chance=100 / num_classes, dark=dark)
    accuracy.set_xlabel("share of the labels")
    return figure


def read_log(folder: Path) -> list[dict[str, float]]:
    """The records of a run."""
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def curve(log: list[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values."""
    records = [record for record in log if key in record]
    return [record["step"] for record in records], [record[key] for record in records]


def confusion_figure(run: Path, names: list[str], percent: int, *, dark: bool = False) -> Figure:
    """What each class was taken for after fine-tuning, from the pre-trained weights and from scratch."""
    matrices = {}
    for start, title in (("pretrained", "fine-tuned from pre-trained weights"), ("scratch", "trained from scratch")):
        arrays = np.load(run / finetuning_key(percent, start) / "test_predictions.npz")
        counts = np.zeros((len(names), len(names)))
        np.add.at(counts, (arrays["labels"], arrays["probabilities"].argmax(1)), 1)
        matrices[f"{title}: top-1 {100 * np.trace(counts) / counts.sum():.1f} %"] = counts
    return figures.draw_confusion(
        matrices,
        [words(name) for name in names],
        title=f"Confusion matrices of the test with {percent} % of the labels, in videos",
        dark=dark,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a demo run, which also gets the pictures")
    parser.add_argument("videos", type=Path, help="folder of the videos' lists")
    parser.add_argument("--checkpoint", type=Path, required=True, help="of the pre-training")
    parser.add_argument("--percents", type=int, nargs="+", required=True, help="shares of the labels")
    parser.add_argument("--dark", action="store_true", help="for a dark page")
    args = parser.parse_args()
    samples = load_samples(args.checkpoint, args.videos)
    names = (args.videos / "labels.txt").read_text().splitlines()
    learned = prototypes_figure if samples.model.prototypes is not None else reconstructions_figure
    drawings: dict[str, Callable[[], Figure]] = {
        "masks": lambda: masks_figure(samples, dark=args.dark),
        learned.__name__.removesuffix("_figure"): lambda: learned(samples, dark=args.dark),
        "training": lambda: training_figure(args.run, len(names), args.percents, dark=args.dark),
        "confusion": lambda: confusion_figure(args.run, names, args.percents[-1], dark=args.dark),
    }
    for number, (name, draw) in enumerate(drawings.items(), start=1):
        draw().savefig(args.run / f"{name}.png", dpi=110)
        print(f"drew picture {number}/{len(drawings)}: {name}.png", flush=True)


if __name__ == "__main__":
    main()
