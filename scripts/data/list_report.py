"""What is to be told of lists that were read: how many videos, which are missing, listed twice, or in two parts."""

from collections import Counter
from collections.abc import Mapping

from datasets.catalogue import CATALOGUE
from datasets.lists.video_list import VideoList, counted, sample_name

_SHOWN = 3  # examples of a fault


def published_size(form: str, part: str, videos: VideoList) -> int | None:
    """How many videos the published list has, if it is known; a data set is known by its format and classes."""
    rows = [row for row in CATALOGUE.values() if row.list_format == form and row.num_classes == videos.num_classes]
    return rows[0].published_size(part) if len(rows) == 1 else None


def report(part: str, videos: VideoList, missing: set[str], known: int | None) -> list[str]:
    """What is to be told of a part."""
    beside = f" (published lists: {known:,})" if known else ""
    kept = sum(path not in missing for path in videos.paths)
    lines = [f"{part}: {kept:,} of {len(videos):,} videos{beside}, {counted(videos.num_classes, 'class', 'classes')}"]
    lines.append(f"  read as {videos.format}, from {videos.file}")
    lines += [f"  {line}" for line in videos.describe_lines()]
    if missing:
        examples = ", ".join(sorted(missing)[:_SHOWN])
        lines.append(f"  {len(missing):,} are not there and left out, for example {examples}")
    counts = Counter(videos.samples())
    twice = [sample_name(*sample) for sample, count in counts.items() if count > 1]
    if twice:
        lines.append(f"  {len(twice):,} are listed more than once, for example {', '.join(twice[:_SHOWN])}")
    return lines


def overlaps(lists: Mapping[str, VideoList]) -> list[str]:
    """Videos that are in the training list and in another."""
    lines = []
    train = set(lists["train"].samples()) if "train" in lists else set()
    for part in ("val", "test"):
        both = train & set(lists[part].samples()) if part in lists else set()
        shared = sorted(sample_name(*sample) for sample in both)
        if shared:
            examples = ", ".join(shared[:_SHOWN])
            lines.append(f"WARNING: {len(shared):,} videos are in train and in {part}, for example {examples}")
    return lines
