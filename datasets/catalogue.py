"""The data sets: one row each, with what training and evaluation need to know.

The values are defaults: each of them but the name can be changed by a flag.
"""

from dataclasses import dataclass
from typing import Any, Literal

from sigma_video.command_line import did_you_mean

from .errors import AnnotationError

Metric = Literal["top1", "mean_per_class", "mAP", "MAE", "mIoU"]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set: classes, sampling, test views, metric and list format.

    Attributes:
        name: what `--data_set` takes.
        num_classes: None where only the list can tell, or where there are no classes.
        sampler: "dense" and "strided" take frames a stride apart, "uniform" one from each segment of the video: see
            `datasets.sampling`.
        sampling_rate: the stride of a dense or strided clip, in frames.
        flip: whether a horizontally flipped video keeps its label.
        test_num_segment, test_num_crop: clips per video and crops per clip at test time.
        view_pooling: what is taken of the scores of these views, "mean" or "max".
        metric: the published metric: "top1" over videos, "mean_per_class" accuracy (over the classes in the test list),
            "mAP" over classes, "MAE" relative to the count, "mIoU" over clips.
        list_format: `--list_format` of the published lists; "" if those are not lists of videos.
        images: whether its samples are images, which make clips of one frame, repeated.
        num_train, num_val: videos in the published lists; None where there is no single list.
    """

    name: str
    num_classes: int | None
    sampler: Literal["dense", "strided", "uniform"] = "dense"
    sampling_rate: int = 4
    flip: bool = True
    test_num_segment: int = 5
    test_num_crop: int = 3
    view_pooling: Literal["mean", "max"] = "mean"
    metric: Metric = "top1"
    list_format: str = ""
    images: bool = False
    num_train: int | None = None
    num_val: int | None = None

    def published_size(self, part: str) -> int | None:
        """Videos in the published list of "train", or of "val" and "test", which are one list; None if unknown."""
        return self.num_train if part == "train" else self.num_val


_IMAGES: Any = {"sampling_rate": 1, "test_num_segment": 1, "test_num_crop": 1, "images": True}
_OBJECTS: Any = {"num_classes": None, "sampling_rate": 1, "flip": False, "test_num_segment": 1, "test_num_crop": 1}
_ROWS = (
    DatasetSpec(name="Kinetics-400", num_classes=400, list_format="kinetics", num_train=240_436, num_val=19_796),
    # "moving left to right" must not be flipped
    DatasetSpec(
        name="SSV2",
        num_classes=174,
        sampler="uniform",
        sampling_rate=2,
        flip=False,
        test_num_segment=2,
        list_format="ssv2",
        num_train=168_913,
        num_val=24_777,
    ),
    DatasetSpec(name="UCF101", num_classes=101, list_format="ucf101", num_train=9_537, num_val=3_783),  # split 1
    DatasetSpec(name="HMDB51", num_classes=51, list_format="hmdb51", num_train=3_570, num_val=1_530),  # split 1
    DatasetSpec(name="DIV48", num_classes=48, list_format="diving48"),
    DatasetSpec(name="GYM99", num_classes=99, list_format="gym", num_train=20_484, num_val=8_521),
    # floor exercise and uneven bars, parts of GYM99: see datasets/lists/subsets.py
    DatasetSpec(name="FXS1", num_classes=11, metric="mean_per_class", list_format="gym", num_train=1_882, num_val=777),
    DatasetSpec(
        name="UBS1", num_classes=15, metric="mean_per_class", list_format="gym", num_train=3_511, num_val=1_471
    ),
    # a clip of 16 frames spans 10 s; of the 10 x 3 views each class takes the maximum score
    DatasetSpec(
        name="Charades",
        num_classes=157,
        sampler="strided",
        sampling_rate=16,
        test_num_segment=10,
        view_pooling="max",
        metric="mAP",
        list_format="charades",
        num_train=7_985,
        num_val=1_863,
    ),
    DatasetSpec(
        name="UCFRep",
        num_classes=None,
        test_num_segment=1,
        test_num_crop=1,
        metric="MAE",
        num_train=421,
        num_val=105,
    ),
    DatasetSpec(
        name="ImageNet-1K",
        num_classes=1000,
        list_format="imagenet",
        num_train=1_281_167,
        num_val=50_000,
        **_IMAGES,
    ),
    DatasetSpec(name="CIFAR-100", num_classes=100, list_format="cifar100", num_train=50_000, num_val=10_000, **_IMAGES),
    DatasetSpec(name="DAVIS", metric="mIoU", num_val=30, **_OBJECTS),  # 2017, 480p
    DatasetSpec(name="YTVOS", metric="mIoU", num_train=2_776, num_val=695, **_OBJECTS),  # 2018, 80/20 split
    # datasets/synthetic.py: left and right are classes
    DatasetSpec(name="Synthetic", num_classes=10, sampling_rate=1, flip=False, test_num_segment=2),
    DatasetSpec(name="custom", num_classes=None),
)
CATALOGUE = {row.name: row for row in _ROWS}
_ALIASES = {  # what others call them
    "K400": "Kinetics-400",
    "Something-Something-V2": "SSV2",
    "sthv2": "SSV2",
    "SSv2": "SSV2",
    "Diving48": "DIV48",
    "FineGym99": "GYM99",
    "image_folder": "custom",
}


def get_dataset_spec(name: str) -> DatasetSpec:
    """The data set of a name, as given to `--data_set`.

    Raises:
        AnnotationError: there is none.
    """
    if name not in CATALOGUE:
        raise AnnotationError(
            f"--data_set {name}: unknown.{did_you_mean(name, CATALOGUE, aliases=_ALIASES)} Choose from "
            f"{', '.join(CATALOGUE)}; your own videos are `--data_set custom`."
        )
    return CATALOGUE[name]
