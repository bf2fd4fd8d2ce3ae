"""The data behind the tables: where each data set lies below --data_root, and the lists that are written from it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

PREPARE = Path(__file__).parent / "data" / "prepare.py"
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class DataFolder:
    """A data set as it is downloaded.

    Attributes:
        folder: its name below --data_root.
        form: `--from` of prepare.py; "": it is read as it is.
        lists, videos: folders in it, by any of these names, with annotation files and videos; (): the folder itself.
        files: what `lists` has to hold.
        subset: `--subset` of prepare.py.
        other_form: in place of `form`, and the file in `lists` that it is for.
    """

    folder: str
    form: str = ""
    lists: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    files: str = ""
    subset: str = ""
    other_form: tuple[str, str] = ("", "")

    def layout(self, root: Path) -> str:
        """What is wanted, for messages."""
        if not self.form:
            return f"{root / self.folder} with {self.files}"
        lists, videos = (" or ".join(f"{name}/" for name in names) for names in (self.lists, self.videos))
        return f"{root / self.folder} with {lists} ({self.files}) and {videos}"

    def missing(self, root: Path) -> bool:
        """Whether a folder of the layout is not there."""
        groups = (self.lists, self.videos) if self.form else ()
        return not (root / self.folder).is_dir() or any(self.found(root, names) is None for names in groups)

    def found(self, root: Path, names: tuple[str, ...]) -> Path | None:
        """The first of these folders that is there."""
        return next((path for name in names if (path := root / self.folder / name).is_dir()), None)

    def command(self, root: Path, out: Path) -> tuple[str, ...]:
        """Writes the lists to a folder."""
        lists, videos = (
            self.found(root, names) or root / self.folder / names[0] for names in (self.lists, self.videos)
        )
        other, sign = self.other_form
        form = other if sign and (lists / sign).is_file() else self.form
        words = [sys.executable, str(PREPARE), "--from", form, str(lists), "--videos", str(videos)]
        return (*words, *(["--subset", self.subset] if self.subset else []), "--out", str(out))


_K400 = DataFolder("k400", "kinetics", ("annotations", "labels"), ("videos", "VideoData"), "train.csv, val.csv")
_SSV2 = DataFolder(
    "ssv2",
    "ssv2",
    ("annotations", "labels", "something-something-v2-annotations"),
    ("videos", "20bn-something-something-v2", "something-something-v2-videos_avi"),
    "*train.json, *validation.json, labels.json",
)
_UCF101 = ("ucf101", "ucf101", ("ucfTrainTestlist", "annotations"), ("UCF-101", "videos"), "trainlist01.txt and others")
_GYM99 = ("gym99", "gym", ("annotations",), ("videos", "subactions"), "gym99_train.txt, gym99_val.txt")
_MASKED = "JPEGImages, Annotations and the list of its split"
DATA: Mapping[str, DataFolder] = MappingProxyType(  # by the name of their lists in the recipes
    {
        "k400": _K400,
        "ssv2": _SSV2,
        "ucf101": DataFolder(*_UCF101),
        "ucf101-1000": DataFolder(*_UCF101, subset="1000"),
        "hmdb51": DataFolder("hmdb51", "hmdb51", ("splits", "annotations"), ("videos",), "CLASS_test_split1.txt"),
        "gym99": DataFolder(*_GYM99),
        "gym99-1000": DataFolder(*_GYM99, subset="1000"),
        "fxs1": DataFolder(*_GYM99, subset="FXS1"),
        "ubs1": DataFolder(*_GYM99, subset="UBS1"),
        "charades": DataFolder(
            "charades",
            "charades",
            ("annotations", "frame_lists", "Charades"),
            ("videos", "Charades_v1_rgb", "Charades_v1_480"),
            "train.csv, val.csv; or Charades_v1_train.csv, Charades_v1_test.csv",
            other_form=("charades-actions", "Charades_v1_train.csv"),
        ),
        "imagenet": DataFolder("imagenet", files="ILSVRC/Data/CLS-LOC and LOC_val_solution.csv, or train/ and val/"),
        "cifar100": DataFolder("cifar100", files="cifar-100-python/"),
        "ucfrep": DataFolder("ucfrep", files="annotations/train, annotations/val and imgs/"),
        "DAVIS": DataFolder("DAVIS", files=_MASKED),
        "YTVOS": DataFolder("YTVOS", files=f"{_MASKED}, meta.json"),
    }
)


def lists_are_written(folder: Path) -> bool:
    """Whether a folder has all lists: prepare.py writes missing.txt last; without its own lists a user has put them."""
    whole = all(any((folder / f"{part}{ending}").is_file() for ending in (".csv", ".jsonl")) for part in PARTS)
    return whole and ((folder / "missing.txt").is_file() or not (folder / "job.json").is_file())
