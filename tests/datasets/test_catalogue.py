"""The catalogue has every name of the released `--data_set` and every data set of the paper, with its protocol."""

import dataclasses

import pytest

from datasets.catalogue import CATALOGUE, get_dataset_spec
from datasets.classification import ViewConfig
from datasets.errors import AnnotationError
from datasets.lists.formats.table import READERS
from datasets.sampling import ClipConfig

RELEASED = {"Kinetics-400", "SSV2", "UCF101", "HMDB51", "DIV48", "GYM99", "FXS1", "UBS1"}
IMAGES = {"ImageNet-1K", "CIFAR-100"}
OBJECTS = {"DAVIS", "YTVOS"}
KNOWN = RELEASED | IMAGES | OBJECTS | {"Charades", "UCFRep", "Synthetic", "custom"}  # a new row stands beside them


def test_names():
    assert set(CATALOGUE) >= KNOWN
    assert all(name == row.name for name, row in CATALOGUE.items())


def test_number_of_classes():
    expected = {"Kinetics-400": 400, "SSV2": 174, "UCF101": 101, "HMDB51": 51, "DIV48": 48, "GYM99": 99, "FXS1": 11}
    expected |= {"UBS1": 15, "custom": None, "Charades": 157, "ImageNet-1K": 1000, "CIFAR-100": 100, "DAVIS": None}
    for name, num_classes in expected.items():
        assert get_dataset_spec(name).num_classes == num_classes


PROTOCOLS = {  # sampler, stride, mirrored, clips and crops at test
    "SSV2": ("uniform", 2, False, 2, 3),
    "Charades": ("strided", 16, True, 10, 3),
    "UCFRep": ("dense", 4, True, 1, 1),
    **dict.fromkeys(IMAGES, ("dense", 1, True, 1, 1)),
    **dict.fromkeys(OBJECTS, ("dense", 1, False, 1, 1)),
    "Synthetic": ("dense", 1, False, 2, 3),
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_protocols(name):
    row = get_dataset_spec(name)
    found = row.sampler, row.sampling_rate, row.flip, row.test_num_segment, row.test_num_crop
    assert found == PROTOCOLS.get(name, ("dense", 4, True, 5, 3))


def test_only_something_something_is_uniform():
    for name in RELEASED | {"custom"}:
        row = CATALOGUE[name]
        assert (row.sampler, row.flip) == (("uniform", False) if name == "SSV2" else ("dense", True))
        assert (row.test_num_segment, row.test_num_crop) == ((2, 3) if name == "SSV2" else (5, 3))
    assert {name for name in KNOWN if CATALOGUE[name].sampler == "uniform"} == {"SSV2"}
    assert get_dataset_spec("Kinetics-400").sampling_rate == 4


def test_images_and_objects_have_one_view():
    for name in IMAGES | OBJECTS:
        row = CATALOGUE[name]
        assert (row.sampling_rate, row.test_num_segment, row.test_num_crop) == (1, 1, 1)


def test_metrics():
    other = {"FXS1": "mean_per_class", "UBS1": "mean_per_class", "Charades": "mAP", "UCFRep": "MAE"}
    other |= dict.fromkeys(OBJECTS, "mIoU")
    assert {name: CATALOGUE[name].metric for name in KNOWN if CATALOGUE[name].metric != "top1"} == other


def test_known_sizes():
    sizes = {
        "Kinetics-400": (240_436, 19_796), "SSV2": (168_913, 24_777), "UCF101": (9_537, 3_783),
        "HMDB51": (3_570, 1_530), "GYM99": (20_484, 8_521), "FXS1": (1_882, 777), "UBS1": (3_511, 1_471),
        "Charades": (7_985, 1_863), "UCFRep": (421, 105), "ImageNet-1K": (1_281_167, 50_000),
        "CIFAR-100": (50_000, 10_000), "DAVIS": (None, 30), "YTVOS": (2_776, 695),
    }  # fmt: skip
    found = {
        name: (row.published_size("train"), row.published_size("test"))
        for name, row in CATALOGUE.items()
        if name in KNOWN
    }
    assert {name: pair for name, pair in found.items() if pair != (None, None)} == sizes
    assert get_dataset_spec("SSV2").published_size("val") == 24_777


def test_formats_of_lists_exist():
    assert {row.list_format for row in CATALOGUE.values()} - {""} <= set(READERS)


def test_rows_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_dataset_spec("SSV2").flip = True


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(AnnotationError, match=r"ssv2: unknown. Did you mean SSV2.*custom"):
        get_dataset_spec("ssv2")


@pytest.mark.parametrize("spec", CATALOGUE.values(), ids=lambda spec: spec.name)
def test_what_no_flag_says_is_the_data_sets(spec):
    """SSv2's labels know left from right: a default that mirrored them would train on wrong labels without a word."""
    clip, views = ViewConfig().for_data_set(ClipConfig(), spec)
    assert (views.sampling, views.flip, clip.sampling_rate) == (spec.sampler, spec.flip, spec.sampling_rate)
    assert (views.test_num_segment, views.test_num_crop) == (spec.test_num_segment, spec.test_num_crop)
    assert views.view_pooling == spec.view_pooling and CATALOGUE["Charades"].view_pooling == "max"
    assert views.num_views == spec.test_num_segment * spec.test_num_crop


@pytest.mark.parametrize("flip", [False, True])
def test_flags_win_over_the_data_set(flip):
    other = {"sampling": "dense", "flip": flip, "test_num_segment": 7, "test_num_crop": 1, "view_pooling": "mean"}
    for spec in CATALOGUE.values():
        clip, views = ViewConfig(**other).for_data_set(ClipConfig(sampling_rate=9), spec)
        assert clip.sampling_rate == 9
        assert {name: getattr(views, name) for name in other} == other
