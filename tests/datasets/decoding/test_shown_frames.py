"""Which frames a video has, in what order, when and which way up: files that say one thing and show another."""

import contextlib
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from odd_videos import MATRICES, ONE, all_keys, no_key_table, packets, write_matrix

from datasets.decoding import colours
from datasets.decoding.clock import mend_times
from datasets.decoding.containers import open_container, video_stream
from datasets.decoding.in_order import frames_in_order
from datasets.decoding.open import open_video
from datasets.decoding.orientation import Orientation, from_matrix
from datasets.decoding.pyav import LYING_KEYS
from datasets.decoding.silent_packets import is_not_coded
from datasets.lists.spans import frames_within

NUM_FRAMES = 40
SHOWN = {
    "nothing": lambda image: image,
    "90": lambda image: np.rot90(image, -1),
    "180": lambda image: np.rot90(image, 2),
    "270": lambda image: np.rot90(image, 1),
    "left to right": np.fliplr,
    "top to bottom": np.flipud,
    "90, then left to right": lambda image: np.fliplr(np.rot90(image, -1)),
    "90, then top to bottom": lambda image: np.flipud(np.rot90(image, -1)),
}


def numbers(path, indices, decoder, read_number):
    """As one request, and frame by frame from readers of their own: by a seek, where there are seeks."""
    with open_video(path, decoder=decoder) as video:
        together = [read_number(frame) for frame in video.get_frames(indices)]
    for index, number in zip(indices, together, strict=True):
        with open_video(path, decoder=decoder) as video:
            assert read_number(video.get_frames([index])[0]) == number
    return together


# ------------------------------------------------------------------------------------------------- key frames


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mpeg4"),
        ("b.mp4", "libx264"),
        ("c.mp4", "libx265"),
        ("d.avi", "flv"),
        ("e.avi", "wmv2"),
        ("f.avi", "msmpeg4"),
        ("g.avi", "mpeg4"),
        ("h.avi", "cinepak"),
    ],
)
def test_containers_that_call_every_frame_a_key_frame(name, codec, decoder, tmp_path, write_video, read_number):
    options = {"pix_fmt": "rgb24"} if codec == "cinepak" else {"b": "1M"} if not codec.startswith("lib") else {}
    source = write_video(tmp_path / f"good_{name}", NUM_FRAMES, codec=codec, bframes=0, **options)
    (all_keys if name.endswith("avi") else no_key_table)(source, tmp_path / name)
    assert numbers(tmp_path / name, [0, 7, 13, 30, 39], decoder, read_number) == [0, 7, 13, 30, 39]
    with open_video(tmp_path / name, decoder="pyav") as video:
        video.get_frames([30])
        if name in ("a.mp4", "d.avi", "e.avi", "f.avi"):  # of others FFmpeg looks at the packets itself
            assert video.why_in_order == LYING_KEYS
    with open_video(source) as video:
        video.get_frames([30])
        assert (video.why_in_order == "") == (codec != "cinepak")


# ------------------------------------------------------------------------------------------------- which way up


