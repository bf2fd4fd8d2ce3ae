"""Data sets on real encoded files: determinism, replacement of broken videos, views."""

import pickle
from dataclasses import fields
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from moving_videos import write_moving_square

from datasets.classification import TrainDataset, ValDataset, ViewDataset
from datasets.decoding.open import open_video
from datasets.errors import DecodeError
from datasets.lists.read import read_list
from datasets.lists.video_list import VideoList
from datasets.loading.batch import collate
from datasets.masks.masks import MASKS, MaskConfig, tube_mask
from datasets.pretraining import PretrainDataset
from datasets.samples import MAX_REPLACEMENTS, sample_rng
from datasets.sampling import (
    ClipConfig,
    dense_test_indices,
    draw_dense_train_clip,
    draw_pretrain_clip,
    uniform_test_indices,
)
from datasets.transforms.presets import PretrainTransform, TrainTransform, ValTransform, ViewTransform

NUM_VIDEOS, NUM_FRAMES = 6, 40


def write_numbered_video(path: Path, video: int, *, num_frames: int = NUM_FRAMES, height: int = 48, width: int = 64):
    """Frame i is a plain grey of level 20 + 5 i, with a bright stripe whose place tells the video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(num_frames):
            picture = np.full((height, width, 3), 20 + 5 * i, dtype=np.uint8)
            picture[:4, 8 * video : 8 * video + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def frame_numbers(clip: torch.Tensor) -> list[int]:
    """(T, 3, H, W) -> which frame each is, read off the lower half."""
    levels = clip[:, :, clip.shape[-2] // 2 :].float().mean(dim=(1, 2, 3))
    return ((levels - 20) / 5).round().int().tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for video in range(NUM_VIDEOS):
        write_numbered_video(root / f"video {video}.mp4", video)
    (root / "broken.mp4").write_bytes(b"not a video")
    return root


def make_list(folder: Path, names: list[str]) -> VideoList:
    file = folder / "list.csv"
    file.write_text("".join(f"{name} {label}\n" for label, name in enumerate(names)))
    return read_list(file, root=str(folder), require_labels=True)


@pytest.fixture
def videos(folder) -> VideoList:
    return make_list(folder, [f"video {video}.mp4" for video in range(NUM_VIDEOS)])


def pretrain_dataset(videos: VideoList, **changes) -> PretrainDataset:
    """Over these videos; changes to the fields of the clip, of the masks, or to the other arguments."""
    options = {"transform": PretrainTransform(32), "grid": (2, 4, 4), "seed": 0}
    options |= {"num_frames": 4, "sampling_rate": 3, "mask_ratio": 0.75} | changes
    clip, masks = (
        cls(**{field.name: options.pop(field.name) for field in fields(cls) if field.name in options})
        for cls in (ClipConfig, MaskConfig)
    )
    return PretrainDataset(videos, clip, masks, **options)


def train_dataset(videos: VideoList, **changes) -> TrainDataset:
    transform = TrainTransform(32, aa="rand-m7-n2-inc1", flip=True, erase_prob=0.5)
    options = {"transform": transform, "sampler": "dense", "num_frames": 4, "sampling_rate": 3, "seed": 0}
    return TrainDataset(videos, **options | changes)


def equal(first: dict, second: dict) -> bool:
    assert first.keys() == second.keys()
    return all(
        torch.equal(first[key], second[key]) if isinstance(first[key], torch.Tensor) else first[key] == second[key]
        for key in first
    )


# ---- pre-training ----


def test_pretrain_item(videos):
    item = pretrain_dataset(videos)[(0, 2)]
    assert item["clip"].shape == (4, 3, 32, 32) and item["clip"].dtype == torch.uint8
    assert item["mask"].shape == (32,) and item["mask"].dtype == torch.bool and item["mask"].sum() == 24
    assert item["index"] == 2 and item["failures"] == []
    numbers = frame_numbers(item["clip"])
    assert np.diff(numbers).tolist() == [3, 3, 3]


def test_pretrain_samples_depend_on_seed_epoch_and_index_only(videos):
    dataset = pretrain_dataset(videos)
    first = {key: dataset[key] for key in [(0, 0), (0, 1), (1, 0)]}
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    for key in [(1, 0), (0, 1), (0, 0)]:
        assert equal(pretrain_dataset(videos)[key], first[key])
    assert not torch.equal(first[(0, 0)]["mask"], first[(1, 0)]["mask"])
    assert not torch.equal(first[(0, 0)]["mask"], first[(0, 1)]["mask"])
    assert not equal(pretrain_dataset(videos, seed=1)[(0, 0)], first[(0, 0)])


def by_hand(videos: VideoList, epoch: int, index: int, repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample put together from its parts: one draw of frames, then a stream for each repeat."""
    first = sample_rng(0, epoch, index)
    with open_video(videos.paths[index]) as video:
        frames = video.get_frames(draw_pretrain_clip(video.num_frames, 4, 3, first))
    rng = sample_rng(0, epoch, index, repeat) if repeat else first
    clip = PretrainTransform(32)(frames, rng)
    return clip, torch.from_numpy(tube_mask((2, 4, 4), 0.75, rng))


