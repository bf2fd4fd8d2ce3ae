"""The study's tables: mean and spread of each arm's tests, what varies one option, what was seen during training."""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from engine.files import replace_text

from .plan import ARMS, OF_OTHERS, SCRATCH, TESTS, Study

ALIKE = re.compile(r"step (\d+): (.*?) \(")


def write_tables(study: Study) -> None:
    """`tables.md` in the study's folder, of what is there."""
    main = [SCRATCH, *(name for name in study.arms if ARMS[name].replicated)]
    varied = ["sigma-frozen-first", *(name for name in study.arms if not ARMS[name].replicated)]
    parts = [
        "## Tests\n\nTop-1 in percent: mean over seeds, and their standard deviation.\n",
        _tests(study, main, range(study.seeds)),
        "\n## The other arms\n\nFirst seed. Where no method is named: the first row with this option.\n",
        _tests(study, varied, range(1)),
        "\n## During pre-training\n\nFirst seed: the last probe, and the first warning of a collapse.\n",
        _during(study),
    ]
    replace_text(study.out / "tables.md", "\n".join(parts) + "\n")


def score(study: Study, arm: str, seed: int, target: str, kind: str) -> float | None:
    """Top-1 of a test; None: not there."""
    folder = study.out / arm / str(seed) / target / kind
    if kind == "finetune":
        file = folder / "test.json"
        return float(json.loads(file.read_text())["test/top1"]) if file.is_file() else None
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    values = [float(record["value"]) for record in records if "top1" in str(record.get("metric"))]
    return values[0] if values else None


def _tests(study: Study, arms: Sequence[str], seeds: range) -> str:
    columns = {
        f"{target}: {title}" if len(study.targets) > 1 else title: (target, kind)
        for target in study.targets
        for kind, title in TESTS.items()
        if target == study.targets[0] or kind in OF_OTHERS
    }
    rows = ["| pre-training | " + " | ".join(columns) + " | seeds |", "|---" * (len(columns) + 2) + "|"]
    for arm in arms:
        found = {column: [score(study, arm, seed, *which) for seed in seeds] for column, which in columns.items()}
        cells = [_cell([value for value in values if value is not None]) for values in found.values()]
        number = max(sum(value is not None for value in values) for values in found.values())
        if not number:
            continue
        title = "none" if arm == SCRATCH else ARMS[arm].title
        rows.append(f"| {title} | {' | '.join(cells)} | {number} |")
    return "\n".join(rows)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _during(study: Study) -> str:
    names = {
        "train/loss": "loss",
        "probe/knn": "k-NN",
        "probe/linear": "linear",
        "probe/rankme": "RankMe",
        "probe/rankme_tokens": "RankMe of tokens",
        "train/perplexity_target": "prototypes in use (perplexity)",
        "train/information_video": "information (nats)",
        "train/cosine_projected": "mean cosine of projections",
    }
    rows = ["| pre-training | " + " | ".join(names.values()) + " | first warning |", "|---" * (len(names) + 2) + "|"]
    for arm in study.arms:
        folder = study.out / arm / "0" / "pretrain"
        log = folder / "log.txt"
        if not log.is_file():
            continue
        last: dict[str, float] = {}
        for line in log.read_text().splitlines():
            last |= json.loads(line)
        cells = [f"{last[name]:.3g}" if name in last else "" for name in names]
        rows.append(f"| {ARMS[arm].title} | {' | '.join(cells)} | {_warning(folder)} |")
    return "\n".join(rows)


def _warning(folder: Path) -> str:
    """The step of the first warning of a collapse, and all steps."""
    text = (folder / "console.txt").read_text() if (folder / "console.txt").is_file() else ""
    total = re.search(r"step \d+/(\d+) ", text)
    found = ALIKE.search(text[text.find("may have collapsed") - 300 :]) if "may have collapsed" in text else None
    return f"step {found[1]} of {total[1]}: {found[2]}" if found and total else "none"
