"""Divides the videos of a folder into parts for training, validation and test: `prepare.py --split 80/10/10`."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.errors import AnnotationError
from datasets.lists.subsets import select
from datasets.lists.text_files import at, csv_rows
from datasets.lists.video_list import VideoList

PARTS = ("train", "val", "test")
GROUPS = "groups.csv"
_SHOWN = 5  # names of classes in a message


def shares_of(text: str) -> tuple[int, ...]:
    """The shares of "80/10/10", in percent, for train, val and test, or of "90/10" for train and val.

    Raises:
        ValueError: it is not that.
    """
    shares = tuple(int(share) if share.isascii() and share.isdigit() else -1 for share in text.split("/"))
    if len(shares) not in (2, 3) or min(shares) < 0 or sum(shares) != 100 or not shares[0] or shares[0] == 100:
        raise ValueError(
            f"'{text}': two or three whole numbers that add up to 100, as 80/10/10 for train, val and test, that of "
            "train and one other above 0"
        )
    return shares


def read_groups(file: Path, paths: Sequence[str]) -> dict[str, str]:
    """The group of each video that `groups.csv` (`path,group`, paths from its folder) names.

    Args:
        file: the csv.
        paths: all videos, from the same folder.

    Raises:
        AnnotationError: it has other columns, names a video that is not there, or one in two groups.
    """
    rows = csv_rows(file, ",")
    header = [cell.strip().lower() for cell in next(rows, (1, list[str]()))[1]]
    if not {"path", "group"} <= set(header):
        raise AnnotationError(f"{at(file, 1)}: the columns are {', '.join(header)}; wanted are path, group.")
    known, groups = set(paths), dict[str, str]()
    for number, cells in rows:
        row = dict(zip(header, cells, strict=False))
        path, group = row.get("path", "").strip().removeprefix("./"), row.get("group", "").strip()
        if path not in known or not group:
            reason = "no group" if path in known else f"'{path}' is no video of {file.parent}"
            raise AnnotationError(f"{at(file, number)}: {reason}. Correct it, or leave the line out.")
        if groups.setdefault(path, group) != group:
            raise AnnotationError(f"{at(file, number)}: '{path}' is in group {groups[path]} as well.")
    return groups


def split(
    videos: VideoList, shares: Sequence[int], *, groups: Mapping[str, str], seed: int
) -> tuple[dict[str, VideoList], list[str]]:
    """Parts of a list with these shares in each class, and what is to be told of them.

    Which videos go where depends on their names and the seed alone: the order is that of a hash, the same everywhere.
    Every class has a video in train. Videos of one group are in one part.

    Args:
        videos: with labels; the paths lie below its root.
        shares: see `shares_of`.
        groups: path relative to the root -> its group.
        seed: another one gives another split.

    Raises:
        AnnotationError: there are fewer groups than parts.
    """
    names = [path.removeprefix(f"{videos.root}/") for path in videos.paths]
    if groups:
        part_of = _by_group(videos, names, shares=shares, groups=groups, seed=seed)
    else:
        part_of = _by_class(videos, names, shares=shares, seed=seed)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for place, number in enumerate(part_of):
        parts[PARTS[number]].append(place)
    notes = [f"--split {'/'.join(map(str, shares))}: {', '.join(f'{len(parts[part])} {part}' for part in PARTS)}"]
    if groups:
        alone = len(names) - len(groups)
        notes.append(
            f"  by {len(set(groups.values()))} groups of {GROUPS}; {alone} videos are in none, each is by itself"
        )
    for part, share in zip(PARTS[1:], shares[1:], strict=False):
        lacking = sorted(set(videos.labels) - {videos.labels[place] for place in parts[part]})
        if share and lacking:
            shown = ", ".join(videos.class_names[label] for label in lacking[:_SHOWN])
            more = ", ..." if len(lacking) > _SHOWN else ""
            notes.append(f"  {len(lacking)} classes are too small for a video in {part}: {shown}{more}")
    return {part: select(videos, places) for part, places in parts.items() if places}, notes


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\t{name}".encode()).digest()


def _by_class(videos: VideoList, names: Sequence[str], *, shares: Sequence[int], seed: int) -> list[int]:
    """The part of each video: of n videos of a class, each part gets its share, rounded; the rest is by remainder."""
    part_of = [0] * len(names)
    of_label: dict[int, list[int]] = defaultdict(list)
    for place in sorted(range(len(names)), key=lambda place: _rank(names[place], seed)):
        of_label[videos.labels[place]].append(place)
    for own in of_label.values():
        counts = [len(own) * share // 100 for share in shares]
        by_remainder = sorted(range(len(shares)), key=lambda part: (-(len(own) * shares[part] % 100), part))
        for part in by_remainder[: len(own) - sum(counts)]:
            counts[part] += 1
        if not counts[0]:
            counts[counts.index(max(counts))] -= 1
            counts[0] = 1
        parts = (part for part, count in enumerate(counts) for _ in range(count))
        for place, part in zip(own, parts, strict=True):
            part_of[place] = part
    return part_of


def _by_group(
    videos: VideoList, names: Sequence[str], *, shares: Sequence[int], groups: Mapping[str, str], seed: int
) -> list[int]:
    """The part of each video: groups, the largest first, go where most of their classes' videos are wanting."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        members["group" if name in groups else "video", groups.get(name, name)].append(place)
    used = [part for part, share in enumerate(shares) if share]
    if len(members) < len(used):
        raise AnnotationError(f"{videos.file / GROUPS}: {len(members)} groups for {len(used)} parts.")
    of_class = Counter(videos.labels)
    filled: dict[tuple[int, int], int] = Counter()  # (part, label) -> videos
    part_of = [0] * len(names)

    def wanting(part: int, labels: Mapping[int, int]) -> float:
        wanted = {label: shares[part] / 100 * of_class[label] for label in labels}
        return sum(count * (1 - filled[part, label] / wanted[label]) for label, count in labels.items())

    order = sorted(members, key=lambda unit: (-len(members[unit]), _rank("\t".join(unit), seed)))
    for unit in order:
        labels = Counter(videos.labels[place] for place in members[unit])
        best = max(used, key=lambda part: (wanting(part, labels), -part))
        for place in members[unit]:
            part_of[place] = best
            filled[best, videos.labels[place]] += 1
    for unit in reversed(order):  # the smallest groups first
        for label in {videos.labels[place] for place in members[unit]}:
            if not filled[0, label]:
                for place in members[unit]:
                    filled[part_of[place], videos.labels[place]] -= 1
                    filled[0, videos.labels[place]] += 1
                    part_of[place] = 0
    return part_of
