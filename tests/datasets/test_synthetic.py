"""The generated videos: real files, the same every time, and labelled by their motion alone."""

import logging
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datasets.scenes import CLASS_NAMES, RADIUS, Balls, Lamp, draw_scene, draw_waves
from datasets.synthetic import Drawing, Generated, draw_clip, encode_clip, generate

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
    drawn = draw_clip(Drawing(3, (64, 48), 6), label, np.random.default_rng([3, 1, 7]))
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


# ---------------------------------------------------------------------------------------- the scene

SQUARE = (64, 64)
LAMP = Lamp(angle=0.3, elevation=0.8)


def one_ball(place: complex, octave: float) -> Balls:
    """A white ball of a radius of e^octave times the smallest."""
    drawn = Balls.random(SQUARE, np.random.default_rng(0))
    white = np.full((1, 3), 255, np.float32)
    return Balls(np.array([place]), np.array([octave]), white, drawn.reach, drawn.x, drawn.y)


def painted(balls: Balls, *, across: float = 0, down: float = 0, angle: float = 0, zoom: float = 0) -> np.ndarray:
    """Balls on a grey ground, (H, W, 3)."""
    frame = np.full((*SQUARE, 3), 100, np.float32)
    balls.paint(frame, np.array([across, down, angle, zoom]), LAMP)
    return frame


def extent(frame: np.ndarray) -> np.ndarray:
    """Centre and spread of what is brighter than the ground, (across, down, spread), in units of the shorter side."""
    rows, columns = np.nonzero(frame.mean(-1) > 101)
    return np.array([columns.mean(), rows.mean(), np.sqrt(columns.var() + rows.var())]) / SQUARE[0]


@pytest.mark.parametrize("octave", [0.2, 0.6])
def test_near_balls_are_larger_and_pass_faster(octave: float) -> None:
    ball = one_ball(0j, octave)
    still, moved = extent(painted(ball)), extent(painted(ball, across=0.1, down=-0.05))
    size = np.exp(octave)
    np.testing.assert_allclose(moved - still, (0.1 * size, -0.05 * size, 0), atol=0.01)
    # The hand sways across the picture, turned or not.
    turned = extent(painted(ball, across=0.1, down=-0.05, angle=1.0)) - extent(painted(ball, angle=1.0))
    np.testing.assert_allclose(turned, (0.1 * size, -0.05 * size, 0), atol=0.01)
    closer = extent(painted(ball, zoom=0.2))
    assert closer[2] / still[2] == pytest.approx(np.exp(0.2), rel=0.05)


def test_a_quarter_turn_is_the_turned_picture() -> None:
    """All of it: wall, balls, shadows, and the side that the lamp is on."""
    view = np.zeros((2, 4))
    view[1, 2] = np.pi / 2
    waves = draw_waves(view, SQUARE, np.random.default_rng(0))
    np.testing.assert_allclose(waves[1], np.rot90(waves[0], -1), atol=1e-4)
    balls = Balls.random(SQUARE, np.random.default_rng(1))
    turned = painted(balls, angle=np.pi / 2)
    difference = np.abs(turned - np.rot90(painted(balls), -1)).mean(-1)
    assert np.median(difference) < 0.1 and (difference > 5).mean() < 0.02, "beyond pixels at the edge of a disc"
    assert np.abs(turned - painted(balls)).mean() > 10


def test_near_balls_cover_far_ones_and_cast_shadows() -> None:
    far, near = one_ball(0j, 0.3), one_ball(0.3 + 0j, 0.6)
    both = Balls(
        np.concatenate([near.places, far.places]),
        np.concatenate([near.octaves, far.octaves]),
        np.concatenate([near.colours, far.colours]),
        far.reach,
        far.x,
        far.y,
    )
    frame, alone = painted(both), painted(near)
    inside = np.hypot(near.x[None] - 0.3 * RADIUS[0] * np.exp(0.6), near.y[:, None]) < 0.9 * RADIUS[0] * np.exp(0.6)
    np.testing.assert_allclose(frame[inside], alone[inside], atol=2)
    assert (alone.mean(-1) < 60).any(), "no shadow on the ground"


