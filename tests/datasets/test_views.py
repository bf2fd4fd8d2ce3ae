"""Test views: all at once against each by itself, with plain sequential decoding and the protocol's formulas."""

import weakref

import av
import numpy as np
import pytest
import torch

from datasets import classification
from datasets.catalogue import CATALOGUE
from datasets.classification import ViewConfig, ViewDataset
from datasets.decoding.open import open_video
from datasets.lists.read import read_list
from datasets.sampling import ClipConfig
from datasets.transforms.presets import TrainTransform, ViewTransform
from engine.flags import parse
from programs.finetuning.options import FinetuningConfig

FRAMES, STRIDE = 6, 3
SIDE = 32
VIDEOS = {  # width, height, frames
    "landscape": (80, 48, 61),
    "portrait": (46, 74, 40),
    "square": (48, 48, 33),
    "short": (64, 48, 5),
    "single": (64, 48, 1),
}


@pytest.fixture(scope="module")
def listed(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("views")
    for name, (width, height, count) in VIDEOS.items():
        write_video(folder / f"{name}.mp4", count, width=width, height=height, gop=250)
    (folder / "test.csv").write_text("".join(f"{name}.mp4 {i}\n" for i, name in enumerate(VIDEOS)))
    return read_list(folder / "test.csv", root=str(folder), require_labels=True)


def view_dataset(listed, sampler="dense", clips=2, crops=3, size=SIDE):
    transform = ViewTransform(size, SIDE, crops)
    options = {"num_frames": FRAMES, "sampling_rate": STRIDE, "num_clips": clips}
    return ViewDataset(listed, transform=transform, sampler=sampler, **options)


def all_frames(path):
    with av.open(path) as container:
        return [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def view_alone(path, sampler, clip, clips, crop, crops, size):
    """One view, from the beginning: uint8 (T, 3, size, size)."""
    frames = all_frames(path)
    length = len(frames)
    if sampler == "uniform":
        share = (clip + (0.5 if clips == 1 else 0)) / clips
        numbers = [int(length * (k + share) / FRAMES + 1e-9) for k in range(FRAMES)]
        if length < FRAMES * clips:  # dealt out in turn
            numbers = [
                int(length * (k * clips + (0.5 if clips == 1 else clip)) / (FRAMES * clips) + 1e-9)
                for k in range(FRAMES)
            ]
    else:
        candidates = list(range(0, length, STRIDE))
        candidates += [candidates[-1]] * (FRAMES - len(candidates))
        spare = len(candidates) - FRAMES
        start = int(clip * max(spare / (clips - 1), 0) + 1e-9) if clips > 1 else spare // 2
        numbers = candidates[start : start + FRAMES]
    made = []
    for number in numbers:
        image = frames[number].permute(2, 0, 1)
        height, width = image.shape[1:]
        long = int(SIDE * max(height, width) / min(height, width))
        shape = (SIDE, long) if height < width else (long, SIDE)
        image = torch.nn.functional.interpolate(image[None], size=shape, mode="bilinear")[0]
        offset = (long - SIDE) // 2 if crops == 1 else int(crop * (long - SIDE) / (crops - 1))
        image = image[:, :, offset : offset + SIDE] if height < width else image[:, offset : offset + SIDE]
        inner = slice(round((SIDE - size) / 2), round((SIDE - size) / 2) + size)
        made.append(image[:, inner, inner])
    return torch.stack(made)


@pytest.mark.parametrize("sampler", ["dense", "uniform"])
@pytest.mark.parametrize(
    ("clips", "crops", "size"), [(1, 1, 32), (2, 3, 32), (3, 2, 24), (5, 3, 32), (7, 1, 32), (7, 3, 32)]
)
def test_all_at_once_equals_each_alone(listed, sampler, clips, crops, size):
    """Bit for bit, for landscape, portrait, square and short videos."""
    dataset = view_dataset(listed, sampler, clips, crops, size)
    for index, path in enumerate(listed.paths):
        item = dataset[index]
        assert item["clip"].shape == (clips * crops, FRAMES, 3, size, size) and item["clip"].dtype == torch.uint8
        assert (item["views"], item["label"], item["index"]) == (clips * crops, index, index)
        for view, (clip, crop) in enumerate(np.ndindex(clips, crops)):
            alone = view_alone(path, sampler, clip, clips, crop, crops, size)
            assert torch.equal(item["clip"][view], alone), (path, clip, crop)


def test_views_differ_where_they_should(listed):
    """So that the test above compares something: clips and crops of a long landscape video are all different."""
    clip = view_dataset(listed, clips=5)[0]["clip"]
    assert len({view.numpy().tobytes() for view in clip}) == 15


@pytest.mark.parametrize("chunk", [1, 4 * 80 * 48 * 3 + 1, 64 << 20])
@pytest.mark.parametrize("sampler", ["dense", "uniform"])
def test_one_open_one_pass_and_bounded_memory(listed, sampler, chunk, monkeypatch):
    """What the decoder gives out, and what is cropped at a time, with parts of a frame, of some frames, and of all."""
    whole = view_dataset(listed, sampler, clips=5)[0]["clip"]
    opened, seeks, decoded, parts, kept = [], [], [], [], []

    def watch(path, **options):
        video = open_video(path, **options)
        opened.append(path)
        decode, image = video._seeker._decode_from, video._image
        video._seeker._decode_from = lambda *args: seeks.append(args[0]) or decode(*args)
        video._image = lambda frame: decoded.append(frame.pts) or image(frame)
        return video

    dataset = view_dataset(listed, sampler, clips=5)
    crops, last = dataset.crops, [lambda: None]

    def watched_crops(frames):
        kept.append(last[0]() is not None)
        parts.append(frames.numel())
        last[0] = weakref.ref(frames)
        return crops(frames)

    monkeypatch.setattr(classification, "open_video", watch)
    monkeypatch.setattr(classification, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(dataset, "crops", watched_crops)
    assert torch.equal(dataset[0]["clip"], whole)
    frame = 80 * 48 * 3
    assert len(opened) == 1
    assert decoded == sorted(set(decoded))  # each frame once, from the start to the end
    assert max(parts) <= max(chunk, frame) and not any(kept)
    assert len(parts) == -(-len(decoded) // max(chunk // frame, 1))
    assert seeks == sorted(set(seeks))  # forward only: no part goes back to a key frame


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_frames_in_parts_are_the_frames(listed, decoder):
    with open_video(listed.paths[0], decoder=decoder) as video:
        indices = list(range(0, video.num_frames, 3))
        expected = video.get_frames(indices)
        parts = {}
        video.map_frames(
            indices, lambda frames, start: parts.update({start: frames.clone()}), max_bytes=5 * 80 * 48 * 3
        )
    assert torch.equal(torch.cat([parts[start] for start in sorted(parts)]), expected)
    assert max(len(part) for part in parts.values()) == 5


def test_the_views_keep_nothing_else_in_memory(listed):
    clip = view_dataset(listed, clips=3)[0]["clip"]
    assert clip.untyped_storage().nbytes() == clip.numel()


def size_of_things(frames):
    """Output pixels for one of a frame whose pixels say in which column they are."""
    row = frames[0, 0, 0].tolist()
    return (len(row) - 1) / (row[-1] - row[0])


def test_tests_show_things_as_large_as_training_does():
    """A short side of 256 to 340 for crops of 112, tested at 112, would be 2.7."""
    ramp = torch.arange(256, dtype=torch.uint8).expand(1, 3, 192, 256).contiguous()
    found = set()
    for name, spec in CATALOGUE.items():
        if spec.images or spec.num_classes is None:
            continue
        task = ["--task", "multilabel"] if spec.view_pooling == "max" else []
        config = parse(FinetuningConfig, ["--data_set", name, "--data_path", "lists", *task]).resolved()
        assert "times as large" not in config.views.describe(config.clip)
        found.add((config.clip.input_size, config.views.short_side_size, config.augmentation.min_area))
    for size, side, area in found:
        train = TrainTransform(size, min_area=area)
        trained = np.mean([np.log(size_of_things(train(ramp, np.random.default_rng(n)))) for n in range(50)])
        tested = size_of_things(ViewTransform(size, side, 3)(ramp)[1])
        assert 1 / 1.3 < tested / np.exp(trained) < 1.3
    said = ViewConfig(short_side_size=64, sampling="uniform").describe(ClipConfig(input_size=32))
    assert said.endswith("at test, which show things 2 times as large as whole frames would")
