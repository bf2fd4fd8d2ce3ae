"""What a checkpoint keeps of the lists of its run, and how a list that it is tested on differs from them."""

import hashlib
import heapq
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .video_list import VideoList, counted

logger = logging.getLogger(__name__)

MAX_SUMMARISED = 1_000_000  # videos; of longer lists only number and fingerprint are kept
SAMPLE = 1000  # videos whose names are kept: all of a small list, of a larger one those with the lowest hashes


def summarise(videos: VideoList) -> dict[str, Any]:
    """Plain values that tell a list from another: "fingerprint", "videos" (their number), "histogram", "sample".

    "histogram" holds the number of videos of each class, in label order; () where the list has no classes, or is long.
    "sample" maps hashes of videos, by path as in the list and span, to their labels: the `SAMPLE` lowest hashes, so
    that samples of two lists overlap as the lists do (Broder, "On the resemblance and containment of documents", 1997).
    """
    short = len(videos) <= MAX_SUMMARISED
    return {
        "fingerprint": videos.fingerprint,
        "videos": len(videos),
        "histogram": _histogram(videos) if short else [],
        "sample": dict(heapq.nsmallest(SAMPLE, _hashes(videos).items())) if short else {},
    }


def _histogram(videos: VideoList) -> list[int]:
    if videos.values is not None:
        return []
    sets = videos.label_sets if videos.label_sets is not None else ((label,) for label in videos.labels)
    counts = Counter(label for labels in sets for label in labels if label >= 0)
    return [counts[label] for label in range(max(counts) + 1)] if counts else []


def _hashes(videos: VideoList) -> dict[int, Any]:
    """64-bit hash of each video -> its label as the list has it."""
    root = f"{videos.root.rstrip('/')}/" if videos.root else ""
    return {
        int.from_bytes(hashlib.blake2b(f"{path.removeprefix(root)}\t{span}".encode(), digest_size=8).digest(), "big"): (
            videos.label(place)
        )
        for place, (path, span) in enumerate(videos.samples())
    }


def compare_with_training(recorded: Mapping[str, Any], tested: VideoList) -> list[str]:
    """Doubts about a test on `tested` of weights whose run had the lists `recorded`; [] where all is well.

    Args:
        recorded: part ("train", "val", "test") -> `summarise` of its list, as a checkpoint has it; {}: unknown.
    """
    known = {part: summary for part, summary in recorded.items() if isinstance(summary, Mapping)}
    if any(tested.fingerprint == known[part].get("fingerprint") for part in known if part != "train"):
        return []
    now = summarise(tested)
    found = [_describe_shared(known.get("train", {}), now), *_describe_labels(known, now)]
    return [doubt for doubt in found if doubt]


def log_doubts(recorded: Mapping[str, Any], tested: VideoList, path: str | Path) -> None:
    """One warning with all of `compare_with_training`; `path` is the file of the weights."""
    if doubts := compare_with_training(recorded, tested):
        logger.warning("%s, tested with the weights of %s: %s", tested.file, path, "; ".join(doubts))


def _describe_shared(train: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How many of the tested videos were trained on; exact where the samples hold all videos."""
    if train.get("fingerprint") == now["fingerprint"]:
        return "it is the list that the weights were trained on"
    sample, tested = train.get("sample") or {}, now["sample"]
    whole = len(sample) == train.get("videos") and len(tested) == now["videos"]
    # A sample that is not the whole list holds all of its hashes up to the highest one.
    limits = [max(some) for some, of in ((sample, train), (tested, now)) if some and len(some) < of["videos"]]
    comparable = [value for value in tested if value <= min(limits, default=value)]
    shared = sum(value in sample for value in comparable)
    if not shared:
        return ""
    number = max(1, round(now["videos"] * shared / len(comparable)))
    return (
        f"{'' if whole else 'about '}{number} of its {counted(now['videos'], 'video')} are in the list that the "
        "weights were trained on"
    )


def _describe_labels(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What tells that the classes are numbered otherwise, or are others."""
    labels = {value: label for summary in known.values() for value, label in (summary.get("sample") or {}).items()}
    both = labels.keys() & now["sample"].keys()
    changed = sum(_plain(labels[value]) != _plain(now["sample"][value]) for value in both)
    if changed:
        return [f"{changed} of {counted(len(both), 'video')} that the run's lists have too have another label there"]
    doubts = []
    counts = known.get("train", {}).get("histogram") or []
    new = [label for label, count in enumerate(now["histogram"]) if count and not any(counts[label : label + 1])]
    if counts and new:
        doubts.append(f"no video was trained on of {counted(len(new), 'class', 'classes')} in it (label {new[0]})")
    others = [known[part].get("histogram") for part in known if part != "train"]
    if any(other != now["histogram"] and sorted(other or []) == sorted(now["histogram"]) for other in others):
        doubts.append("it has as many videos of each class as a list of the run, but in another order of the classes")
    return doubts


def _plain(label: Any) -> Any:
    return tuple(label) if isinstance(label, Sequence) else label
