"""The generated videos: real files, the same every time, and labelled by their motion alone."""

import logging
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from scipy.stats import kstest
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datasets.synthetic import CLASS_NAMES, MOTIONS, Drawing, Generated, draw_clip, encode_clip, generate
from datasets.synthetic.motions import Path as Way
from datasets.synthetic.motions import draw_path, draw_rotation, draw_speed
from datasets.synthetic.solids import Lamp, Poses, Solid, Sprites, lit, shadows

NUM_FRAMES = 20
TINY_VIDEOS = {"size": (64, 48), "num_frames": 6}
SMALL: dict[str, Any] = {**TINY_VIDEOS, "num_pretrain": 3, "num_train": 12, "num_val": 2, "workers": 1}


def read_rows(file: Path) -> list[tuple[Path, int]]:
    rows = [line.rsplit(" ", 1) for line in file.read_text().splitlines()]
    return [(Path(path), int(label)) for path, label in rows]


def decode(path: Path) -> np.ndarray:
    """(T, H, W, 3) uint8."""
    converter = VideoReformatter()  # one for all frames: PyAV's own per frame costs more than decoding does
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = [converter.reformat(frame, format="rgb24") for frame in container.decode(video=0)]
        return np.stack([frame.to_ndarray() for frame in frames])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.mp4"))}


# ---------------------------------------------------------------------------------------- the files


def test_files_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = generate("a folder", **SMALL)
    monkeypatch.chdir("/")  # the lists hold absolute paths: they work from anywhere
    assert made.num_written == 3 + 12 + 2 + 2  # as many to test as to validate
    rows = read_rows(made.train)
    assert [label for _, label in rows] == [i % len(CLASS_NAMES) for i in range(12)]
    assert [label for _, label in read_rows(made.pretrain)] == [0, 0, 0]
    lists = (made.pretrain, made.train, made.val, made.test)
    assert len({path for split in lists for path, _ in read_rows(split)}) == 19
    assert (made.root / "labels.txt").read_text().split() == list(made.class_names) == list(CLASS_NAMES)
    with av.open(str(rows[0][0])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.frames, stream.width, stream.height) == ("h264", 6, 64, 48)


def test_decoded_frames_are_the_drawn_ones(tmp_path: Path) -> None:
    made = generate(tmp_path, seed=3, **SMALL)
    path, label = read_rows(made.train)[7]
    drawn = draw_clip(Drawing(3, (64, 48), 6), label, np.random.default_rng([3, 1, 7]))[..., :3]
    # H.264 halves the resolution of the colours, not that of the brightness (ITU-R BT.601)
    error = np.abs((decode(path) - drawn.astype(float)) @ [0.299, 0.587, 0.114])
    assert error.mean() < 5


def test_same_seed_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    one = contents(generate(tmp_path / "one", **SMALL).root)
    assert contents(generate(tmp_path / "two", **{**SMALL, "workers": 2}).root) == one
    other = contents(generate(tmp_path / "other", seed=1, **SMALL).root)
    assert not set(other.values()) & set(one.values())
    assert len(set(one.values())) == len(one), "two clips are the same"


def test_second_call_draws_nothing_and_larger_sets_keep_the_clips(tmp_path: Path) -> None:
    first = contents(generate(tmp_path, **SMALL).root)
    assert generate(tmp_path, **SMALL).num_written == 0
    larger = generate(tmp_path, **{**SMALL, "num_train": 15})
    assert larger.num_written == 3
    assert len(read_rows(larger.train)) == 15
    assert first.items() <= contents(tmp_path).items()
    assert generate(tmp_path, **{**SMALL, "num_frames": 7}).num_written == 19, "clips of another length were reused"