def test_what_leaves_the_torus_comes_back() -> None:
    balls = Balls.random(SQUARE, np.random.default_rng(2))
    round_trip = 2 * balls.reach * RADIUS[0]
    np.testing.assert_allclose(painted(balls, across=round_trip), painted(balls), atol=0.5)
    octaves = np.log(RADIUS[1] / RADIUS[0])
    np.testing.assert_allclose(painted(balls, zoom=octaves), painted(balls), atol=0.5)


# ---------------------------------------------------------------------------------------- the label


def picture_statistics(frame: np.ndarray) -> list[float]:
    """How bright a picture (H, W, 3) is and how much that varies, how steep it is, how much steeper across than down,
    and how steep along the two diagonals.
    """
    light = frame.mean(axis=-1)
    down, across = np.gradient(light / light.std())
    steep = [np.hypot(down, across).mean(), (across**2).mean() / (down**2).mean(), (across * down).mean()]
    return [light.mean(), light.std(), *steep]


@pytest.mark.slow
def test_a_frame_has_the_same_distribution_in_every_class() -> None:
    rng = np.random.default_rng(0)
    drawn = {
        name: np.array(
            [
                [picture_statistics(scene[frame]) for frame in (0, NUM_FRAMES - 1)]
                for scene in (draw_scene(label, NUM_FRAMES, (64, 48), rng) for _ in range(150))
            ]
        )
        for label, name in enumerate(CLASS_NAMES)
    }
    reference = drawn["left"][:, 0]
    for name, statistics in drawn.items():
        for frame in (0, 1):
            for which in range(reference.shape[-1]):
                if (name, frame) != ("left", 0):
                    # 95 tests, all of which should pass
                    p = ks_2samp(statistics[:, frame, which], reference[:, which]).pvalue
                    assert p > 1e-4, (name, frame, which)


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


def motion_features(clip: np.ndarray) -> np.ndarray:
    """A clip (T, h, w, 3) -> statistics over time of its content's drift, growth and turn.

    Between two frames the brightness constancy equation is solved by least squares for a motion of four parameters
    about the picture's centre: across, down, growing, turning (Lucas and Kanade).
    """
    light = gaussian_filter(clip.mean(-1), (0, 1, 1))
    light = (light - light.mean()) / light.std()
    before, after = light[:-1], light[1:]
    rows, columns = np.mgrid[: light.shape[1], : light.shape[2]].astype(np.float32)
    y, x = (side - side.mean() for side in (rows, columns))
    dy, dx = np.gradient((before + after) / 2, axis=(1, 2))
    equations = (np.stack([dx, dy, dx * x + dy * y, dy * x - dx * y], axis=-1)).reshape(len(dx), -1, 4)
    normal = np.swapaxes(equations, 1, 2) @ equations + 1e-4 * np.eye(4)
    steps = np.linalg.solve(normal, np.swapaxes(equations, 1, 2) @ (before - after).reshape(len(dx), -1, 1))[..., 0]
    steady = np.median(steps, axis=0)
    return np.concatenate([steady, np.median(np.abs(steps), axis=0), np.median(np.abs(steps - steady), axis=0)])


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("part", ["first half", "second half", "every other frame"])
def test_motion_gives_the_label(clips: dict[str, tuple[np.ndarray, np.ndarray]], part: str) -> None:
    start, stop, stride = {
        "first half": (0, NUM_FRAMES // 2, 1),
        "second half": (NUM_FRAMES // 2, None, 1),
        "every other frame": (0, None, 2),
    }[part]
    (train, train_labels), (val, val_labels) = clips["train"], clips["val"]
    classifier = RandomForestClassifier(60, min_samples_leaf=2, random_state=0)
    classifier.fit(np.stack([motion_features(clip[start:stop:stride]) for clip in train]), train_labels)
    accuracy = classifier.score(np.stack([motion_features(clip[start:stop:stride]) for clip in val]), val_labels)
    assert accuracy > 0.5, f"{part}: {accuracy:.3f}"
