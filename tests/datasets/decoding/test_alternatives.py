"""The matrix of codecs and oddities over all back ends, what replaces a back end, and the guard against hangs."""

import logging
import os
import sys
import tarfile
import time

import av
import numpy as np
import pytest
import torch
from processes import ROOT, fresh

from datasets.decoding import open as decoding
from datasets.decoding.alternatives import (
    HIDDEN_FRAMES,
    NEW_CODEC,
    NO_TIMES,
    OPEN_GOP,
    DecordReader,
    FallbackReader,
    why_missing,
)
from datasets.decoding.open import open_video
from datasets.decoding.pyav import PyAVReader
from datasets.decoding.seeking import Seeker
from datasets.errors import DecodeError
from datasets.loading.hang_guard import last_watched, set_watch_file, watched

NUM_FRAMES = 30
TIMES = np.cumsum([20 if i % 3 else 150 for i in range(NUM_FRAMES)]).tolist()
FILES = {  # name -> keywords of write_video
    "hevc.mp4": {"codec": "libx265"},
    "hevc_closed.mp4": {"codec": "libx265", "x265-params": "log-level=none:open-gop=0:bframes=2"},
    "av1.mp4": {"codec": "libsvtav1", "height": 64},
    "av1.webm": {"codec": "libsvtav1", "height": 64},
    "vfr.mp4": {"times": TIMES},
    "vfr.mkv": {"times": TIMES},
    "ten_bits.mp4": {"pix_fmt": "yuv420p10le"},
    "grey.mp4": {"pix_fmt": "gray"},
    "intra.mp4": {"gop": 1},
    "animation.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 10},
    "mpeg2.mpg": {"codec": "mpeg2video", "bf": "2", "b": "2M"},
    "mpeg2.ts": {"codec": "mpeg2video", "bf": "2", "b": "2M"},
}
REQUESTS = [[29], [3, 20, 29], [20, 3, 3, 11], list(range(NUM_FRAMES))]


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("matrix")

    def get(name):
        path = folder / name
        return path if path.exists() else write_video(path, NUM_FRAMES, **FILES[name])

    return get


@pytest.fixture(autouse=True)
def no_warnings_yet(monkeypatch):
    monkeypatch.setattr(decoding, "_logged", set())


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_asked_for(name, decoder, videos, read_number):
    with open_video(videos(name), decoder=decoder) as video:
        assert video.num_frames == NUM_FRAMES
        for request in REQUESTS:
            frames = video.get_frames(request)
            assert [read_number(frame) for frame in frames] == request


class ByTime(PyAVReader):
    """Fails where decoding from the start would make good what went wrong before."""

    def _collect_from_start(self, indices, make):
        raise AssertionError(f"times and decoder disagree about {indices}")


