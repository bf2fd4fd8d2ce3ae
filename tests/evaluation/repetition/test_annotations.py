"""UCFRep as it is published: what is read, and what is refused before anything is trained."""

import shutil

import numpy as np
import pytest
import torch
from replicas_severe import UCFREP, ucfrep, write_annotation

from datasets.errors import AnnotationError, DecodeError
from evaluation.repetition.annotations import RepetitionDataConfig, check_apart, check_frames, read_repetitions
from evaluation.repetition.cycles import neighbour_offsets
from evaluation.repetition.segments import SegmentDataset, SpanDataset, collate_segments


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("ucfrep")
    ucfrep(root)
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "ucfrep")


def read(root, part="val"):
    return read_repetitions(RepetitionDataConfig(data_root=str(root)), part)


def test_names_counts_and_boundaries(whole):
    """Also of a class whose files are spelled otherwise than its folder, and of a video that is a file."""
    for part, videos in UCFREP.items():
        found = read(whole, part)
        assert found.names == sorted(videos)
        assert found.counts.tolist() == [len(videos[name]) - 1 for name in sorted(videos)]
        assert [tuple(edge + 1 for edge in edges) for edges in found.bounds] == [
            videos[name] for name in sorted(videos)
        ]
        check_frames(found)
    assert read(whole).videos.paths[1].endswith("v_Biking_g25_c01.avi")
    assert len({read(whole, part).sha256 for part in UCFREP}) == 2


def test_segments_have_the_targets_of_their_own_frames(whole):
    found = read(whole, "train")
    options = {"segments_per_video": 2, "max_frames": 20, "size": 16, "flip": True, "seed": 1}
    dataset = SegmentDataset(found, redrawn=True, **options)
    assert len(dataset) == 6
    batch = collate_segments([dataset[0, 0], dataset[0, 4]])
    assert batch.frames.shape[1:] == (3, 16, 16) and len(batch.frames) == sum(batch.lengths) == len(batch.following)
    assert batch.index.tolist() == [0, 1] and max(batch.lengths) <= 20 and min(batch.counts) > 1
    assert all(np.array_equal(dataset[3, 5][name], dataset[3, 5][name]) for name in ("frames", "following"))
    plain = SegmentDataset(found, redrawn=True, **{**options, "flip": False})
    for place in range(6):
        item, whole_span = plain[1, place], SpanDataset(found, size=16)[place % 3]["clip"][0]
        number = len(item["frames"])
        starts = [n for n in range(len(whole_span)) if torch.equal(whole_span[n : n + number], item["frames"])]
        targets = neighbour_offsets(found.bounds[place % 3])
        for name, of_video in zip(("following", "previous"), targets, strict=True):
            assert any(np.array_equal(item[name], of_video[start : start + number]) for start in starts), (place, name)
    sizes = {len(dataset[epoch, 2]["frames"]) for epoch in range(8)}
    fixed = SegmentDataset(found, redrawn=False, **options)
    assert len(sizes) > 1 and len({len(fixed[epoch, 2]["frames"]) for epoch in range(8)}) == 1
    span = SpanDataset(found, size=16)[2]
    assert span["clip"].shape == (1, 35, 3, 16, 16) and span["label"] == 4  # from boundary 1 to 35


def error(root, part="val"):
    with pytest.raises((AnnotationError, DecodeError)) as caught:
        check_frames(read(root, part))
    return str(caught.value)


def test_videos_that_are_not_there_or_not_whole(root):
    frames = root / "imgs" / "val" / "HandstandPushups" / "v_HandStandPushups_g22_c02"
    (frames / "000009.png").rename(frames / "000099.png")
    assert "31 frames from 1 to 99: have to be all from 1 on" in error(root)
    (frames / "000099.png").unlink()
    for number in range(20, 32):
        (frames / f"{number:06d}.png").unlink()
    (frames / "000008.png").rename(frames / "000009.png")
    assert "have to be all from 1 on" in error(root)
    shutil.rmtree(frames)
    said = error(root)
    assert "v_HandStandPushups_g22_c02.mat: its video is not there" in said and "give --video_root" in said
    short = root / "imgs" / "val" / "BenchPress" / "v_BenchPress_g21_c01"
    shutil.copytree(short, frames)
    for number in range(29, 39):
        (frames / f"{number:06d}.png").unlink(missing_ok=True)
    assert "28 frames, its repetitions end in frame 29" in error(root)


@pytest.mark.parametrize(
    ("bounds", "changes", "message"),
    [
        ((1, 9), {}, "not three or more frame numbers"),
        ((1, 9, 9, 20), {}, "in ascending order"),
        ((0, 9, 20), {}, "not three or more frame numbers from 1"),
        ((1, 9, 20), {"end_frame": 21}, "start_frame and end_frame, 1 and 21, are not the first and the last boundary"),
        ((1, 9, 20), {"temporal_bound": np.array([1, 9.5, 20])}, "its boundaries are not frame numbers"),
        ((1, 9, 20), {"start_frame": "x"}, "not an annotation of UCFRep"),
    ],
)
def test_annotations_that_cannot_be_right(root, bounds, changes, message):
    write_annotation(root / "annotations/val/v_Biking_g25_c01.mat", bounds, **changes)
    assert message in error(root)


def test_folders_that_are_not_ucfrep(root):
    assert "no *.mat of UCFRep" in error(root / "annotations")
    (root / "annotations/val/v_Biking_g25_c01.mat").write_bytes(b"nothing")
    assert "v_Biking_g25_c01.mat: not an annotation of UCFRep" in error(root)
    (root / "annotations/val/a.mat").touch()
    assert "a.mat: not named as a video of UCF101" in error(root)
    write_annotation(root / "annotations/train/v_BenchPress_g21_c01.mat", (1, 10, 19))
    shutil.copytree(root / "imgs/val/BenchPress", root / "imgs/train/BenchPress", dirs_exist_ok=True)
    for name in ("a", "v_Biking_g25_c01"):
        (root / f"annotations/val/{name}.mat").unlink()
    with pytest.raises(AnnotationError, match=r"1 videos are in .*val as well, for example v_BenchPress_g21_c01"):
        check_apart(read(root, "train"), read(root))