def test_pretrain_decodes_once_and_crops_and_masks_each_repeat(videos):
    item = pretrain_dataset(videos, num_sample=3)[(1, 4)]
    assert item["clip"].shape == (3, 4, 3, 32, 32) and item["mask"].shape == (3, 32) and item["index"] == 4
    assert len({tuple(frame_numbers(clip)) for clip in item["clip"]}) == 1  # one draw of frames
    for repeat in range(3):
        clip, mask = by_hand(videos, 1, 4, repeat)
        assert torch.equal(item["clip"][repeat], clip) and torch.equal(item["mask"][repeat], mask)
    assert len({tuple(mask.tolist()) for mask in item["mask"]}) == 3
    single = pretrain_dataset(videos)[(1, 4)]
    assert torch.equal(single["clip"], item["clip"][0]) and torch.equal(single["mask"], item["mask"][0])


def test_pretrain_draws_several_masks_of_a_crop(videos):
    """The first is that of a single one; the batch has them clip by clip."""
    single, several = (pretrain_dataset(videos, num_sample=2, num_masks=number)[(1, 4)] for number in (1, 3))
    assert torch.equal(several["clip"], single["clip"]) and several["mask"].shape == (2, 3, 32)
    assert torch.equal(several["mask"][:, 0], single["mask"])
    assert len({tuple(mask.tolist()) for mask in several["mask"].flatten(0, 1)}) == 6
    batch = collate([several, several])
    assert batch.clip.shape[0] == 4 and torch.equal(batch.mask, several["mask"].flatten(0, 1).repeat(2, 1))
    item = pretrain_dataset(videos, num_masks=2)[(1, 4)]
    assert item["mask"].shape == (2, 32) and torch.equal(collate([item, item]).mask, item["mask"].repeat(2, 1))


@pytest.mark.parametrize("build", [pretrain_dataset, train_dataset])
def test_data_sets_survive_pickling(videos, build):
    """Workers that are spawned rather than forked get a pickled copy."""
    dataset = build(videos)
    assert equal(pickle.loads(pickle.dumps(dataset))[(0, 3)], dataset[(0, 3)])


def test_pretrain_starts_vary_over_epochs(videos):
    dataset = pretrain_dataset(videos)
    starts = {frame_numbers(dataset[(epoch, 0)]["clip"])[0] for epoch in range(25)}
    assert len(starts) > 8 and max(starts) <= NUM_FRAMES - 12


# ---- masks that follow motion ----


MOTION = {"mask_type": "motion_vectors"}


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> VideoList:
    """A picture that moves as a whole, 2 pixels to the right a frame; the same with a codec without vectors."""
    root = tmp_path_factory.mktemp("moving")
    options = {"velocity": (2, 0), "width": 128, "height": 128, "pan": True}
    write_moving_square(root / "moving.mp4", 32, bf=2, **options)
    write_moving_square(root / "still.webm", 32, codec="libvpx", deadline="realtime", **options | {"cpu-used": 8})
    return make_list(root, ["moving.mp4", "still.webm"])


