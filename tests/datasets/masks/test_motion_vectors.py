"""Motion from a video's own coding: on real files in which the way of everything is known."""

import itertools

import av
import numpy as np
import pytest
import torch
from moving_videos import write_moving_square

from datasets.decoding.nal_units import is_h264_reference
from datasets.decoding.open import open_video
from datasets.decoding.orientation import Orientation
from datasets.errors import DecodeError, MotionVectorError
from datasets.lists.read import read_list
from datasets.masks.flow_guided import neighbour_pairs
from datasets.masks.motion_fields import CELL, FIELDS, crop_motion, follow, reference_distances, turn, velocities
from datasets.masks.motion_vectors import MotionReader, check_motion_vectors, has_motion_vectors

START, SIDE = (4, 6), 40
SQUARES = {  # name -> keywords of write_moving_square
    "no_bframes.mp4": {},
    "long_gop.mp4": {"g": 250},
    "bframes.mp4": {"bf": 3},  # x264 makes one B-frame in three a reference
    "plain_bframes.mkv": {"bf": 3, "x264-params": "b-pyramid=none:b-adapt=0"},
    "many_references.mp4": {"preset": "slow", "bf": 3},
    "many_references_no_bframes.mp4": {"preset": "medium"},
    "start_codes.ts": {"bf": 3},
    "no_times.avi": {"bf": 3},  # no presentation times: by the kinds of the frames alone
    "mpeg4.mp4": {"codec": "mpeg4", "g": 12, "b": "2M"},
    "mpeg2.ts": {"codec": "mpeg2video", "g": 12, "bf": 2, "b": "3M"},
}
PANS = SQUARES | {"mpeg4_bframes.mp4": {"codec": "mpeg4", "g": 12, "bf": 2, "b": "2M"}}
INDICES = [1, 5, 9, 13, 17, 21]
PAIRS = [(i, i + 1) for i in range(5)] + [(i + 1, i) for i in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("moving")


@pytest.fixture(scope="module")
def written(folder):
    """written(name, velocity, pan) -> path; written when first asked for."""

    def get(name, velocity=(2, 1), *, pan=False):
        path = folder / f"{'pan' if pan else 'square'} {velocity[0]} {velocity[1]} {name}"
        if not path.exists():
            write_moving_square(path, start=START, side=SIDE, velocity=velocity, pan=pan, **PANS[name])
        return path

    return get


def cells_in_square(number, velocity, shape, margin=0):
    """Which cells lie in the square of a frame, `margin` pixels from its edge; negative for those around it as well."""
    y, x = np.indices(shape) * CELL
    left, top = START[0] + number * velocity[0], START[1] + number * velocity[1]
    inside = (x >= left + margin) & (x + CELL <= left + SIDE - margin)
    return inside & (y >= top + margin) & (y + CELL <= top + SIDE - margin)


# ---- the motion of known videos ----


@pytest.mark.parametrize("name", PANS)
def test_motion_of_a_whole_picture(name, written):
    """Away from the borders, where the picture comes in, nearly every cell has its way to within a pixel."""
    with MotionReader(written(name, (1, 2), pan=True)) as video:
        _, motion = video.get_frames_and_motion(INDICES, PAIRS)
    assert motion.shape == (10, 2, 12, 12) and motion.dtype == np.float32
    expected = np.array([4, 8])[:, None, None] * np.repeat([1, -1], 5)[:, None, None, None]
    wrong = np.abs(motion - expected).max(axis=1)[:, 3:-3, 3:-3]
    if name == "no_times.avi":  # no telling which B-frames are references
        assert np.median(wrong) < 1 and (wrong < 2).mean() > 0.7
    else:
        assert np.median(wrong) < 0.1 and (wrong < 1).mean() > 0.9


@pytest.mark.parametrize("velocity", [(1, 2), (2, 0)])
@pytest.mark.parametrize("name", SQUARES)
def test_motion_of_a_square(name, velocity, written):
    """The square has its way, in both directions of time, and the texture around it has none.

    Blocks across its edge belong to either, so cells near the edge are left out.
    """
    inside, outside = [], []
    with MotionReader(written(name, velocity)) as video:
        _, motion = video.get_frames_and_motion(INDICES, PAIRS)
    for (one, other), way in zip(PAIRS, motion, strict=True):
        expected = np.array(velocity)[:, None] * (INDICES[other] - INDICES[one])
        inside.append(np.abs(way[:, cells_in_square(INDICES[one], velocity, (12, 12), 8)] - expected).max(axis=0))
        outside.append(np.abs(way[:, ~cells_in_square(INDICES[one], velocity, (12, 12), -16)]).max(axis=0))
    assert np.median(np.concatenate(inside)) < 1 and (np.concatenate(inside) < 2).mean() > 0.8
    assert (np.concatenate(outside) < 0.5).mean() > 0.99


def test_frames_are_those_of_the_plain_reader(written):
    for name in ("bframes.mp4", "no_times.avi"):
        path = written(name)
        with open_video(path) as plain, MotionReader(path) as video:
            for indices in (INDICES, [3, 3, 20, 0], [23]):
                frames, motion = video.get_frames_and_motion(indices, [(0, len(indices) - 1)])
                assert torch.equal(frames, plain.get_frames(indices)) and motion.shape[0] == 1
            assert torch.equal(video.get_frames(INDICES), plain.get_frames(INDICES))


def test_repeated_frames_do_not_move(written):
    with MotionReader(written("bframes.mp4")) as video:
        _, motion = video.get_frames_and_motion([4, 8, 8, 8], neighbour_pairs(4))
    assert np.abs(motion[0]).max() > 4 and np.abs(motion[1:]).max() == 0


def test_frames_outside_the_video_and_broken_files(written, tmp_path):
    with MotionReader(written("bframes.mp4")) as video, pytest.raises(DecodeError, match="video of 24"):
        video.get_frames_and_motion([0, 24], [(0, 1)])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    for use in (MotionReader, has_motion_vectors):
        with pytest.raises(DecodeError, match=r"broken\.mp4"):
            use(broken)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_videos(degrees, written, tmp_path):
    """Frames and motion are turned alike: warping the one by the other gives the neighbour."""
    path = tmp_path / "phone.mp4"
    write_moving_square(path, 12, velocity=(2, 1), pan=True, width=104, height=76)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0 fields up to the display matrix
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    values = np.array([cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30], ">i4")
    data[matrix : matrix + 36] = values.tobytes()
    path.write_bytes(data)
    with MotionReader(path) as video:
        frames, motion = video.get_frames_and_motion([2, 6], [(0, 1)])
    height, width = frames.shape[2:]
    assert (height, width) == ((76, 104) if degrees == 180 else (104, 76))
    assert motion.shape[2:] == (-(-height // CELL), -(-width // CELL))
    way = np.rint(np.median(motion, axis=(0, 2, 3))).astype(int)
    assert sorted(np.abs(way)) == [4, 8]
    one, other = frames.float()
    moved = other.roll((-way[1], -way[0]), (1, 2))
    inner = (slice(None), slice(10, -10), slice(10, -10))
    assert (moved - one)[inner].abs().mean() < 0.3 * (other - one)[inner].abs().mean()


@pytest.mark.parametrize(
    ("codec", "name", "options", "expected"),
    [
        ("libx264", "a.mp4", {}, True),
        ("mpeg4", "a.avi", {}, True),
        ("libx264", "intra.mp4", {"g": 1}, False),
        ("libvpx", "a.webm", {"deadline": "realtime", "cpu-used": 8}, False),
    ],
)
def test_which_videos_have_vectors(codec, name, options, expected, tmp_path):
    """Those that have none stand still."""
    path = write_moving_square(tmp_path / name, 8, start=START, codec=codec, **options)
    assert has_motion_vectors(path) is expected
    with MotionReader(path) as video:
        frames, motion = video.get_frames_and_motion([0, 4], [(0, 1), (1, 0)])
    assert frames.shape == (2, 3, 96, 96) and bool(np.abs(motion).max() > 1) is expected


def test_a_list_without_motion_vectors_is_refused(tmp_path, caplog):
    moving = write_moving_square(tmp_path / "h264.mp4", 8)
    still = write_moving_square(tmp_path / "vp8.webm", 8, codec="libvpx")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")

    def video_list(*paths):
        file = tmp_path / "list.csv"
        file.write_text("".join(f"{path}\n" for path in paths))
        return read_list(file)

    check_motion_vectors(video_list(moving))
    assert not caplog.messages
    check_motion_vectors(video_list(still, moving, broken))
    assert "broken.mp4" in caplog.messages[0]
    assert "1 of 2 videos probed" in caplog.messages[1] and "vp8.webm" in caplog.messages[1]
    with pytest.raises(MotionVectorError, match=r"--mask_type motion_vectors: .*vp8\.webm"):
        check_motion_vectors(video_list(still, broken))


# ---- references ----


def test_nearest_references_by_hand():
    # shown 0..4, decoded I0 P4 B2 b1 b3, then P8 and b5
    packets = [(0, True), (40, True), (20, True), (10, False), (30, False), (80, True), (50, False)]
    distances = reference_distances(packets, 4)
    assert distances == {
        0: ([], []),
        40: ([-4], []),
        20: ([-2], [2]),
        10: ([-1], [1, 3]),
        30: ([-1, -3], [1]),
        80: ([-2, -4, -6], []),  # 50 is no reference: of the frames 0 10 20 30 40 50 80, this is the seventh
        50: ([-1, -3, -5], [1]),
    }
    assert reference_distances(packets, 1)[50] == ([-1], [1])


@pytest.mark.parametrize("name", ["bframes.mp4", "start_codes.ts"])
def test_references_are_read_off_the_packets(name, written):
    """x264's own B-pyramid: frames that are decoded before an earlier one must serve for something."""
    with av.open(str(written(name))) as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata
        packets = [packet for packet in container.demux(stream) if packet.size]
        flags = {packet.pts: is_h264_reference(memoryview(packet), extradata) for packet in packets}
        container.seek(0)
        kinds = {frame.pts: frame.pict_type for frame in container.decode(stream)}
    times = [packet.pts for packet in packets]
    b_frame = av.video.frame.PictureType.B
    assert all(flags[time] for time in times if kinds[time] != b_frame)
    assert any(flags[time] for time in times if kinds[time] == b_frame)
    assert not all(flags[time] for time in times if kinds[time] == b_frame)
    for place, time in enumerate(times):
        if any(later < time for later in times[place + 1 :]):
            assert flags[time]


# ---- from vectors to motion ----


def vectors(*blocks):
    """(source, side, left, top, x, y) -> FFmpeg's fields, the way in quarter pixels."""
    rows = [
        (source, side, side, left + side // 2, top + side // 2, 4 * x, 4 * y, 4)
        for source, side, left, top, x, y in blocks
    ]
    return np.array(rows, np.int32).reshape(-1, len(FIELDS)).T


def test_motion_vectors_become_velocities():
    """Divided by the distance, turned round for the past, averaged over both sides; a large block fills four cells."""
    frames = [
        vectors(),
        vectors((-1, 8, 0, 0, -6, 3), (1, 8, 0, 0, 2, 1), (1, 16, 8, 8, 4, 0)),
    ]
    out = velocities(frames, [([], []), ([-3], [2])], None, 24, 24)
    assert out.shape == (2, 2, 3, 3)
    assert out[:, 1, 0, 0].tolist() == [(2 + 1) / 2, (-1 + 0.5) / 2]
    assert (out[:, 1, 1:, 1:] == np.array([2, 0])[:, None, None]).all()
    assert (out[:, 1, 0, 1:] == 0).all() and (out[:, 0] == out[:, 1]).all()  # held for the frame without vectors
    assert (velocities(frames, [([], []), ([], [2])], None, 24, 24)[:, 1, 0, 0] == [1, 0.5]).all()


def test_a_velocity_holds_for_four_frames():
    frames = [vectors()] * 6 + [vectors((-1, 8, 0, 0, -1, 0))] + [vectors()] * 6
    out = velocities(frames, [([-1], [])] * 13, None, 8, 8)
    assert out[0, :, 0, 0].tolist() == [0, 0] + [1] * 9 + [0, 0]


def test_blocks_outside_the_picture_are_cut_off():
    out = velocities([vectors((-1, 16, 8, 8, -1, 0), (-1, 16, -8, 0, -2, 0))], [([-1], [])], None, 16, 16)
    assert out[0, 0].tolist() == [[2, 0], [2, 1]]


def test_the_reference_that_looks_like_the_block_is_taken():
    texture = np.random.default_rng(0).integers(0, 256, (40, 80), dtype=np.uint8)
    greys = np.stack([texture[:, 3 * number : 3 * number + 40] for number in range(5)])  # moves 3 pixels to the left
    distances = [([-1, -2, -4], [])] * 5
    for far in (1, 2, 4):
        frames = [vectors()] * 4 + [vectors((-1, 16, 8, 8, 3 * far, 0))]
        assert velocities(frames, distances, greys, 40, 40)[0, 4, 1, 1] == -3
        assert velocities(frames, distances, None, 40, 40)[0, 4, 1, 1] == -3 * far  # the nearest, without pictures


def test_follow_against_a_naive_walk():
    velocity = np.random.default_rng(0).uniform(-12, 12, (2, 6, 3, 4)).astype(np.float32)
    pairs = [(0, 5), (5, 0), (2, 3), (4, 4), (3, 1)]
    out = follow(velocity, pairs)
    for (start, end), way in zip(pairs, out, strict=True):
        for row in range(3):
            for column in range(4):
                x = first_x = column * CELL + CELL / 2
                y = first_y = row * CELL + CELL / 2
                step = 1 if end > start else -1
                for frame in range(start, end, step):
                    i, j = (min(max(int(place // CELL), 0), last) for place, last in ((y, 2), (x, 3)))
                    x, y = x + step * velocity[0, frame, i, j], y + step * velocity[1, frame, i, j]
                assert np.allclose(way[:, row, column], (x - first_x, y - first_y), atol=1e-4)


@pytest.mark.parametrize("orientation", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("size", [(40, 24), (37, 30)])
def test_turn_follows_every_pixel(orientation, size):
    """A dense field of both is compared at every cell's middle: the pixel of the picture as it is shown."""
    orientation = Orientation(*orientation)
    height, width = size
    rows, columns = -(-height // CELL), -(-width // CELL)
    motion = np.random.default_rng(0).standard_normal((1, 2, rows, columns)).astype(np.float32)
    numbers = np.arange(height * width).reshape(height, width)
    shown = orientation.apply(numbers)
    out = turn(motion, orientation, *shown.shape)
    assert out.shape[2:] == (-(-shown.shape[0] // CELL), -(-shown.shape[1] // CELL))
    for i in range(shown.shape[0] // CELL):
        for j in range(shown.shape[1] // CELL):
            y, x = divmod(int(shown[i * CELL + 4, j * CELL + 4]), width)
            # where the pixel one to the right and one down was coded tells how the axes turned
            right = np.subtract(divmod(int(shown[i * CELL + 4, j * CELL + 5]), width), (y, x))[::-1]
            down = np.subtract(divmod(int(shown[i * CELL + 5, j * CELL + 4]), width), (y, x))[::-1]
            way = motion[0, :, y // CELL, x // CELL]
            assert np.allclose(out[0, :, i, j], (way @ right, way @ down))


def test_crop_motion_samples_the_field_as_the_frames_are():
    motion = np.random.default_rng(0).standard_normal((2, 2, 5, 6)).astype(np.float32)
    dense = motion.repeat(CELL, axis=2).repeat(CELL, axis=3)  # a value for every pixel
    top, left, height, width = box = (3, 10, 30, 21)
    out = crop_motion(motion, box, 8, 12)
    for row in range(8):
        for column in range(12):
            y, x = int(top + (row + 0.5) * height / 8), int(left + (column + 0.5) * width / 12)
            expected = dense[:, :, y, x] * (12 / width, 8 / height)
            assert np.allclose(out[:, :, row, column], expected, atol=1e-6)


def test_a_picture_that_changes_its_size_is_an_error(tmp_path):
    """Two streams of H.264, one after the other."""
    parts = [
        write_moving_square(tmp_path / f"{i}.h264", 8, start=(0, 0), side=16, width=48 + 32 * i, height=48)
        for i in range(2)
    ]
    (tmp_path / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    with MotionReader(tmp_path / "both.h264") as reader, pytest.raises(DecodeError, match="size changes in the middle"):
        reader.get_frames_and_motion(range(reader.num_frames), [(0, 1)])
