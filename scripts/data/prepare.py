"""Write the lists that training reads, from what a data set comes with.

  python scripts/data/prepare.py --from kinetics ANNOTATIONS --videos VIDEOS --out lists/k400

ANNOTATIONS is the folder of the downloaded annotation files (or one list), VIDEOS the folder of the videos. The output
folder gets train.csv, val.csv and test.csv (`path label` a line), labels.txt (names of the classes), the same as
train.jsonl, ... (with names, and for data with several labels a video only these), and missing.txt with the listed
videos that are not there, which are left out. Then `scripts/data/check.py` tries to decode them all.

What is read, in ANNOTATIONS (--train, --val and --test name other files):

  kinetics    train.csv, val.csv or validate.csv, with label,youtube_id,time_start,time_end
  ssv2        *train.json, *validation.json, and labels.json (*-labels.json) beside them
  ucf101      trainlist01.txt, testlist01.txt and classInd.txt; --split 2 for trainlist02.txt
  hmdb51      CLASS_test_split1.txt of all classes; --split 2 for another split
  gym         *train*.txt, *val*.txt of FineGym
  charades    train.csv, val.csv: frame lists as SlowFast has them; VIDEOS holds the folders of frames
  diving48    Diving48_V2_train.json, Diving48_V2_test.json; Diving48_vocab.json gives names
  moments     trainingSet.csv, validationSet.csv of Moments in Time; moments_categories.txt numbers the classes
  epic-verb, epic-noun, epic-action
              EPIC_100_train.csv, EPIC_100_validation.csv; the label is verb_class, noun_class or the pair
  hacs        HACS_clips*.csv; the clips in which the class is seen, as parts of the videos
  activitynet one .json with a `database`, of ActivityNet or HACS segments; every segment is a part of its video
  folder      train/CLASS/x.mp4, val/CLASS/y.mp4; or CLASS/x.mp4, which is all for training; no --videos.
              --split 80/10/10 divides the latter, class by class; a groups.csv (path,group) in the folder names
              videos that have to be in one part
  csv, jsonl, videomae, mmaction, videomaev2
              *train*, *val*, *test* of that form (see DATASET.md); for mmaction `folder frames label`, for videomaev2
              `path start length`

--subset writes a part that the paper tests on: 1000, about as many training videos of ucf101 or gym, all of the other
lists; FXS1 or UBS1, the classes of gym on floor exercise or uneven bars.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.catalogue import CATALOGUE
from datasets.errors import AnnotationError, ShardError
from datasets.lists.checks import check_files
from datasets.lists.formats import LIST_FORMATS
from datasets.lists.read import read_list
from datasets.lists.subsets import GYM_LABELS, check_known_subset, draw_subset, select, select_labels
from datasets.lists.video_list import VideoList, sample_name
from engine.errors import ConfigError, user_errors
from engine.files import replace_text
from scripts.data.jobs import positive
from scripts.data.lists import absolute, is_plain, records, write_list
from scripts.data.split import GROUPS, read_groups, shares_of
from scripts.data.split import split as split_videos

PARTS = ("train", "val", "test")
_NAMES = {"train": r"train", "val": r"val", "test": r"test"}  # in the names of lists; `val` is in `validation` too
_ENDINGS = {
    "kinetics": (".csv",),
    "ssv2": (".json",),
    "gym": (".txt",),
    "charades": (".csv",),
    "csv": (".csv", ".tsv", ".txt"),
    "jsonl": (".jsonl",),
    "diving48": (".json",),
    "moments": (".csv",),
    "hacs": (".csv",),
    "activitynet": (".json",),
    **dict.fromkeys(("epic-verb", "epic-noun", "epic-action"), (".csv",)),
}
_ALL_IN_ONE = ("hacs", "activitynet")  # one list for all parts
FEW = "1000"  # of --subset
_DRAWN_FROM = {"ucf101": "UCF101", "gym": "GYM99"}
_ANY_ENDING = (".csv", ".txt", ".lst", ".list")
_SHOWN = 3  # examples of a fault


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("source", metavar="ANNOTATIONS", nargs="?", help="folder of the annotation files, or one list")
    options.add_argument(
        "--from", dest="form", required=True, choices=[name for name in LIST_FORMATS if name != "auto"]
    )
    options.add_argument("--videos", default="", metavar="FOLDER", help="what the paths in the lists start from")
    options.add_argument("--out", required=True, metavar="FOLDER", help="for the lists")
    options.add_argument(
        "--split", type=_split, metavar="N|80/10/10", help="of ucf101 and hmdb51: which (default: 1); of folder: shares"
    )
    options.add_argument("--seed", type=int, default=0, help="of --split 80/10/10 (default: 0)")
    options.add_argument("--subset", choices=(FEW, *GYM_LABELS), help="a part of the lists that the paper tests on")
    for part in PARTS:
        options.add_argument(f"--{part}", metavar="FILE", help=f"the {part} list, where its name does not say so")
    return options


def _split(text: str) -> int | tuple[int, ...]:
    try:
        return shares_of(text) if "/" in text else positive(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# ------------------------------------------------------------------------------------------------- finding the lists


def find_lists(form: str, source: Path | None, split: int) -> dict[str, Path]:
    """The list of each part of a data set.

    Raises:
        ConfigError: there is none, or there are two for a part.
    """
    if source is None:
        return {}
    if not source.exists():
        raise ConfigError(f"{source} does not exist: give the folder of the annotation files, or a list")
    if form == "hmdb51":
        return {"train": source, "test": source}
    if form in _ALL_IN_ONE:
        return dict.fromkeys(("train", "val"), _only_list(form, source))
    if source.is_file():
        return {_part_of(source.name) or "train": source}
    if form == "ucf101":
        lists = {"train": source / f"trainlist{split:02}.txt", "test": source / f"testlist{split:02}.txt"}
        return {part: file for part, file in lists.items() if file.is_file()}
    if form == "folder":
        found = {part: folder for part in PARTS if (folder := _subfolder(source, part)) is not None}
        return found or {"train": source}
    return _by_name(form, source)


def _part_of(name: str) -> str | None:
    return next((part for part, pattern in _NAMES.items() if re.search(pattern, name.lower())), None)


def _subfolder(source: Path, part: str) -> Path | None:
    names = (part, "validation") if part == "val" else (part,)
    return next((source / name for name in names if (source / name).is_dir()), None)


def _only_list(form: str, source: Path) -> Path:
    """The one list of a data set that has all parts in it."""
    files = [source] if source.is_file() else sorted(file for file in source.iterdir() if file.suffix in _ENDINGS[form])
    if len(files) != 1:
        raise ConfigError(f"{source}: {len(files)} files {' or '.join(_ENDINGS[form])}; give the list of {form} itself")
    return files[0]


def _by_name(form: str, source: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    endings = _ENDINGS.get(form, _ANY_ENDING)
    for file in sorted(source.iterdir()):
        part = _part_of(file.name)
        if part is None or file.suffix.lower() not in endings or not file.is_file():
            continue
        if part in found:
            raise ConfigError(f"{found[part]} and {file}: two lists; name the right ones with --train, --val, --test")
        found[part] = file
    if not found:
        raise ConfigError(
            f"{source}: no {' or '.join(endings)} with train, val or test in its name; name the lists with --train, "
            "--val, --test"
        )
    return found


def read_parts(files: Mapping[str, Path], *, root: str, form: str, split: int) -> dict[str, VideoList]:
    """Read the lists; classes that have names have the same numbers in all.

    Args:
        files: part -> its list.
        root: folder that relative paths start from.
        form: the format of the lists.
        split: number of the split, for formats that hold several.

    Raises:
        AnnotationError: one cannot be read.
    """
    lists: dict[str, VideoList] = {}
    names: tuple[str, ...] = ()
    for part, file in files.items():
        videos = read_list(
            file,
            root=root,
            list_format=form,
            class_names=names,
            names_from=str(next(iter(files.values()))),
            part=part,
            split=split,
        )
        names = names or videos.class_names
        lists[part] = videos
    return lists


def take_subset(subset: str, form: str, lists: Mapping[str, VideoList]) -> dict[str, VideoList]:
    """The part of the lists that `--subset` names.

    Raises:
        ConfigError: data of this form have no such part.
        AnnotationError: the lists are not the published ones.
    """
    if subset in GYM_LABELS and form == "gym":
        return {part: select_labels(videos, GYM_LABELS[subset]) for part, videos in lists.items()}
    if subset != FEW or form not in _DRAWN_FROM or "train" not in lists:
        raise ConfigError(f"--subset {subset}: {FEW} is of the training list of ucf101 and gym, others are of gym")
    train = lists["train"]
    places = draw_subset(train.labels)
    check_known_subset(_DRAWN_FROM[form], train, places)
    return {**lists, "train": select(train, places)}


# ------------------------------------------------------------------------------------------------- report


def published_size(form: str, part: str, videos: VideoList) -> int | None:
    """How many videos the published list has, if it is known; a data set is known by its format and classes."""
    rows = [row for row in CATALOGUE.values() if row.list_format == form and row.num_classes == videos.num_classes]
    return rows[0].published_size(part) if len(rows) == 1 else None


def report(part: str, videos: VideoList, missing: set[str], known: int | None) -> list[str]:
    """What is to be told of a part."""
    beside = f" (published lists: {known:,})" if known else ""
    kept = sum(path not in missing for path in videos.paths)
    lines = [f"{part}: {kept:,} of {len(videos):,} videos{beside}, {videos.num_classes} classes"]
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


def missing_files(part: str, videos: VideoList, *, few: bool = False) -> set[str]:
    """Videos of a list that are not there.

    Args:
        few: these are the few that were drawn to train on: a result with fewer could not be compared.

    Raises:
        ConfigError: none is there, or not all of the few.
    """
    missing = set(check_files(videos, handful=len(videos)))
    if few and missing:
        raise ConfigError(
            f"{part}: {len(missing):,} of the {len(videos):,} videos that --subset {FEW} draws are not there, for "
            f"example {min(missing)}: without them it is another subset"
        )
    if len(missing) == len(set(videos.paths)):
        raise ConfigError(
            f"{part}: none of the {len(videos):,} videos is there, for example {', '.join(videos.paths[:_SHOWN])}: "
            "check --videos"
        )
    return missing


def _split_folder(lists: Mapping[str, VideoList], shares: Sequence[int], seed: int) -> dict[str, VideoList]:
    """The parts of a folder of classes that has none yet."""
    if set(lists) != {"train"} or lists["train"].file.name == "train":
        raise ConfigError(f"--split: {', '.join(lists)} are folders already; give a folder of classes, or no --split")
    videos = lists["train"]
    file = videos.file / GROUPS
    names = [path.removeprefix(f"{videos.root}/") for path in videos.paths]
    groups = read_groups(file, names) if file.is_file() else {}
    parts, notes = split_videos(videos, shares, groups=groups, seed=seed)
    print("\n".join([*notes, *(f"  {note}" for note in videos.notes)]))
    return parts


def prepare(
    files: Mapping[str, Path],
    out: Path,
    *,
    form: str,
    root: str,
    split: int | tuple[int, ...] = 1,
    seed: int = 0,
    subset: str | None = None,
) -> None:
    """Read the lists of a data set, print what was read, and write them for training.

    Args:
        files: part -> its list.
        out: the output folder.
        form: the format of the lists.
        root: folder of the videos.
        split: number of the split, for formats that hold several; of a folder of classes, the shares of the parts.
        seed: of these parts.
        subset: see `take_subset`; None: all of the lists.
    """
    number, shares = (split, None) if isinstance(split, int) else (1, split)
    if shares and form != "folder":
        raise ConfigError("--split 80/10/10 is for --from folder; others have a number or the split they come with")
    lists = read_parts({part: files[part] for part in PARTS if part in files}, root=root, form=form, split=number)
    if shares:
        lists = _split_folder(lists, shares, seed)
    if subset:
        lists = take_subset(subset, form, lists)
    missing: dict[str, set[str]] = {}
    for part, videos in lists.items():
        few = subset == FEW and part == "train"
        missing[part] = missing_files(part, videos, few=few)
        known = None if few else published_size(form, part, videos)
        print("\n".join(report(part, videos, missing[part], known)))
    print("\n".join([*overlaps(lists), *write_all(out, lists, missing)]))


def write_all(out: Path, lists: Mapping[str, VideoList], missing: Mapping[str, set[str]]) -> list[str]:
    """Write the lists, labels.txt and missing.txt to a folder.

    Args:
        out: the folder; made if it does not exist.
        lists: part -> its list.
        missing: part -> paths that do not exist and are left out.

    Returns:
        Lines of text that say what was written, and the next command.

    Raises:
        ConfigError: the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from error
    notes = _write_parts(out, lists, missing=missing)
    names = max((videos.class_names for videos in lists.values()), key=len)
    if names:
        replace_text(out / "labels.txt", "".join(f"{name}\n" for name in names))
    absent = [f"{part}\t{path}\n" for part, paths in missing.items() for path in sorted(paths)]
    replace_text(out / "missing.txt", "".join(absent))
    written = sorted(path.name for path in out.iterdir() if path.is_file())
    return [*notes, f"{out}: {', '.join(written)}", f"next: python scripts/data/check.py {_lists_to_check(out, lists)}"]


