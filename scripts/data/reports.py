"""Summaries over many files: failures by reason, shares, and quantiles; and the tool to call next."""

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from engine.files import replace_text
from scripts.data.processes import Result

_NUMBERS = re.compile(r"\d+")
_SHOWN = 20  # kinds of reasons


def sibling(tool: str) -> str:
    """How another of these tools is called here: as a script beside the one that runs, or as an installed command."""
    folder, name = os.path.split(sys.argv[0])
    if name.endswith(".py"):
        return shlex.join(["python", os.path.join(folder, f"{tool}.py")])
    return f"sigma-data-{tool}"


def write_failures(file: Path, results: Mapping[str, Result]) -> None:
    """Write `path<TAB>reason` of every failure."""
    failed = failures(results)
    replace_text(file, "".join(f"{key}\t{reason}\n" for key, reason in failed.items()))


def failures(results: Mapping[str, Result]) -> dict[str, str]:
    """Path and reason of everything that failed."""
    return {key: result["error"] for key, result in results.items() if "error" in result}


def tell_failures(file: Path, results: Mapping[str, Result]) -> None:
    """The commonest reasons of what is in `file`."""
    failed = failures(results)
    if failed:
        print("\n".join([f"{len(failed):,} of {len(results):,} failed, listed in {file}:", *by_reason(failed)]))


def by_reason(failed: Mapping[str, str]) -> list[str]:
    """Lines `count  reason  (an example)`, the commonest first; reasons that differ in numbers only are one."""
    examples: dict[str, tuple[str, str]] = {}
    counts: Counter[str] = Counter()
    for path, reason in failed.items():
        kind = _NUMBERS.sub("0", reason)
        counts[kind] += 1
        examples.setdefault(kind, (path, reason))
    lines = [f"{count:9,}  {examples[kind][1]}  ({examples[kind][0]})" for kind, count in counts.most_common(_SHOWN)]
    rest = len(counts) - _SHOWN
    return [*lines, f"           and {rest} other reasons"] if rest > 0 else lines


def shares(values: Iterable[str]) -> str:
    """`h264 99.2 %, vp9 0.8 %`."""
    counts = Counter(values)
    total = sum(counts.values())
    return ", ".join(f"{value} {100 * count / total:.1f} %" for value, count in counts.most_common(8))


def spread(values: Sequence[float]) -> str:
    """Smallest, 10 %, median, 90 %, largest."""
    ordered = sorted(values)
    places = [ordered[round(part * (len(ordered) - 1))] for part in (0, 0.1, 0.5, 0.9, 1)]
    return "  ".join(f"{value:10.4g}" for value in places)
