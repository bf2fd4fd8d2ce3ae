"""What the training and the evaluation have to know about a data set: one row each.

The values are defaults: every one of them but the name has a flag of its own.
"""

from dataclasses import dataclass
from typing import Any, Literal

from .errors import AnnotationError

Metric = Literal["top1", "mean_per_class", "mAP", "MAE", "mIoU"]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A row of the catalogue.

    Attributes:
        name: what `--data_set` takes.
        num_classes: None where only the list can tell, or where there are no classes.
        sampler: "dense" takes frames a stride apart, "uniform" one from each of as many segments (datasets.sampling).
        sampling_rate: frames between two frames of a dense clip.
        flip: whether a mirrored video keeps its label.
        test_num_segment, test_num_crop: clips of a video, and crops of a clip, that are averaged at test time.
        metric: what the published numbers are: "top1" over videos, "mean_per_class" (of the classes in the test list),
            "mAP" over classes, "MAE" relative to the count, "mIoU" over clips.
        list_format: `--list_format` of the lists it is published with; "" if those are not lists of videos.
        known_train, known_val: videos in the lists that published numbers come from; None where there is no one list.
    """

    name: str
    num_classes: int | None
    sampler: Literal["dense", "uniform"] = "dense"
    sampling_rate: int = 4
    flip: bool = True
    test_num_segment: int = 5
    test_num_crop: int = 3
    metric: Metric = "top1"
    list_format: str = ""
    known_train: int | None = None
    known_val: int | None = None

    def known(self, part: str) -> int | None:
        """Videos in the known list of "train", "val" or "test": val and test are the same list."""
        return self.known_train if part == "train" else self.known_val


_IMAGES: Any = {"sampling_rate": 1, "test_num_segment": 1, "test_num_crop": 1, "list_format": "folder"}
_OBJECTS: Any = {"num_classes": None, "sampling_rate": 1, "flip": False, "test_num_segment": 1, "test_num_crop": 1}
_ROWS = (
    DataSet(name="Kinetics-400", num_classes=400, list_format="kinetics", known_train=240_436, known_val=19_796),
    # "moving left to right" must not be mirrored
    DataSet(
        name="SSV2",
        num_classes=174,
        sampler="uniform",
        sampling_rate=2,
        flip=False,
        test_num_segment=2,
        list_format="ssv2",
        known_train=168_913,
        known_val=24_777,
    ),
    DataSet(name="UCF101", num_classes=101, list_format="ucf101", known_train=9_537, known_val=3_783),  # split 1
    DataSet(name="HMDB51", num_classes=51, list_format="hmdb51", known_train=3_570, known_val=1_530),  # split 1
    DataSet(name="DIV48", num_classes=48),
    DataSet(name="GYM99", num_classes=99, list_format="gym", known_train=20_484, known_val=8_521),
    # floor exercise and uneven bars, parts of GYM99: see datasets/lists/subsets.py
    DataSet(name="FXS1", num_classes=11, metric="mean_per_class", list_format="gym", known_train=1_882, known_val=777),
    DataSet(
        name="UBS1", num_classes=15, metric="mean_per_class", list_format="gym", known_train=3_511, known_val=1_471
    ),
    # a clip of 16 frames spans 10 s; 10 x 3 views, of which each class takes the highest score
    DataSet(
        name="Charades",
        num_classes=157,
        sampling_rate=16,
        test_num_segment=10,
        metric="mAP",
        list_format="charades",
        known_train=7_985,
        known_val=1_863,
    ),
    DataSet(
        name="UCFRep",
        num_classes=None,
        test_num_segment=1,
        test_num_crop=1,
        metric="MAE",
        known_train=421,
        known_val=105,
    ),
    DataSet(name="ImageNet-1K", num_classes=1000, known_train=1_281_167, known_val=50_000, **_IMAGES),
    DataSet(name="CIFAR-100", num_classes=100, known_train=50_000, known_val=10_000, **_IMAGES),
    DataSet(name="DAVIS", metric="mIoU", known_val=30, **_OBJECTS),  # 2017, 480p
    DataSet(name="YTVOS", metric="mIoU", known_train=2_776, known_val=695, **_OBJECTS),  # 2018, 80/20 split
    # datasets/synthetic.py: left and right are classes
    DataSet(name="Synthetic", num_classes=10, sampling_rate=1, flip=False, test_num_segment=2),
    DataSet(name="custom", num_classes=None),
)
CATALOGUE = {row.name: row for row in _ROWS}


def get_data_set(name: str) -> DataSet:
    """The row of a data set.

    Raises:
        AnnotationError: there is no such row.
    """
    if name not in CATALOGUE:
        raise AnnotationError(
            f"unknown data set '{name}': choose from {', '.join(CATALOGUE)}. Your own videos are `--data_set custom`."
        )
    return CATALOGUE[name]