@pytest.mark.parametrize("bframes", [0, 3])
def test_leaving_frames_out_changes_no_pixel(bframes, tmp_path, write_video):
    """B-frames that nothing is built from are not decoded; the others are those of a plain run through the file."""
    path = write_video(tmp_path / "b.mp4", 60, gop=20, bframes=bframes, preset="medium")
    with av.open(str(path)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with ByTime(str(path)) as video:
        for request in ([0, 17, 31, 59], range(1, 60, 4), [2], [1], range(60)):
            frames = video.get_frames(request).permute(0, 2, 3, 1)
            assert np.array_equal(frames, np.stack([plain[i] for i in request]))


def test_unused_frames_are_not_decoded(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "b.mp4", 60, gop=60, bframes=3, preset="medium", **{"x264-params": "b-adapt=0"})
    decode, decoded = Seeker._decode_needed, []

    def counted(self, wanted, left_out):
        for frame in decode(self, wanted, left_out):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(Seeker, "_decode_needed", counted)
    with PyAVReader(str(path)) as video:
        video.get_frames([59])
    assert 0 < len(decoded) <= 60 - 20 + 1  # at least every third is a B-frame that nothing is built from


@pytest.mark.parametrize(("name", "fps"), [("grey.mp4", 30), ("animation.gif", 10), ("vfr.mp4", 15.7)])
def test_frames_per_second(name, fps, decoder, videos):
    with open_video(videos(name), decoder=decoder) as video:
        assert video.fps == pytest.approx(fps, rel=0.1)  # the last frame's length is counted or not


def test_rate_of_a_file_whose_header_does_not_know_it(videos):
    with open_video(videos("vfr.mkv")) as video:
        assert video.fps == pytest.approx((NUM_FRAMES - 1) * 1000 / (TIMES[-1] - TIMES[0]))


def concatenate(parts, path):
    """The packets of several videos one after the other, as if they were of one."""
    with av.open(str(path), "w") as target:
        output, start = None, 0
        for part in parts:
            with av.open(str(part)) as source:
                output = output or target.add_stream_from_template(source.streams.video[0])
                last = start
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = output
                        packet.pts, packet.dts = packet.pts + start, packet.dts + start
                        last = packet.pts
                        target.mux(packet)
                start = last + 33


@pytest.mark.parametrize("decoder", ["pyav", "torchcodec"])  # decord scales the other frames to the size of the first
def test_another_size_in_the_middle(decoder, tmp_path, write_video, read_number):
    if decoder != "pyav" and (reason := why_missing(decoder)):
        pytest.skip(reason)
    parts = [
        write_video(tmp_path / f"{i}.webm", 10, first=10 * i, codec="libvpx", width=64 + 32 * i, height=48 + 16 * i)
        for i in range(2)
    ]
    path = tmp_path / "both.webm"
    concatenate(parts, path)
    with open_video(path, decoder=decoder) as video:
        assert read_number(video.get_frames([3])[0]) == 3
        with pytest.raises(DecodeError, match="changes its size, 64x48 to 96x64"):
            video.get_frames([3, 15])


# ------------------------------------------------------------------------------------------------- replacements


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("name", "reason"), [("av1.mp4", NEW_CODEC), ("hevc.mp4", OPEN_GOP), ("mpeg2.ts", NO_TIMES), ("vfr.mp4", None)]
)
def test_fallback_to_pyav_is_logged_once(name, reason, videos, caplog):
    pytest.importorskip("decord")
    for _ in range(2):
        with open_video(videos(name), decoder="decord") as video:
            assert video.decoder == ("pyav" if reason else "decord")
    assert len(warnings(caplog)) == bool(reason)
    assert not reason or (reason in caplog.text and str(videos(name)) in caplog.text)


