"""Summaries over many files: failures by reason, shares, quantiles, the report of check.py; the tool to call next."""

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from engine.files import replace_text
from scripts.data.media import CLIP_FRAMES, CLIP_STRIDE
from scripts.data.processes import Result
from sigma_video.command_line import this_python

_NUMBERS = re.compile(r"\d+")
_SHOWN = 20  # kinds of reasons
_PAYS = 1.5  # times faster that decoding has to become for the advice to re-encode
_QUANTITIES = {
    "frames": "frames",
    "seconds": "seconds",
    "fps": "frames per second",
    "short_side": "short side, pixels",
    "key_distance": "frames from key frame to key frame",
}


class Timing(NamedTuple):
    """Seconds that a clip takes, as the video is and re-encoded."""

    now: float
    after: float


def sibling(tool: str) -> str:
    """How another of these tools is called here: as a script beside the one that runs, or as an installed command."""
    folder, name = os.path.split(sys.argv[0])
    if name.endswith(".py"):
        return shlex.join([this_python(), os.path.join(folder, f"{tool}.py")])
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


def report(results: Mapping[str, Result], timings: Sequence[Timing], counts: Mapping[str, int]) -> str:
    """The text of report.txt."""
    good = {path: result for path, result in results.items() if "error" not in result}
    failed = failures(results)
    lines = [f"{len(results):,} videos: {len(good):,} can be decoded, {len(failed):,} cannot"]
    lines += [f"{name}: {count:,} videos kept" for name, count in counts.items()]
    lines += ["", "Bad, by reason:", *by_reason(failed)] if failed else []
    odd = {path: result["warning"] for path, result in good.items() if "warning" in result}
    lines += ["", "Odd, and kept:", *by_reason(odd)] if odd else []
    slow = {path: result["in_order"] for path, result in good.items() if "in_order" in result}
    if slow:
        lines += ["", "Read in order from their start, as a seek is not safe (slower; reencode.py makes them safe):"]
        lines += by_reason(slow)
    stretched = {path: result["pixels"] for path, result in good.items() if "pixels" in result}
    if stretched:
        lines += ["", "Pixels that are not square (width by height); the model sees the pictures as stored:"]
        lines += by_reason(stretched)
    if good:
        lines += ["", *_facts(list(good.values()))]
    if timings:
        lines += ["", *_costs(timings, len(good))]
    return "\n".join(lines) + "\n"


def _facts(good: Sequence[Result]) -> list[str]:
    lines = ["codecs      " + shares(result["codec"] for result in good)]
    files = [result for result in good if "container" in result]
    if files:
        lines.append("containers  " + shares(result["container"] for result in files))
        lines.append(f"bytes       {sum(result['bytes'] for result in files) / 1e9:.3g} GB of pictures")
    lines.append("sizes       " + shares(result["size"] for result in good))
    lines += ["", f"{'':36}  smallest    10 %      median     90 %      largest"]
    for key, name in _QUANTITIES.items():
        values = [result[key] for result in good if result.get(key) is not None]
        if values:
            lines.append(f"{name:36}{spread(values)}")
    return lines


def _costs(timings: Sequence[Timing], num_videos: int) -> list[str]:
    now, gain = median(timing.now for timing in timings), median(timing.now / timing.after for timing in timings)
    lines = [
        f"A clip ({CLIP_FRAMES} frames, every {CLIP_STRIDE}th) takes {1000 * now:.3g} ms on one core of this machine, "
        f"{1 / now:.3g} clips/s (median of {len(timings)} videos);",
        f"an epoch of {num_videos:,} clips {num_videos * now / 3600:.3g} core hours.",
        f"Re-encoded ({sibling('reencode')}), these clips decode {gain:.2g} times as fast.",
    ]
    if gain >= _PAYS:
        return [
            *lines,
            "Advice: re-encode if decoding limits the training (`data` in its log close to the step time).",
        ]
    return [*lines, "Advice: leave the videos as they are."]