def _write_parts(out: Path, lists: Mapping[str, VideoList], *, missing: Mapping[str, set[str]]) -> list[str]:
    """Write every part; of val and test each stands in for the other where that has no labels or no list."""
    labelled = {part: videos for part, videos in lists.items() if part != "test" or videos.num_classes}
    lines = []
    if len(labelled) < len(lists):
        lines.append("test: has no labels, so that nothing can be tested on it; it is written as test.unlabelled.csv")
    for part, videos in lists.items():
        name = part if part in labelled else f"{part}.unlabelled"
        write_part(out, name, videos, missing[part])
    for part, other in (("test", "val"), ("val", "test")):
        if part not in labelled and other in labelled:
            write_part(out, part, labelled[other], missing[other])
            lines.append(f"{part}: no list of its own, so it is the same as {other}")
    return lines


def _lists_to_check(out: Path, lists: Mapping[str, VideoList]) -> str:
    ending = "csv" if all(map(is_plain, lists.values())) else "jsonl"
    return " ".join(str(out / f"{part}.{ending}") for part in PARTS if (out / f"{part}.{ending}").is_file())


def write_part(out: Path, name: str, videos: VideoList, missing: set[str]) -> None:
    """A part as `.jsonl`, and where that holds all of it, as `.csv`."""
    absent = {absolute(path) for path in missing}
    rows = [record for record in records(videos) if record["path"] not in absent]
    write_list(out / f"{name}.jsonl", rows, plain=False)
    if is_plain(videos):
        write_list(out / f"{name}.csv", rows, plain=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with user_errors(AnnotationError, ShardError):
        args = parser().parse_args(argv)
        source = Path(args.source) if args.source else None
        if isinstance(args.split, int) and args.form == "folder":
            raise ConfigError("--split of a folder has shares, as 80/10/10")
        files = find_lists(args.form, source, args.split if isinstance(args.split, int) else 1)
        files |= {part: Path(file) for part in PARTS if (file := getattr(args, part))}
        if not files:
            raise ConfigError(
                f"no lists of {args.form} in {source}: see --help for their names, or give --train, --val, --test"
            )
        prepare(
            files,
            Path(args.out),
            form=args.form,
            root=args.videos,
            split=args.split or 1,
            seed=args.seed,
            subset=args.subset,
        )


if __name__ == "__main__":
    main()
