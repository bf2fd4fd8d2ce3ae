"""What was seen during pre-training, against steps: loss, entropy of the codes, information, effective rank, probes."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plan import ARMS, Study

Points = list[tuple[int, float]]
MOST = 4  # arms in a figure
COLOURS = ("#0969da", "#d1711f", "#1a7f37", "#8250df")
SMOOTHED = 10  # log steps in a mean: those of one step are noisy


def draw_curves(study: Study) -> None:
    """`curves.png` in the study's folder, of the first arms that have been trained with the first seed."""
    logs = {name: _records(study.out / name / "0" / "pretrain" / "log.txt") for name in study.arms}
    logs = dict([(name, rows) for name, rows in logs.items() if rows][:MOST])
    if not logs:
        return
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).flatten()
    for (name, rows), colour in zip(logs.items(), COLOURS, strict=False):
        _line(axes[0], _sums(rows, "train/video_loss", "train/target_loss"), colour)
        _line(axes[0], _sums(rows, "train/entropy_video", "train/entropy_target"), colour, style="--")
        _line(axes[1], _sums(rows, "train/information_video", "train/information_target"), colour)
        _line(axes[2], _sums(rows, "probe/rankme"), colour, smoothed=1, label=ARMS[name].title)
        _line(axes[3], _sums(rows, "probe/linear"), colour, smoothed=1)
    axes[1].axhline(0, color="#6e7781", linewidth=0.8)
    for axis, title in zip(
        axes,
        (
            "loss; dashed: entropy of the codes (nats, both branches)",
            "entropy minus loss: information (nats)",
            "RankMe of clips",
            "linear probe, top-1 (%)",
        ),
        strict=True,
    ):
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[2:]:
        axis.set_xlabel("step")
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=MOST, frameon=False)
    figure.savefig(study.out / "curves.png", dpi=110)


def _records(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def _sums(rows: list[dict[str, float]], *keys: str) -> Points:
    """Step and sum of these values, where a record has all."""
    return [(int(row["step"]), sum(row[key] for key in keys)) for row in rows if all(key in row for key in keys)]


def _line(
    axis: Axes, points: Points, colour: str, *, smoothed: int = SMOOTHED, style: str = "-", label: str = ""
) -> None:
    """Means of `smoothed` points each."""
    groups = [points[start : start + smoothed] for start in range(0, len(points), smoothed)]
    steps = [group[len(group) // 2][0] for group in groups]
    means = [sum(value for _, value in group) / len(group) for group in groups]
    axis.plot(steps, means, style, color=colour, linewidth=1.4, label=label or None)