@pytest.mark.parametrize("workers", [1, 2])
def test_generation_that_was_cut_off_is_resumed(tmp_path: Path, workers: int) -> None:
    whole = contents(generate(tmp_path / "whole", **SMALL).root)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    settings = {**SMALL, "num_train": 200, "workers": workers}
    root = tmp_path / "cut"
    generate(root, **{**SMALL, "num_train": 1})
    with pytest.raises(KeyboardInterrupt):
        generate(root, progress=stop, **settings)
    present = len(contents(root))
    assert 11 <= present < 207, "work that had not begun was to be dropped"
    assert not (root / "manifest.json").exists(), "the manifest is the sign of a complete set"
    next(iter((root / Drawing(0, (64, 48), 6).folder / "pretrain").iterdir())).write_bytes(b"")  # as a full disk leaves
    assert generate(root, **SMALL).num_written > 0
    assert whole.items() <= contents(root).items()
    assert (root / "manifest.json").exists()
    assert not list(root.rglob("*.part"))


def test_progress_and_bad_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[tuple[int, int]] = []
    with caplog.at_level(logging.INFO, logger="datasets.synthetic"):
        generate(tmp_path, progress=lambda done, total: calls.append((done, total)), **SMALL)
    assert calls == [(i, 19) for i in range(1, 20)]
    assert "19 of 19 drawn" in caplog.text
    for wrong in ({"num_val": 0}, {"size": (63, 64)}, {"size": (16, 64)}, {"num_frames": 1}):
        with pytest.raises(ValueError, match="at least"):
            generate(tmp_path, **{**SMALL, **wrong})


# ---------------------------------------------------------------------------------------- the label


PERIOD = np.array([1.2, 1.5])


def draw_ways(name: str, number: int, rng: np.random.Generator) -> list[Way]:
    motion = MOTIONS[name]
    return [
        draw_path(
            motion.kind, draw_speed(motion, rng), rng, num_frames=NUM_FRAMES, period=PERIOD, nearness=rng.random()
        )
        for _ in range(number)
    ]


@pytest.mark.parametrize("name", MOTIONS)
def test_a_pose_has_the_same_distribution_in_every_frame(name: str) -> None:
    """Uniform on the torus and the circle; a turned random rotation is as random, whatever the turn."""
    ways = draw_ways(name, 300, np.random.default_rng(0))
    for frame in (0, NUM_FRAMES - 1):
        place = np.array([way.place[frame] for way in ways]) / PERIOD % 1
        nearness = np.array([way.nearness[frame] for way in ways])
        for values in (*place.T, nearness):
            assert kstest(values, "uniform").pvalue > 1e-3, (name, frame)


