"""Parts of videos: the frames that are shown in a span, and only these, wherever a list is read."""

import json
from fractions import Fraction

import pytest
from PIL import Image

from datasets.classification import TrainDataset, ValDataset, ViewDataset
from datasets.decoding.open import open_video
from datasets.decoding.shard_writing import write_shard
from datasets.errors import DecodeError
from datasets.lists.read import read_list
from datasets.lists.spans import frames_within
from datasets.lists.subsets import select
from datasets.masks.flow_guided import neighbour_pairs
from datasets.masks.masks import MaskConfig
from datasets.masks.motion_fields import crop_motion
from datasets.masks.motion_vectors import MotionReader
from datasets.pretraining import PretrainDataset
from datasets.samples import sample_rng
from datasets.sampling import (
    ClipConfig,
    draw_dense_train_clip,
    draw_pretrain_clip,
    middle_dense_clip,
    uniform_test_indices,
)
from datasets.transforms.presets import PretrainTransform
from scripts.data import browse, check, prepare, reencode, shard

INF = float("inf")
SPANS = [(0, 1), (0.5, 1.0), (0.5, 1.01), (0.49, INF), (1.2, 99), (0.0, 0.001), (1 / 3, 2 / 3)]
UNEVEN = [0, 10, 400, 410, 420, 999, 1000, 1001, 1500, 1540, 1580, 1600]  # milliseconds


def within(times, span):
    """The reference: which of the times of presentation lie in a span, one after another."""
    return [number for number, time in enumerate(times) if span[0] <= time < span[1]]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi", "uneven.mp4", "uneven.mkv", "shard.tar#a.mp4"])
def test_frames_of_a_span(name, decoder, tmp_path, write_video, read_number):
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(name[-4:].strip("."), "libx264")
    file = tmp_path / name.partition("#")[2] if "#" in name else tmp_path / name
    times = [Fraction(time, 1000) for time in UNEVEN] if "uneven" in name else [Fraction(i, 25) for i in range(40)]
    milliseconds = UNEVEN if "uneven" in name else None
    write_video(file, len(times), first=100, fps=25, gop=7, codec=codec, times=milliseconds)
    if "#" in name:
        write_shard(tmp_path / "shard.tar", [("a.mp4", file)])
    path = str(tmp_path / name)
    with open_video(path, decoder=decoder) as video:
        assert frames_within(video, path, None) == range(len(times))
        for span in SPANS:
            frames = frames_within(video, path, span)
            assert list(frames) == within(times, span)
        assert [read_number(frame) for frame in video.get_frames(frames)] == [100 + number for number in frames]


def test_the_first_frame_is_at_second_0(tmp_path, write_video):
    """A stream of television begins at any time: players count from its start, and so do spans."""
    path = str(write_video(tmp_path / "a.ts", 30, fps=25))
    with open_video(path) as video:
        assert frames_within(video, path, (0, 0.2)) == range(5)


def test_spans_without_frames_are_refused(tmp_path, write_video, read_number):
    path = str(write_video(tmp_path / "a.mp4", 10, fps=10))
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with open_video(path) as video:
        for span in ((1.0, 2.0), (0.91, 0.99), (5, INF)):
            with pytest.raises(DecodeError, match=rf"a\.mp4: no frame is shown from {span[0]} s .* 10 comes at 0.9"):
                frames_within(video, path, span)
    for pictures in (tmp_path / "0.png", tmp_path):
        with open_video(pictures) as video, pytest.raises(DecodeError, match="from 1 s to 2 s: pictures have no times"):
            frames_within(video, str(pictures), (1, 2))