@pytest.mark.parametrize("name", MATRICES)
def test_every_turn_and_mirror(name, decoder, tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4", 9, width=128, height=64)  # decord wants a width of whole 64s, turned
    with open_video(path, decoder="pyav") as video:
        stored = video.get_frames([0, 8]).permute(0, 2, 3, 1).numpy()
    write_matrix(path, [ONE * value for value in MATRICES[name]])
    with open_video(path, decoder=decoder) as video:
        frames = video.get_frames([0, 8]).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(frames, np.stack([SHOWN[name](image) for image in stored]))


def test_other_matrices_are_the_nearest_of_the_eight():
    for degrees in range(-180, 180, 4):  # none is halfway
        a, b = ONE * np.cos(np.radians(degrees)), ONE * np.sin(np.radians(degrees))
        quarter = round(degrees / 90) % 4
        turned = {0: "nothing", 1: "90", 2: "180", 3: "270"}[quarter]
        assert from_matrix((a, b, 0, -b, a)) == from_matrix([*_five(MATRICES[turned])])
        assert from_matrix((-a, -b, 0, -b, a)).is_mirrored
    assert from_matrix([0] * 9) == Orientation()
    assert from_matrix((-2 * ONE, 0, 0, 0, 2 * ONE)) == Orientation(False, True, False)


def _five(matrix):
    a, b, c, d = matrix
    return a, b, 0, c, d


# ------------------------------------------------------------------------------------------------- times


def test_times_are_mended_by_one_tick():
    good = [0, 40, 80, 120, 320, 520]
    assert mend_times(good, 40).tolist() == good
    assert mend_times([0, 40, 40, 120, 320, 520], 40).tolist() == [0, 40, 41, 120, 320, 520]  # twice
    assert mend_times([0, 40, 20, 120, 320, 520], 40).tolist() == [0, 40, 41, 120, 320, 520]  # backwards
    assert mend_times([0, 40, 900, 120, 320, 520], 40).tolist() == [0, 40, 41, 120, 320, 520]  # it sticks out
    assert mend_times([0, 40, None, 120], 40).tolist() == [0, 40, 80, 120]
    assert mend_times([None, None, 80, 120], 40).tolist() == [0, 40, 80, 120]
    assert mend_times([-80, -40, -40, 40], 40).tolist() == [-80, -40, -39, 40]
    assert mend_times([0, 40, 80, 120, 0, 40, 80, 120], 40).tolist() == list(range(0, 320, 40))  # set back
    assert mend_times([5, 5, 5], 40).tolist() == [5, 6, 7]


def test_times_that_repeat_in_coarse_ticks_are_no_clock_set_back():
    """At 1,200 frames a second and a tick of a millisecond some times come twice; the clip is as long as it was."""
    times = [5 * k // 6 for k in range(100)]
    mended = mend_times(times, 40)
    assert (np.diff(mended) > 0).all()
    assert mended[-1] - mended[0] < 100


def test_mended_times_rise_whatever_they_were():
    rng = np.random.default_rng(0)
    for _ in range(200):
        times = [None if rng.random() < 0.1 else int(time) for time in rng.integers(-50, 50, 12)]
        assert (np.diff(mend_times(times, 7)) > 0).all()


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
@pytest.mark.parametrize(("bad", "before", "behind"), [(7, [5, 6, 7], [8, 9]), (30, [28, 29, 30], [31])])
def test_one_bad_time_leaves_the_others(bad, before, behind, suffix, decoder, tmp_path, write_video, read_number):
    times = [40 * k if k < 20 else 800 + 200 * (k - 20) for k in range(NUM_FRAMES)]
    codec = "libvpx" if suffix == "webm" else "libx264"
    source = write_video(tmp_path / f"good.{suffix}", NUM_FRAMES, bframes=0, codec=codec)

    def change(number, packet):
        packet.time_base = Fraction(1, 1000)
        packet.pts = packet.dts = times[number - (number == bad)]
        return True

    path = packets(source, tmp_path / f"bad.{suffix}", change)
    with open_video(path, decoder=decoder) as video:
        frames = frames_within(video, str(path), (0.8, 2.0))
        assert list(frames) == [k for k, time in enumerate(times) if 800 <= time < 2000]
        assert video.num_frames == NUM_FRAMES
        edge = {7: 0.25, 30: 2.61}[bad]  # 10 ms after the time that comes twice: the second is one tick later
        assert list(frames_within(video, str(path), ({7: 0.2, 30: 2.4}[bad], edge))) == before
        assert list(frames_within(video, str(path), (edge, {7: 0.4, 30: 3.2}[bad]))) == behind
    assert numbers(path, [3, bad, 25, 39], decoder, read_number) == [3, bad, 25, 39]


# ------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.h264", "libx264", {}),
        ("a.hevc", "libx265", {}),
        ("a.m4v", "mpeg4", {"b": "1M"}),
        ("a.mjpeg", "mjpeg", {"pix_fmt": "yuvj420p"}),
        ("a.m2v", "mpeg2video", {"bf": "2", "b": "2M"}),
        ("a.ivf", "libvpx", {}),
        ("a.obu", "libsvtav1", {"height": 64}),
    ],
)
def test_formats_without_times_of_their_own(name, codec, options, decoder, tmp_path, write_video, read_number):
    path = write_video(tmp_path / name, NUM_FRAMES, codec=codec, **options)
    with open_video(path, decoder=decoder) as video:
        assert video.num_frames == NUM_FRAMES
    with open_video(path, decoder="pyav") as video:
        has_clock = name in ("a.ivf", "a.m4v")
        assert video.why_in_order == ("" if has_clock else "its format has no times of its own")
        assert (video.clock.ticks is None) != has_clock
    assert numbers(path, [2, 19, 39], decoder, read_number) == [2, 19, 39]


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bframes": 0}),
        ("libx264", {"bframes": 3, "x264-params": "open-gop=1"}),
        ("libx264", {"bframes": 0, "x264-params": "intra-refresh=1"}),
        ("libx265", {}),
        ("mpeg2video", {"bf": "2", "b": "2M"}),
        ("mpeg2video", {"b": "2M"}),
    ],
)
@pytest.mark.parametrize("start", [5, 12])
def test_streams_that_start_inside_a_group(start, codec, options, decoder, tmp_path, write_video, read_number):
    """The frames are those of a plain decode from the start, with the same numbers for all."""
    source = write_video(tmp_path / "whole.ts", NUM_FRAMES, codec=codec, gop=12, **options)
    path = packets(source, tmp_path / "part.ts", lambda number, _: number >= start)
    plain = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(av.InvalidDataError):  # a player goes on
                plain += [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in packet.decode()]
    shown = [read_number(frame.permute(2, 0, 1)) for frame in plain[-15:]]
    with open_video(path, decoder=decoder) as video:
        assert 0 < video.num_frames == len(plain) < NUM_FRAMES
        last = range(video.num_frames - 15, video.num_frames)
        assert [read_number(frame) for frame in video.get_frames(last)] == shown
    assert numbers(path, list(last)[::7], decoder, read_number) == shown[::7]