def test_rotations_are_uniform() -> None:
    rng = np.random.default_rng(0)
    rotations = np.array([draw_rotation(rng) for _ in range(500)])
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (500, 1, 1)), atol=1e-12)
    for axis in range(3):  # a point of a sphere lies uniformly along any axis (Archimedes)
        assert kstest((rotations[:, axis, 2] + 1) / 2, "uniform").pvalue > 1e-3
    turns = np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0]) / (2 * np.pi) % 1
    assert kstest(turns, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", MOTIONS)
def test_each_class_moves_as_its_name_says(name: str) -> None:
    for way in draw_ways(name, 5, np.random.default_rng(1)):
        steps = np.diff(way.place, axis=0)
        across, down = steps.T
        nearer = (np.diff(way.nearness) + 0.5) % 1 - 0.5
        bend = across[:-1] * down[1:] - down[:-1] * across[1:]  # positive: to the right, since y is down
        moves = {
            "left": -across,
            "right": across,
            "up": -down,
            "down": down,
            "turn_clockwise": np.diff(way.angle),
            "turn_counter_clockwise": -np.diff(way.angle),
            "approach": nearer,
            "recede": -nearer,
            "circle_clockwise": bend,
            "circle_counter_clockwise": -bend,
        }
        assert (moves.pop(name) > 0).all()
        assert name.startswith("circle") or not any((move > 1e-9).any() for move in moves.values())


def test_the_first_frame_is_the_same_in_every_class() -> None:
    """Whatever is drawn besides the motion does not depend on the class. (A circle starts beside its centre.)"""
    firsts = {
        name: draw_clip(Drawing(0, (48, 32), 2), label, np.random.default_rng(7))
        for label, name in enumerate(CLASS_NAMES)
    }
    for name, clip in firsts.items():
        if not name.startswith("circle"):
            np.testing.assert_array_equal(clip[0], firsts["left"][0])
        assert name == "left" or (clip[1] != firsts["left"][1]).any()


# ---------------------------------------------------------------------------------------- the picture


LAMP = Lamp(np.array([0.6, 0.0, 0.8]), np.ones(3), 0.3)


def solid(
    shape: str, rotation: np.ndarray, *, half_axes: tuple[float, ...] = (0.4, 0.4, 0.7), gloss: float = 0.0
) -> Solid:
    return Solid(shape, np.array(half_axes), rotation, "halves", np.array([[1.0, 0, 0], [0, 1.0, 0]]), gloss)


def pose(x: float, y: float, *, radius: float = 30.0, angle: float = 0.0, opacity: float = 1.0) -> Poses:
    return Poses(np.array([[x, y]]), np.array([radius]), np.array([angle]), np.array([opacity]))


def paint(sprites: Sprites, size: tuple[int, int] = (96, 96), background: float = 0.0) -> np.ndarray:
    picture = np.full((*size[::-1], 3), background, np.float32)
    sprites.paste(0, picture)
    return picture


@pytest.mark.parametrize("shape", ["ball", "box", "cylinder"])
def test_outlines_have_the_area_of_the_solids(shape: str) -> None:
    """Projected areas: of an ellipsoid and a box in closed form, and of a cylinder, whose middle is a box's."""
    rng = np.random.default_rng(0)
    a, b, c = 0.4, 0.4, 0.7
    for _ in range(4):
        rotation = draw_rotation(rng)
        axes = (rotation * [a, b, c])[:2]
        cos = abs(rotation[2, 2])
        area = {
            "ball": np.pi * np.sqrt(np.linalg.det(axes @ axes.T)),
            "box": 4 * np.abs(rotation[2]) @ [b * c, a * c, a * b],
            "cylinder": np.pi * a**2 * cos + 4 * a * c * np.sqrt(1 - cos**2),
        }[shape]
        covered = 1 - paint_keep(lit(solid(shape, rotation), pose(48.3, 47.6, angle=rng.uniform(0, 7)), LAMP))
        assert covered.sum() == pytest.approx(area * 30**2, rel=0.02)
        rows, columns = np.indices(covered.shape) + 0.5
        centre = (covered * columns).sum() / covered.sum(), (covered * rows).sum() / covered.sum()
        np.testing.assert_allclose(centre, (48.3, 47.6), atol=0.2)


def paint_keep(sprites: Sprites) -> np.ndarray:
    """(H, W): how much of the background is left."""
    before, after = paint(sprites, background=0.0), paint(sprites, background=1.0)
    return (after - before)[..., 0]


def test_light_falls_from_the_lamp() -> None:
    """Lambert and Blinn in the middle of a ball, which faces the viewer; turning it leaves the light in place."""
    ball = solid("ball", np.eye(3), half_axes=(1.0, 1.0, 1.0), gloss=0.5)
    picture = paint(lit(ball, pose(48.0, 48.0), LAMP))
    half = np.cos(np.arccos(0.8) / 2)
    assert picture[47:49, 47:49, 0].mean() == pytest.approx(0.3 + 0.7 * 0.8 + 0.5 * half**16, rel=0.02)
    assert picture[48, 70].sum() > picture[48, 26].sum() + 0.3, "the lamp is on the right"
    np.testing.assert_allclose(paint(lit(ball, pose(48.0, 48.0, angle=2.0), LAMP)), picture, atol=0.02)
    shadow = paint(shadows(ball, pose(48.0, 48.0, radius=15.0), LAMP), background=1.0)[..., 0]
    assert shadow[:, :48].sum() < shadow[:, 48:].sum() and shadow.min() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_allclose(
        paint(lit(ball, pose(48.0, 48.0, opacity=0.25), LAMP)), 0.25 * picture, atol=1e-6, err_msg="a faded ball"
    )


def test_solids_turn_clockwise_on_the_screen() -> None:
    lying = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # the long axis and the red half to the right
    for angle in (0.0, 0.7, 2.0):
        red, green, _ = paint(lit(solid("box", lying), pose(48.0, 48.0, angle=angle), LAMP)).transpose(2, 0, 1)
        rows, columns = np.indices(red.shape)
        down, across = (
            (red * where).sum() / red.sum() - (green * where).sum() / green.sum() for where in (rows, columns)
        )
        assert np.arctan2(down, across) == pytest.approx(angle, abs=0.03)


def test_what_is_beside_the_picture_is_cut_off() -> None:
    whole = paint(lit(solid("box", np.eye(3)), pose(100.0, 60.0), LAMP), size=(200, 200))
    for left, top in ((0, 0), (100, 0), (90, 60), (135, 0)):
        part = paint(lit(solid("box", np.eye(3)), pose(100.0 - left, 60.0 - top), LAMP), size=(65, 62))
        np.testing.assert_allclose(part, whole[top : top + 62, left : left + 65], atol=1e-6)


# ---------------------------------------------------------------------------------------- single frames


def test_compression_leaves_no_trace_of_the_motion_in_a_frame(tmp_path: Path) -> None:
    clips = [draw_clip(Drawing(0, (96, 96), 8), label, np.random.default_rng(0)) for label in (0, 6)]
    clips[1][5] = clips[0][5]
    decoded = []
    for i, clip in enumerate(clips):
        (tmp_path / f"{i}.mp4").write_bytes(encode_clip(clip))
        decoded.append(decode(tmp_path / f"{i}.mp4"))
    np.testing.assert_array_equal(decoded[0][5], decoded[1][5], "the frame depends on its neighbours")
    assert (decoded[0][4] != decoded[1][4]).any()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Decoded videos at half size and their labels: (B, T, h, w, 3) in 0..1, (B,)."""
    made: Generated = generate(
        tmp_path_factory.mktemp("synthetic"),
        num_pretrain=1,
        num_train=280,
        num_val=200,
        num_test=1,
        size=(64, 64),
        num_frames=NUM_FRAMES,
    )
    splits = {}
    for split, file in (("train", made.train), ("val", made.val)):
        paths, labels = zip(*read_rows(file), strict=True)
        videos = np.stack([decode(path)[:, ::2, ::2] for path in paths]).astype(np.float32) / 255
        splits[split] = (videos, np.array(labels))
    return splits


def frame_features(frames: np.ndarray) -> np.ndarray:
    """Single frames (B, h, w, 3) -> colours at 16 x 16, histograms, profiles of brightness across and down."""
    num = len(frames)
    coarse = frames.reshape(num, 16, 2, 16, 2, 3).mean((2, 4)).reshape(num, -1)
    bins = np.minimum(frames * 12, 11).astype(int)
    histograms = np.stack([(bins == i).mean((1, 2)) for i in range(12)], axis=1).reshape(num, -1)
    light = frames.max(-1)
    profiles = np.concatenate([light.mean(1), light.mean(2), np.sort(light.mean(1)), np.sort(light.mean(2))], axis=1)
    return np.concatenate([coarse, histograms, profiles], axis=1)


@pytest.mark.long
def test_one_frame_does_not_give_the_label_away(clips: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    (train, train_labels), (val, val_labels) = clips["train"], clips["val"]
    chance = 1 / len(CLASS_NAMES)
    # Guesses on 200 independent videos hit a tenth with a standard error of .021. In six trials, one perfect data set
    # in 120 would be beyond three standard errors (.164), one in 5,000 beyond four (.185). The seed is fixed.
    bound = chance + 4 * np.sqrt(chance * (1 - chance) / len(val))
    for frame in (0, NUM_FRAMES // 2, NUM_FRAMES - 1):  # a fixed place in the video: a start at one side would show
        seen, unseen = frame_features(train[:, frame]), frame_features(val[:, frame])
        linear = make_pipeline(StandardScaler(), PCA(24, random_state=0), LogisticRegression(max_iter=300))
        for classifier in (linear, RandomForestClassifier(60, min_samples_leaf=2, random_state=0)):
            accuracy = classifier.fit(seen, train_labels).score(unseen, val_labels)
            assert accuracy < bound, f"{type(classifier).__name__} on frame {frame}: {accuracy:.3f}"