@pytest.fixture
def videos(tmp_path, write_video):
    """A list of two parts of one video of 48 frames, 10 a second, the whole of it, and a part that is not there."""
    write_video(tmp_path / "a.mp4", 48, fps=10, gop=12)
    rows = [{"start": 1.5, "end": 3.2}, {"start": 3.2}, {}, {"start": 7, "end": 8}]
    lines = [json.dumps({"path": "a.mp4", "label": label, **row}) for label, row in enumerate(rows)]
    (tmp_path / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return read_list(tmp_path / "train.jsonl", root=str(tmp_path))


PARTS = {0: range(15, 32), 1: range(32, 48), 2: range(48)}


def numbers(clip, read_number):
    return [read_number(frame) for frame in clip]


def test_labelled_clips_come_from_the_span(videos, read_number):
    options = {"num_frames": 4, "sampling_rate": 3, "sampler": "dense"}
    train = TrainDataset(videos, transform=lambda frames, rng: frames, seed=1, **options)
    val = ValDataset(videos, transform=lambda frames: frames, **options)
    for index, part in PARTS.items():
        for epoch in range(3):
            drawn = draw_dense_train_clip(len(part), 4, 3, sample_rng(1, epoch, index))
            item = train[epoch, index]
            assert numbers(item["clip"][0], read_number) == [part[i] for i in drawn] and item["failures"] == []
        assert numbers(val[index]["clip"][0], read_number) == [part[i] for i in middle_dense_clip(len(part), 4, 3)]
    item = train[0, 3]  # the part that is not there
    path, reason, *_ = item["failures"][0]
    assert item["index"] != 3 and path == f"{videos.paths[3]} from 7.0 s to 8.0 s" and "no frame is shown" in reason
    with pytest.raises(DecodeError, match=r"a\.mp4: no frame is shown from 7.0 s to 8.0 s"):
        val[3]


def test_views_come_from_the_span(videos, read_number):
    options = {"num_frames": 4, "sampling_rate": 1, "sampler": "uniform", "num_clips": 2}
    views = ViewDataset(videos, transform=lambda frames: frames[None].repeat(3, 1, 1, 1, 1), **options)
    for index, part in PARTS.items():
        item = views[index]
        expected = [[part[i] for i in clip] for clip in uniform_test_indices(len(part), 4, 2) for _ in range(3)]
        assert [numbers(clip, read_number) for clip in item["clip"]] == expected and item["views"] == 6


@pytest.mark.parametrize("motion", [False, True])
def test_pretraining_clips_come_from_the_span(motion, videos):
    transform = PretrainTransform(32)
    name, grid = "motion_vectors" if motion else "tube", (2, 2, 2)
    dataset = PretrainDataset(
        videos,
        ClipConfig(num_frames=4, sampling_rate=2),
        MaskConfig(mask_type=name, mask_ratio=0.5),
        transform=transform,
        grid=grid,
        seed=3,
    )
    for index, part in PARTS.items():
        rng = sample_rng(3, 0, index)
        indices = part.start + draw_pretrain_clip(len(part), 4, 2, rng)
        with MotionReader(videos.paths[0]) as video:
            frames, flow = video.get_frames_and_motion(indices, neighbour_pairs(4))
        box = transform.draw_box(*frames.shape[-2:], rng)
        item = dataset[0, index]
        assert item["clip"].equal(transform.crop(frames, box)) and item["index"] == index
        if motion:
            assert crop_motion(flow, box, 8, 8).abs().max() > 0  # so that the mask has something to follow
    assert dataset[0, 3]["failures"][0][0].endswith("from 7.0 s to 8.0 s")


def test_two_parts_of_a_file_are_two_samples(tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "train.csv").write_text("path,label,start,end\na.mp4,0,0,2\na.mp4,1,2,4\na.mp4,1,2,4\n")
    (tmp_path / "val.csv").write_text("path,label,start,end\na.mp4,0,0,2.5\na.mp4,1,2,4\n")
    prepare.main(["--from", "csv", str(tmp_path), "--videos", str(tmp_path), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    a = tmp_path / "a.mp4"
    assert f"1 are listed more than once, for example {a} from 2.0 s to 4.0 s" in told
    assert f"1 videos are in train and in val, for example {a} from 2.0 s to 4.0 s" in told
    train = read_list(tmp_path / "out" / "train.jsonl")
    assert train.spans == ((0, 2), (2, 4), (2, 4)) and train.notes == ("1 spans are listed more than once",)
    assert select(train, [0]).fingerprint != select(train, [1]).fingerprint
    assert select(train, [1]).fingerprint == select(train, [2]).fingerprint
    other = tmp_path / "other.jsonl"
    other.write_text((tmp_path / "out" / "train.jsonl").read_text().replace('"end": 4.0', '"end": 4.5'))
    assert read_list(other).fingerprint != train.fingerprint


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_tools_know_spans(full, videos, tmp_path):
    check.main([str(videos.file), "--out", str(tmp_path / "out"), "--samples", "1", "--workers", "1", *full])
    bad = (tmp_path / "out" / "bad_videos.txt").read_text().splitlines()
    assert len(bad) == 1 and bad[0].startswith(f"{tmp_path / 'a.mp4'} from 7.0 s to 8.0 s\tno frame is shown")
    kept = read_list(tmp_path / "out" / "train.jsonl")
    assert kept.spans == ((1.5, 3.2), (3.2, INF), None) and kept.labels == (0, 1, 2)
    report = (tmp_path / "out" / "report.txt").read_text()
    assert "4 videos: 3 can be decoded, 1 cannot" in report
    quantities = {line[:36].strip(): line[36:].split() for line in report.splitlines()}
    assert quantities["frames"] == ["16", "16", "17", "48", "48"]
    assert quantities["seconds"] == ["1.6", "1.6", "1.7", "4.8", "4.8"]


def test_browse_shows_spans(videos, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(browse, "draw", lambda rows, *sizes: sheets.append(rows) or Image.new("RGB", (1, 1)))
    small = ["--num_frames", "4", "--input_size", "32", "--mask_ratio", "0.5"]
    browse.main([str(videos.file), str(tmp_path / "a.png"), *small])
    texts = [row.text for row in sheets[0]]
    assert f"{videos.paths[0]} from 1.5 s to 3.2 s   label 0" in texts
    assert any(text.startswith("training takes another video") and "no frame is shown" in text for text in texts)


@pytest.mark.parametrize("tool", [shard, reencode])
def test_spans_are_kept_by_shard_and_reencode(tool, tmp_path, write_video, read_number):
    write_video(tmp_path / "a.mp4", len(UNEVEN), fps=25, times=UNEVEN)
    (tmp_path / "train.csv").write_text("path,label,start,end\na.mp4,0,0.4,1\na.mp4,1,1,\n")
    tool.main([str(tmp_path / "train.csv"), "--data_root", str(tmp_path), str(tmp_path / "out"), "--workers", "1"])
    made = read_list(tmp_path / "out" / "train.jsonl")
    for index, expected in enumerate(([2, 3, 4, 5], [6, 7, 8, 9, 10, 11])):
        with open_video(made.paths[index]) as video:
            frames = frames_within(video, made.paths[index], made.span(index))
            assert [read_number(frame) for frame in video.get_frames(frames)] == expected
