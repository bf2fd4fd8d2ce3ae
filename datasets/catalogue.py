"""What the training and the evaluation have to know about a data set: one row each.

The values are defaults: every one of them but the name has a flag of its own.
"""

from dataclasses import dataclass
from typing import Literal

from datasets.annotations import AnnotationError


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A row of the catalogue.

    Attributes:
        name: what `--data_set` takes.
        num_classes: None where only the list can tell.
        sampler: "dense" takes frames a stride apart, "uniform" one from each of as many segments (datasets.sampling).
        sampling_rate: frames between two frames of a dense clip.
        flip: whether a mirrored video keeps its label.
        test_num_segment, test_num_crop: clips of a video, and crops of a clip, that are averaged at test time.
        known_train, known_val: videos in the lists that published numbers come from; None where there is no one list.
    """

    name: str
    num_classes: int | None
    sampler: Literal["dense", "uniform"] = "dense"
    sampling_rate: int = 4
    flip: bool = True
    test_num_segment: int = 5
    test_num_crop: int = 3
    known_train: int | None = None
    known_val: int | None = None


_ROWS = (
    DataSet(name="Kinetics-400", num_classes=400, known_train=240_436, known_val=19_796),
    # "moving left to right" must not be mirrored
    DataSet(
        name="SSV2",
        num_classes=174,
        sampler="uniform",
        sampling_rate=2,
        flip=False,
        test_num_segment=2,
        known_train=168_913,
        known_val=24_777,
    ),
    DataSet(name="UCF101", num_classes=101, known_train=9_537, known_val=3_783),  # split 1
    DataSet(name="HMDB51", num_classes=51, known_train=3_570, known_val=1_530),  # split 1
    DataSet(name="DIV48", num_classes=48),
    DataSet(name="GYM99", num_classes=99, known_train=20_484, known_val=8_521),
    DataSet(name="FXS1", num_classes=11, known_train=1_882, known_val=777),  # floor exercise, a part of GYM99
    DataSet(name="UBS1", num_classes=15, known_train=3_511, known_val=1_471),  # uneven bars, a part of GYM99
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