@pytest.mark.parametrize("augmentation", PretrainTransform.AUGMENTATIONS)
def test_masks_follow_the_picture(moving, augmentation):
    """Frames 8 apart move by 16 pixels, and the visible patches with them, in the pixels of the crop."""
    grid, transform = (4, 8, 8), PretrainTransform(128, augmentation)
    changes = {"transform": transform, "grid": grid, "mask_ratio": 0.9, "num_frames": 4, "sampling_rate": 8}
    dataset = pretrain_dataset(moving, **changes | MOTION)
    follow, stay = [], []
    for epoch in range(20):
        visible = ~dataset[(epoch, 0)]["mask"].view(grid)
        assert (visible.sum(dim=(1, 2)) == 6).all()  # 6.4
        rng = sample_rng(0, epoch, 0)
        draw_pretrain_clip(32, 4, 8, rng)
        width = transform.draw_box(128, 128, rng)[3]
        base = ~torch.from_numpy(MASKS["motion_vectors"](grid, 0.9, rng)).view(grid)
        assert torch.equal(visible[2], base[2])  # the middle frame keeps its places
        for slot in (0, 1, 3):
            steps = (slot - 2) * 128 / width  # patches
            if abs(steps - round(steps)) < 0.2:
                moved = torch.zeros_like(base[2])
                inside = slice(max(round(steps), 0), 8 + min(round(steps), 0))  # the others have left the picture
                moved[:, inside] = base[2].roll(round(steps), 1)[:, inside]
                follow.append((visible[slot] & moved).sum() / max(int(moved.sum()), 1))
                stay.append((visible[slot] & base[2]).sum() / 6)
    assert len(follow) > 10 and torch.stack(follow).mean() > 0.85 and torch.stack(stay).mean() < 0.4


def test_masks_of_videos_without_vectors_stay_tubes(moving):
    dataset = pretrain_dataset(moving, **MOTION)
    mask = dataset[(0, 1)]["mask"].view(2, 16)
    assert torch.equal(mask[0], mask[1])


def test_motion_masks_depend_on_seed_epoch_and_index_only(moving):
    dataset = pretrain_dataset(moving, num_sample=2, **MOTION)
    first = dataset[(0, 0)]
    assert equal(pickle.loads(pickle.dumps(dataset))[(0, 0)], first)
    assert first["mask"].shape == (2, 32) and not torch.equal(*first["mask"])
    assert not torch.equal(first["mask"], dataset[(1, 0)]["mask"])
    assert torch.equal(pretrain_dataset(moving, **MOTION)[(0, 0)]["mask"], first["mask"][0])
    # the clips are those of a run without motion
    assert torch.equal(pretrain_dataset(moving, num_sample=2)[(0, 0)]["clip"], first["clip"])


def test_motion_with_a_broken_video(folder):
    videos = make_list(folder, ["broken.mp4", "video 0.mp4"])
    item = pretrain_dataset(videos, **MOTION)[(0, 0)]
    assert item["index"] == 1 and item["failures"][0][0] == videos.paths[0]


# ---- broken videos ----


@pytest.mark.parametrize("build", [pretrain_dataset, train_dataset])
def test_broken_video_is_replaced_and_reported(folder, build):
    videos = make_list(folder, ["video 0.mp4", "broken.mp4", "video 1.mp4", "missing.mp4"])
    dataset = build(videos)
    shown = set()
    for epoch in range(6):
        item = dataset[(epoch, 1)]
        assert item["failures"][0][0] == videos.paths[1] and item["failures"][0][1]
        assert item["index"] in (0, 2)
        assert item.get("label", item["index"]) == videos.labels[item["index"]]
        assert equal(item, build(videos)[(epoch, 1)])  # the same replacement every time
        shown.add(item["index"])
    assert shown == {0, 2}
    assert dataset[(0, 0)]["failures"] == []


def test_gives_up_after_ten_replacements(folder):
    videos = make_list(folder, ["broken.mp4", "missing.mp4"])
    with pytest.raises(DecodeError):
        pretrain_dataset(videos)[(0, 0)]
    assert MAX_REPLACEMENTS == 10


def test_evaluation_never_replaces(folder):
    videos = make_list(folder, ["video 0.mp4", "broken.mp4"])
    options = {"sampler": "dense", "num_frames": 4, "sampling_rate": 2}
    for dataset in (
        ValDataset(videos, transform=ValTransform(32, 32), **options),
        ViewDataset(videos, transform=ViewTransform(32, 32, 1), num_clips=1, **options),
    ):
        assert dataset[0]["label"] == 0
        with pytest.raises(DecodeError, match=r"broken\.mp4"):
            dataset[1]


# ---- training ----


def test_train_item_decodes_once_and_augments_each_repeat(videos):
    item = train_dataset(videos, num_repeats=3)[(0, 4)]
    assert item["clip"].shape == (3, 4, 3, 32, 32)
    assert (item["label"], item["index"]) == (4, 4)
    plain = train_dataset(videos, num_repeats=3, transform=TrainTransform(32))[(0, 4)]["clip"]
    assert len({tuple(frame_numbers(clip)) for clip in plain}) == 1  # one draw of frames
    assert not torch.equal(item["clip"][0], item["clip"][1])
    # the first repeat is the sample without repeats
    assert torch.equal(train_dataset(videos)[(0, 4)]["clip"][0], item["clip"][0])


