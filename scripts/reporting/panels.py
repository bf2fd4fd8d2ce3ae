"""Which curves are shown: groups of charts, each with a line for every run or for every part of one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .charts import Chart, Series
from .run_folder import Run

Points = list[tuple[float, float | None]]


@dataclass(frozen=True)
class Panel:
    """A chart of values that every run logs.

    Attributes:
        keys: words for a line -> its key in the log.
        levels: words -> key of a horizontal line, whose last value counts.
        change: of every value.
    """

    title: str
    keys: Mapping[str, str]
    levels: Mapping[str, str] = field(default_factory=dict)
    level_of: Callable[[float], float] = float
    note: str = ""


def _branches(name: str) -> dict[str, str]:
    return {branch: f"train/{name}_{branch}" for branch in ("video", "target")}


GROUPS: dict[str, tuple[Panel, ...]] = {
    "Training": (
        Panel("Loss", {"loss": "train/loss"}),
        Panel(
            "Loss of each branch",
            {"video": "train/video_loss", "target": "train/target_loss"},
            levels={"chance, ln K": "train/ln_k"},
        ),
        Panel("Accuracy on training clips (%)", {"top-1": "train/top1"}),
        Panel("Mean absolute error on training clips", {"MAE": "train/mae"}),
        Panel("Learning rate", {"learning rate": "train/lr"}),
        Panel("Gradient norm", {"gradient norm": "train/grad_norm"}),
    ),
    "Throughput": (
        Panel("Clips per second, all processes", {"clips/s": "train/clips_per_second"}),
        Panel("Seconds per step", {"step": "train/step_time", "waiting for data": "train/data_time"}),
        Panel("Model FLOPs utilisation", {"MFU": "train/mfu"}),
        Panel("Peak GPU memory (GiB)", {"memory": "train/memory_gib"}),
    ),
    "Collapse watch": (
        Panel(
            "Prototypes used",
            _branches("prototypes_used"),
            levels={"K": "train/ln_k"},
            level_of=math.exp,
            note="Of the tokens of one step. Few of K: the assignment collapses.",
        ),
        Panel(
            "Perplexity of the assignment",
            _branches("perplexity"),
            levels={"K": "train/ln_k"},
            level_of=math.exp,
            note="K: all prototypes are used equally.",
        ),
        Panel(
            "Information about the other branch's codes (nats)",
            _branches("information"),
            note="Entropy of the codes minus the loss. It can rise while the loss rises: more prototypes are in use.",
        ),
        Panel(
            "Mean cosine between tokens",
            {"predicted": "train/cosine_predicted", "projected": "train/cosine_projected"},
            note="1: all tokens are alike. With prototypes a high value alone does no harm.",
        ),
    ),
}
VALIDATION = "Validation"
_WORDS = {
    "top1": "top-1 (%)",
    "top5": "top-5 (%)",
    "mean_per_class": "mean accuracy per class (%)",
    "mAP": "mAP (%)",
    "knn": "k-NN, top-1 (%)",
    "linear": "linear probe, top-1 (%)",
    "rankme": "RankMe of clips",
    "rankme_tokens": "RankMe of tokens",
}


def groups_of(runs: Mapping[str, Run]) -> dict[str, list[Chart]]:
    """The charts that have anything to show, by their group's title."""
    groups = {"Training": GROUPS["Training"], VALIDATION: _validation(list(runs.values())), **GROUPS}
    charts = {title: [chart_of(panel, runs) for panel in panels] for title, panels in groups.items()}
    return {title: shown for title, found in charts.items() if (shown := [c for c in found if c.series])}


def chart_of(panel: Panel, runs: Mapping[str, Run]) -> Chart:
    """A line for every part of one run; of several runs each has a colour, and each part a dash."""
    series: list[Series] = []
    levels: dict[str, float] = {}
    for colour, (name, run) in enumerate(runs.items()):
        for dash, (words, key) in enumerate(panel.keys.items()):
            points: Points = [(float(step), value) for step, value in run.values(key)]
            if not points:
                continue
            if len(runs) == 1:
                series.append(Series(words, points, dash))
            else:
                series.append(Series(name if len(panel.keys) == 1 else f"{name}: {words}", points, colour, dash))
        for words, key in panel.levels.items():
            found = [value for _, value in run.values(key) if value is not None]
            if found:
                value = panel.level_of(found[-1])
                levels[f"{words} = {value:.4g}"] = value
    marks = [int(start.get("first_step") or 0) for run in runs.values() for start in run.starts]
    return Chart(
        panel.title,
        series,
        levels,
        marks=[mark for mark in marks if mark and len(runs) == 1],
        within=(0.0, 100.0) if panel.title.endswith("(%)") else (-math.inf, math.inf),
        note=panel.note,
        has_legend=len(runs) > 1 or len(series) + len(levels) > 1,
    )


def _validation(runs: Sequence[Run]) -> tuple[Panel, ...]:
    """A panel for each metric that is measured while training, with a line for each set and probe.

    A top-5 of 100 % from the first epoch to the last is that of five classes or fewer, and says nothing.
    """
    keys = dict.fromkeys(key for run in runs for key in run.validations() if not _is_all_of_it(run, key))
    metrics = dict.fromkeys(key.rpartition("/")[2] for key in keys)
    return tuple(
        Panel(
            _WORDS.get(metric, metric),
            {key.rpartition("/")[0]: key for key in keys if key.rpartition("/")[2] == metric},
        )
        for metric in metrics
    )


def _is_all_of_it(run: Run, key: str) -> bool:
    return key.endswith("/top5") and all(value == 100 for _, value in run.values(key))
