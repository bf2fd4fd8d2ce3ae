"""The catalogue has every name of the released `--data_set`, with the protocol of each."""

import dataclasses

import pytest

from datasets.annotations import AnnotationError
from datasets.catalogue import CATALOGUE, get_data_set


def test_names():
    released = {"Kinetics-400", "SSV2", "UCF101", "HMDB51", "DIV48", "GYM99", "FXS1", "UBS1"}
    assert set(CATALOGUE) == released | {"Synthetic", "custom"}
    assert all(name == row.name for name, row in CATALOGUE.items())


def test_number_of_classes():
    expected = {"Kinetics-400": 400, "SSV2": 174, "UCF101": 101, "HMDB51": 51, "DIV48": 48, "GYM99": 99, "FXS1": 11}
    for name, num_classes in {**expected, "UBS1": 15, "custom": None}.items():
        assert get_data_set(name).num_classes == num_classes


def test_only_something_something_is_uniform_and_unflipped():
    for name in set(CATALOGUE) - {"Synthetic"}:
        row = CATALOGUE[name]
        assert (row.sampler, row.flip) == (("uniform", False) if name == "SSV2" else ("dense", True))
        assert (row.test_num_segment, row.test_num_crop) == ((2, 3) if name == "SSV2" else (5, 3))
    assert get_data_set("Kinetics-400").sampling_rate == 4


def test_rows_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_data_set("SSV2").flip = True


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(AnnotationError, match=r"'ssv2'.*SSV2.*custom"):
        get_data_set("ssv2")
