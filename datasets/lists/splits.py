"""The lists of a whole data set: where each part lies in a folder, one numbering of the classes for all of them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sigma_video.options import Options, Rule, option

from ..catalogue import CATALOGUE, DatasetSpec, get_dataset_spec
from ..errors import AnnotationError
from .checks import (
    check_files,
    check_labels,
    count_classes,
    count_overlap,
    read_class_names,
    refuse_same_videos,
)
from .folders import FRAME_FOLDERS
from .formats.table import LIST_FORMATS, detect, folder_format
from .read import METADATA, read_list
from .video_list import VideoList

_ENDINGS = (".csv", ".jsonl", ".json", ".tsv", ".txt")
_OFFICIAL = {  # names that data sets give their lists; none publishes test labels, so that val stands for test
    "train": ("something-something-v2-train.json", "trainlist01.txt", "gym99_train.txt", "Charades_v1_train.csv"),
    "val": (
        "something-something-v2-validation.json",
        "testlist01.txt",
        "gym99_val.txt",
        "validate.csv",
        "Charades_v1_test.csv",
    ),
}
_WHOLE = ("hmdb51", "imagenet", "cifar100")  # formats of folders that hold all parts
MOST_CLASSES = 1_000_000
CLASSES = Rule(lambda number: 1 <= number <= MOST_CLASSES, f"must be between 1 and {MOST_CLASSES:,}")
_MAX_CHECKED = 50_000  # training videos whose files are looked for: the time does not grow with the list
_GIVE_LABELS = "give labels.txt of the training in --data_path"
_MAX_COMPARED = 1_000_000  # videos of the training list; longer ones are not compared with others


@dataclass(frozen=True, kw_only=True)
class ListConfig(Options):
    """How lists are read."""

    data_root: str = option(
        "", "folder that the lists' relative paths start from; default: found by trying", metavar="FOLDER"
    )
    list_format: str = option(
        "auto",
        "format of the lists; only mmaction (folder frames label), videomaev2 (path start length) and epic-* have "
        f"to be named. One of {', '.join(LIST_FORMATS)}",
        choices=LIST_FORMATS,
        metavar="FORMAT",
    )


@dataclass(frozen=True, kw_only=True)
class PretrainListConfig(ListConfig):
    """The list of pre-training."""

    data_path: str = option(
        help="list file, or a folder: all videos in it; with --data_path_csv: the videos' folder", metavar="PATH"
    )
    data_path_csv: str = option("", "the list file, where --data_path is the videos' folder", metavar="FILE")

    def read(self) -> VideoList:
        """The list. Raises AnnotationError."""
        root = self.data_root or (self.data_path if self.data_path_csv else "")
        file = Path(self.data_path_csv or self.data_path)
        is_list = any((file / name).is_file() for name in METADATA)
        if self.list_format != "auto" or is_list or not file.is_dir() or detect(file) != "folder":
            return read_list(file, root=root, list_format=self.list_format)
        videos = read_list(file, root=root, list_format="videos")
        if videos.format == FRAME_FOLDERS:
            raise AnnotationError(
                f"{file}: folders of pictures. If each is a video and its pictures are frames, give --list_format "
                "videos; if each is a class of photos, --list_format folder."
            )
        return videos


@dataclass(frozen=True, kw_only=True)
class LabelledListConfig(ListConfig):
    """The lists of a classifier."""

    data_path: str = option(help="folder with train.csv, val.csv and test.csv", metavar="FOLDER")
    eval_data_path: str | None = option(
        None, "folder with val.csv and test.csv; default: that of --data_path", metavar="FOLDER"
    )
    data_set: str = option(
        "Kinetics-400",
        f"whose classes, sampling and test views: custom for own videos, or one of {', '.join(CATALOGUE)}",
        metavar="NAME",
    )
    nb_classes: int | None = option(
        None, "number of classes; default: what the data set or the list says", rule=CLASSES
    )


def find_list(folder: Path, part: str, list_format: str = "auto") -> Path:
    """The list of a part, "train", "val" or "test", in a folder; the usual `PART.csv` if there is none.

    Looked for are PART.csv, .jsonl, .json, .tsv, .txt; the names of published lists; a folder PART (`validation` for
    val) of Hugging Face's VideoFolder. HMDB51's folder of lists is the list itself; so are the folders of ImageNet-1K
    and CIFAR-100.
    """
    if list_format in _WHOLE or folder_format(folder):
        return folder
    official = _OFFICIAL["train" if part == "train" else "val"]
    folders = {"train": ("train",), "val": ("val", "validation"), "test": ("test", "validation", "val")}[part]
    names = [*(part + ending for ending in _ENDINGS), *official, *folders]
    return next((folder / name for name in names if (folder / name).exists()), folder / f"{part}.csv")


@dataclass(frozen=True)
class ClassNames:
    """The names of the classes in label order, () if they are not known, and the file that gives them."""

    names: Sequence[str]
    source: Path


def on_this_process(work: Callable[[], Any]) -> Any:
    """What `work` returns; the default of `once` and `in_turn` for a single process."""
    return work()


def no_names() -> tuple[Sequence[str], Path]:
    """No names and no file; the default where there are no weights that know class names."""
    return (), Path()


def read_parts(
    folders: Mapping[str, Path],
    config: ListConfig,
    *,
    class_folder: Path,
    once: Callable[[Callable[[], int]], int] = on_this_process,
    in_turn: Callable[[Callable[[], VideoList]], VideoList] = on_this_process,
    names_of_weights: Callable[[], tuple[Sequence[str], Path]] = no_names,
    labels: str = "class",
) -> tuple[dict[str, VideoList], dict[str, int]]:
    """The lists of some parts, all with labels, and how many videos of each are missing.

    The names of the classes and their order come from `labels.txt` in `class_folder` if it exists; else from the list
    "train", also where that part is not asked for but a list names its classes; else from the weights that are to be
    tested, if they know all names of the list; else from each list.

    Args:
        folders: part -> the folder that its list is in.
        class_folder: the folder of labels.txt and of the training list.
        once: runs a function on one process and gives its result to all, since all ranks share the file system.
        in_turn: runs a function on every process, on one of them first: it writes the index of a long list, and the
            others only read that.
        names_of_weights: class names that weights were trained with, in label order, and the file that holds them;
            called where a list of another part than "train" is alone in naming its classes.
        labels: what a label is, one of LABELS.

    Returns:
        part -> its list; part -> how many of its videos are missing.

    Raises:
        AnnotationError: a list cannot be read, or does not agree with these names; more than a handful of videos of
            "train", or any of another part, are missing.
    """
    labels_file = class_folder / "labels.txt"
    known = ClassNames(read_class_names(labels_file) if labels_file.exists() else (), labels_file)

    def read(file: Path, part: str) -> VideoList:
        return in_turn(functools.partial(_read_part, file, part, config, names=known, labels=labels))

    lists, missing = {}, {}
    for part, folder in folders.items():
        file = find_list(folder, part, config.list_format)
        videos = read(file, part)
        if videos.class_names and not known.names:
            train_file = None if part == "train" else find_list(class_folder, "train", config.list_format)
            train = read(train_file, "train") if train_file is not None and train_file.exists() else None
            known, note = _choose_names(videos, part, train=train, names_of_weights=names_of_weights)
            if known.source != videos.file:
                videos = read(file, part)
            if note:
                videos = replace(videos, notes=(*videos.notes, note))
        lists[part] = videos
        missing[part] = once(functools.partial(_count_missing, videos, part))
    return lists, missing


def _read_part(file: Path, part: str, config: ListConfig, *, names: ClassNames, labels: str) -> VideoList:
    if part == "val" and not file.exists() and file.parent.is_dir():
        raise AnnotationError(
            f"{file}: no such file. Give a list of videos for validation, or train without: "
            "--disable_eval_during_finetuning."
        )
    return read_list(
        file,
        root=config.data_root,
        require_labels=True,
        list_format=config.list_format,
        class_names=names.names,
        names_from=str(names.source),
        part=part,
        labels=labels,
    )


def _choose_names(
    videos: VideoList,
    part: str,
    *,
    train: VideoList | None,
    names_of_weights: Callable[[], tuple[Sequence[str], Path]],
) -> tuple[ClassNames, str]:
    """The class names that hold where there is no labels.txt, and a note for the list about where they come from.

    Args:
        videos: the first list that names its classes.
        part: its part.
        train: the training list, if that is another and exists.
        names_of_weights: see `read_parts`.
    """
    if train is not None:
        return ClassNames(train.class_names, train.file), ""
    own = ClassNames(videos.class_names, videos.file)
    if part == "train":
        return own, ""
    names, source = names_of_weights()
    if set(videos.class_names) <= set(names):
        return ClassNames(names, source), f"its classes are numbered as in {source}"
    return own, f"its classes are numbered by this list alone, there is no other; {_GIVE_LABELS}"


def _count_missing(videos: VideoList, part: str) -> int:
    limits = {"at_most": _MAX_CHECKED} if part == "train" else {"handful": 0}
    return len(check_files(videos, **limits))


def choose_num_classes(spec: DatasetSpec, requested: int | None, lists: Mapping[str, VideoList]) -> int:
    """The number of classes: `--nb_classes` if given, else that of the lists, which has to be the data set's.

    Raises:
        AnnotationError: the lists, their class names, the data set and `--nb_classes` disagree; with both numbers.
    """
    remedy = "" if "train" in lists else f"; {_GIVE_LABELS}"
    if requested is None:
        return _infer_num_classes(spec, lists, remedy)
    named = next((videos for videos in lists.values() if videos.class_names), None)
    if named is not None and len(named.class_names) != requested:
        raise AnnotationError(
            f"{named.names_from}: {len(named.class_names)} names for {requested} classes (--nb_classes {requested})"
            f"{remedy}"
        )
    return requested


def _infer_num_classes(spec: DatasetSpec, lists: Mapping[str, VideoList], remedy: str) -> int:
    """That of the data set, which the lists must agree with: only lists without training videos may have fewer."""
    expected, found = spec.num_classes, max(count_classes(videos) for videos in lists.values())
    if expected is not None and (found > expected or (found < expected and "train" in lists)):
        first = next(iter(lists.values())).file
        raise AnnotationError(
            f"{first}: the lists have {found} classes, {spec.name} has {expected}: correct the lists, or give "
            f"--nb_classes {found} or --data_set custom{remedy}"
        )
    return expected or found


def describe_part(videos: VideoList, spec: DatasetSpec, *, part: str, num_missing: int) -> str:
    """A list beside the published one, and how its first lines were read; several lines of text."""
    size = spec.published_size(part)
    published = f"; published lists have {size}" if size else ""
    return "\n      ".join([f"{videos.describe()}, {num_missing} files missing{published}", *videos.describe_lines()])


def describe_overlap(lists: Mapping[str, VideoList]) -> str:
    """How many videos of other lists are in the training list too, "" if none; lists of millions are not compared."""
    train = lists.get("train")
    if train is None or len(train) > _MAX_COMPARED:
        return ""
    counts = {part: count_overlap(train, videos) for part, videos in lists.items() if part != "train"}
    return ", ".join(f"{count} videos of {part} are in train as well" for part, count in counts.items() if count)


@dataclass(frozen=True)
class LabelledData:
    """The lists of a data set that a run needs, and what they mean.

    Attributes:
        lists: by part, with what is learnt of each video as labels: see `VideoList.with_targets`.
        num_classes: K; 1 where the lists have numbers.
        class_names: in label order; the labels themselves where no list names its classes.
        is_named: whether one does.
        described: for logs: what is known of each list, and how many videos they share.
    """

    lists: dict[str, VideoList]
    num_classes: int
    class_names: list[str]
    is_named: bool
    described: dict[str, str]


def read_labelled(
    config: LabelledListConfig,
    parts: Sequence[str],
    *,
    once: Callable[[Callable[[], Any]], Any] = on_this_process,
    in_turn: Callable[[Callable[[], Any]], Any] = on_this_process,
    names_of_weights: Callable[[], tuple[Sequence[str], Path]] = no_names,
    labels: str = "class",
    chosen_on_val: bool = False,
) -> LabelledData:
    """Read and check the lists of some parts, "train", "val" or "test".

    Args:
        once, in_turn, names_of_weights, labels: see `read_parts`.
        chosen_on_val: the tested weights are chosen on the list "val", which then must have other videos than "test".

    Raises:
        AnnotationError: a list cannot be read, or does not agree with the others, the data set or `--nb_classes`.
    """
    spec = get_dataset_spec(config.data_set)
    others = config.eval_data_path or config.data_path
    needed = [*parts, *(["val"] if chosen_on_val and "val" not in parts else [])]
    folders = {part: Path(config.data_path if part == "train" else others) for part in needed}
    lists, missing = read_parts(
        folders,
        config,
        class_folder=Path(config.data_path),
        once=once,
        in_turn=in_turn,
        names_of_weights=names_of_weights,
        labels=labels,
    )
    num_classes = 1 if labels == "value" else choose_num_classes(spec, config.nb_classes, lists)
    for videos in lists.values():
        check_labels(videos, num_classes, labels=labels)
    names = next((videos.class_names for videos in lists.values() if videos.class_names), ())
    described = {
        part: describe_part(listed, spec, part=part, num_missing=missing[part]) for part, listed in lists.items()
    }
    if labels == "class" and num_classes == 1:
        described["classes"] = "there is one alone: every answer is right, and nothing can be learnt"
    if overlap := once(lambda: describe_overlap(lists)):
        described["overlap"] = overlap
    if chosen_on_val and (common := once(lambda: refuse_same_videos(lists["val"], lists["test"]))):
        described["chosen on val"] = f"{common} videos of test are in val as well, where the tested weights are chosen"
    return LabelledData(
        {part: lists[part].with_targets(num_classes) for part in parts},
        num_classes,
        class_names=list(names) or [str(label) for label in range(num_classes)],
        is_named=bool(names),
        described=described,
    )
