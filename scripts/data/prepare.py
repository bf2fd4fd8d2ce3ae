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
  charades-actions
              Charades_v1_train.csv, Charades_v1_test.csv; Charades_v1_classes.txt gives names
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
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.errors import AnnotationError, ShardError
from datasets.lists.checks import check_files
from datasets.lists.formats.table import LIST_FORMATS
from datasets.lists.subsets import GYM_LABELS, check_known_subset, draw_subset, select, select_labels
from datasets.lists.video_list import VideoList
from engine.errors import ConfigError, user_errors
from engine.files import replace_text
from scripts.data.jobs import positive
from scripts.data.list_report import overlaps, published_size, report
from scripts.data.lists import absolute, is_plain, records, write_list
from scripts.data.reports import sibling
from scripts.data.sources import PARTS, find_lists, read_parts
from scripts.data.split import GROUPS, read_groups, shares_of
from scripts.data.split import split as split_videos
from sigma_video.command_line import CommandLine

FEW = "1000"  # of --subset
_DRAWN_FROM = {"ucf101": "UCF101", "gym": "GYM99"}
_SHOWN = 3  # examples of a fault


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    return [*notes, f"{out}: {', '.join(written)}", f"next: {sibling('check')} {_lists_to_check(out, lists)}"]


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
    return shlex.join(str(out / f"{part}.{ending}") for part in PARTS if (out / f"{part}.{ending}").is_file())


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