# ------------------------------------------------------------------------------------------------- no frames


def not_coded(time):
    bits = "01" + "0" + "1" + f"{time % 30:05b}" + "1" + "0" + "0"
    return b"\0\0\1\xb6" + int(bits + "1" * (-len(bits) % 8), 2).to_bytes(2, "big")


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4"])
@pytest.mark.parametrize("every", [4, 7])  # of 40: the last picture is not coded, or is
def test_pictures_that_are_not_coded_are_no_frames(every, suffix, decoder, tmp_path, write_video, read_number):
    source = write_video(tmp_path / "good.avi", NUM_FRAMES, codec="mpeg4", b="1M", fps=30)
    path, times = tmp_path / f"a.{suffix}", []
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        clock = itertools.count()
        for number, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            times.append(time := next(clock))
            parts = [(bytes(packet), packet.is_keyframe, time)]
            if number % every == every - 1:
                time = next(clock)
                parts.append((not_coded(time), False, time))
            for data, is_key, time in parts:
                made = av.Packet(data)
                made.stream, made.pts, made.dts, made.duration = copy, time, time, 1
                made.time_base, made.is_keyframe = Fraction(1, 30), is_key
                new.mux(made)
    with open_video(path, decoder=decoder) as video:
        assert video.num_frames == NUM_FRAMES
        inside = frames_within(video, str(path), (0.5, 1))
        assert list(inside) == [k for k, time in enumerate(times) if 15 <= time < 30]
    assert numbers(path, [0, 9, 20, 39], decoder, read_number) == [0, 9, 20, 39]


def test_coded_pictures_are_told_from_others(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", 20, codec="mpeg4", bf="2", b="1M", width=16, height=16)
    with av.open(str(path)) as container:
        data = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert not any(is_not_coded(packet, data[0]) for packet in data)
    assert is_not_coded(not_coded(3), data[0]) and is_not_coded(b"\x7f", data[0])


@pytest.mark.parametrize("name", ["a.ivf", "a.webm", "a.avi"])
@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_hidden_frames_are_no_frames(codec, name, decoder, tmp_path, write_video, read_number):
    options = {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"}
    path = write_video(tmp_path / name, NUM_FRAMES, codec=codec, gop=100, **options)
    with open_video(path, decoder=decoder) as video:
        assert video.num_frames == NUM_FRAMES
    assert numbers(path, [0, 17, 39], decoder, read_number) == [0, 17, 39]


def test_all_ways_follow_the_one_rule(tmp_path, write_video):
    """What comes out of the decoder in order is what the index has, with its times."""
    path = write_video(tmp_path / "a.mkv", NUM_FRAMES, bframes=3)
    with open_container(str(path)) as container:
        times = [frame.pts for frame in frames_in_order(container, video_stream(container))]
    with open_video(path) as video:
        assert video.index.times == times


# ------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("matrix", [8, 10, 11, 12, 13, 14])
def test_colour_matrices_that_ffmpeg_does_not_convert(matrix, decoder, tmp_path, write_video, caplog, monkeypatch):
    """They are read as if they were not named, with one warning."""
    source = write_video(tmp_path / "plain.mp4", 9)
    path = write_video(tmp_path / "tagged.mp4", 9, colorspace=str(matrix))
    monkeypatch.setattr(colours, "_warned", set())
    with open_video(source, decoder="pyav") as one, open_video(path, decoder=decoder) as other:
        assert torch.equal(one.get_frames(range(9)), other.get_frames(range(9)))
    assert caplog.text.count(f"colour matrix {matrix} ") == 1