def hide_first_frames(source, target, first):
    """The packets of a video with times that begin below zero: an edit list hides these frames."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        output = writer.add_stream_from_template(reader.streams.video[0])
        packets = [packet for packet in reader.demux(video=0) if packet.size]
        times = sorted(packet.pts for packet in packets)
        for packet in packets:
            packet.stream = output
            packet.pts, packet.dts = packet.pts - times[first], packet.dts - times[first]
            writer.mux(packet)
    return target


def test_edit_lists(decoder, tmp_path, write_video, read_number, caplog):
    whole = write_video(tmp_path / "whole.mp4", NUM_FRAMES, gop=250)
    path = hide_first_frames(whole, tmp_path / "cut.mp4", 11)
    with open_video(path, decoder=decoder) as video:
        assert video.num_frames == NUM_FRAMES - 11
        assert [read_number(frame) for frame in video.get_frames([0, 7, 18])] == [11, 18, 29]
    assert (HIDDEN_FRAMES in caplog.text) == (decoder != "pyav")
    if decoder == "decord":  # by itself it counts frames that no player shows: the reason for all this
        with DecordReader(str(path)) as video:
            assert video.num_frames != NUM_FRAMES - 11


class Failing(PyAVReader):
    """A back end that opens a file and cannot decode it."""

    decoder = "failing"

    def _read(self, indices):
        raise DecodeError(self._path, "no")


def test_a_frame_that_fails_is_read_with_pyav(videos, read_number):
    path = str(videos("grey.mp4"))
    with FallbackReader(path, Failing(path)) as video:
        assert video.decoder == "failing"
        assert [read_number(frame) for frame in video.get_frames([7, 9])] == [7, 9]
        assert video.decoder == "pyav"
        assert read_number(video.get_frames([3])[0]) == 3
    reader = Failing(path)
    reader.num_frames -= 1  # the frames asked for were drawn from another length
    with FallbackReader(path, reader) as video, pytest.raises(DecodeError, match="failing counts 29 frames, PyAV 30"):
        video.get_frames([7])


def test_describe_decoder():
    assert decoding.describe_decoder("auto") == f"pyav {av.__version__} (auto)"
    assert decoding.describe_decoder("pyav") == f"pyav {av.__version__}"
    with pytest.raises(ValueError, match="torchcodec"):
        decoding.describe_decoder("cv2")


def test_torchcodec_may_be_missing(monkeypatch, videos):
    why_missing.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ImportError, match=r"FFmpeg's shared libraries.*--decoder pyav"):
        open_video(videos("grey.mp4"), decoder="torchcodec")
    why_missing.cache_clear()


# ------------------------------------------------------------------------------------------------- shards


def test_members_of_shards(decoder, videos, tmp_path, read_number):
    shard = tmp_path / "a.tar"
    (tmp_path / "bad.mp4").write_bytes(b"")
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(videos("intra.mp4"), "x/good.mp4")
        tar.add(tmp_path / "bad.mp4", "bad.mp4")
    with open_video(f"{shard}#x/good.mp4", decoder=decoder) as video:
        assert video.decoder == decoder
        assert [read_number(frame) for frame in video.get_frames([29, 4])] == [29, 4]
    for name in ("bad.mp4", "missing.mp4"):
        with pytest.raises(DecodeError) as caught:
            open_video(f"{shard}#{name}", decoder=decoder)
        assert caught.value.path == f"{shard}#{name}"
    with pytest.raises(DecodeError):
        open_video(f"{tmp_path}/none.tar#x.mp4", decoder=decoder)


# ------------------------------------------------------------------------------------------------- hangs

HANGING = """
import sys
from datasets.loading.hang_guard import set_watch_file, watched
from datasets.decoding.containers import open_container
set_watch_file(sys.argv[2])
with watched("/earlier.mp4", 60):
    ...
with watched(sys.argv[1], 1):
    open_container(sys.argv[1])  # waits in C for a writer that never comes
"""


@pytest.mark.slow
def test_a_decoder_that_hangs_in_native_code_is_ended(tmp_path):
    pipe, file = tmp_path / "pipe.mp4", tmp_path / "watch"
    os.mkfifo(pipe)
    finished = fresh(sys.executable, "-c", HANGING, pipe, file, cwd=ROOT)
    assert finished.returncode == 1
    last = last_watched(file)
    assert last.path == str(pipe) and last.hung
    assert "open_container" in last.traceback


def test_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DecodeError, match="not a file"):
        open_video(tmp_path / "pipe.mp4")


def test_watch_file_names_the_video_being_decoded(tmp_path):
    file = tmp_path / "watch"
    assert last_watched(file) is None
    with watched("/no/file/yet.mp4", 0.001):  # no file, no guard
        time.sleep(0.05)
    set_watch_file(file)
    try:
        with watched("/data/a b\n.mp4", 60):
            assert last_watched(file) == ("/data/a b\n.mp4", False, "")
        with pytest.raises(ZeroDivisionError), watched("/data/long/name.mp4", 60):
            raise ZeroDivisionError
        assert last_watched(file) is None
    finally:
        set_watch_file(None)


def test_tensors_are_of_our_own(videos):
    """Not of FFmpeg's memory, which the next frame uses again."""
    with open_video(videos("intra.mp4")) as video:
        first = video.get_frames([3])
        kept = first.clone()
        video.get_frames(range(NUM_FRAMES))
    assert torch.equal(first, kept)