def test_every_repeat_of_training_has_its_own_stream(videos):
    dataset = train_dataset(videos, num_repeats=5)
    clips = dataset[(2, 1)]["clip"]
    assert len({clip.numpy().tobytes() for clip in clips}) > 3  # two may draw the same of so plain a picture
    first = sample_rng(0, 2, 1)
    with open_video(videos.paths[1]) as video:
        frames = video.get_frames(draw_dense_train_clip(video.num_frames, 4, 3, first))
    streams = [first, *(sample_rng(0, 2, 1, repeat) for repeat in range(1, 5))]
    assert all(torch.equal(clip, dataset.transform(frames, rng)) for clip, rng in zip(clips, streams, strict=True))


def test_uniform_sampler_covers_the_video(videos):
    dataset = train_dataset(videos, sampler="uniform", transform=TrainTransform(32, min_area=1.0))
    for epoch in range(5):
        numbers = frame_numbers(dataset[(epoch, 0)]["clip"][0])
        assert [number // 10 for number in numbers] == [0, 1, 2, 3]


# ---- validation and views ----


@pytest.mark.parametrize(("sampler", "expected"), [("dense", [14, 18, 22, 25]), ("uniform", [5, 15, 25, 35])])
def test_validation_takes_the_middle(videos, sampler, expected):
    dataset = ValDataset(videos, transform=ValTransform(32, 40), sampler=sampler, num_frames=4, sampling_rate=3)
    item = dataset[3]
    assert item["clip"].shape == (1, 4, 3, 32, 32)
    assert (item["label"], item["index"], item["views"], item["failures"]) == (3, 3, 1, [])
    assert frame_numbers(item["clip"][0]) == expected
    assert equal(item, dataset[3])


@pytest.mark.parametrize("sampler", ["dense", "uniform"])
def test_views_are_clip_by_clip_and_equal_to_views_made_alone(videos, sampler):
    transform = ViewTransform(32, 40, 3)
    dataset = ViewDataset(videos, transform=transform, sampler=sampler, num_frames=8, sampling_rate=4, num_clips=2)
    item = dataset[1]
    assert item["clip"].shape == (6, 8, 3, 32, 32) and item["views"] == 6
    clips = uniform_test_indices(NUM_FRAMES, 8, 2) if sampler == "uniform" else dense_test_indices(NUM_FRAMES, 8, 4, 2)
    with open_video(videos.paths[1]) as video:
        alone = torch.cat([transform(video.get_frames(indices.tolist())) for indices in clips])
    assert torch.equal(item["clip"], alone)


def test_a_video_shorter_than_its_clips(folder):
    write_numbered_video(folder / "short.mp4", 0, num_frames=3)
    videos = make_list(folder, ["short.mp4"])
    assert pretrain_dataset(videos)[(0, 0)]["clip"].shape[0] == 4
    for sampler in ("dense", "uniform"):
        assert train_dataset(videos, sampler=sampler)[(0, 0)]["clip"].shape[1] == 4
        views = ViewDataset(
            videos, transform=ViewTransform(32, 32, 2), sampler=sampler, num_frames=4, sampling_rate=2, num_clips=3
        )
        assert views[0]["clip"].shape == (6, 4, 3, 32, 32)


def test_bad_options(videos):
    with pytest.raises(ValueError, match="dense, strided, uniform"):
        train_dataset(videos, sampler="random")
    with pytest.raises(ValueError, match="--num_sample 0"):
        train_dataset(videos, num_repeats=0)
    with pytest.raises(ValueError, match="--num_sample 0"):
        pretrain_dataset(videos, num_sample=0)
    with pytest.raises(ValueError, match="--num_frames must be at least 2"):
        pretrain_dataset(videos, num_frames=1, **MOTION)
    with pytest.raises(ValueError, match="--test_num_segment 0"):
        ViewDataset(videos, transform=torch.clone, sampler="dense", num_frames=4, sampling_rate=2, num_clips=0)


def test_motion_vectors_come_from_pyav(videos):
    pytest.importorskip("decord")
    with pytest.raises(ValueError, match="--decoder pyav"):
        pretrain_dataset(videos, decoder="decord", **MOTION)
