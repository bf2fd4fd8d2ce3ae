"""All back ends give the frames asked for, by number, or raise; on real files whose frames carry their number."""

import multiprocessing
import pickle
import sys

import av
import numpy as np
import pytest
import torch
from odd_videos import break_file, cut

from datasets.decoding.alternatives import why_missing
from datasets.decoding.frame_index import FrameIndex
from datasets.decoding.open import open_video, resolve_decoder
from datasets.decoding.pyav import PyAVReader
from datasets.decoding.seeking import Seeker
from datasets.errors import DecodeError

NUM_FRAMES = 48
FILES = {  # name -> keywords of write_video
    "long_gop.mp4": {"gop": 250, "bframes": 3},
    "short_gop.mp4": {"gop": 12},
    "no_bframes.mp4": {"bframes": 0, "fps": 10},
    "h264.mkv": {"gop": 12},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "hidden_vp9.webm": {"codec": "libvpx-vp9", "deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"},
    "odd_444.mp4": {"width": 65, "height": 49, "pix_fmt": "yuv444p"},
}
DECORD_FAILS = {  # decord by itself returns other frames, or an error: PyAV takes its place
    "bframes.avi": {"gop": 12},
    "h264.ts": {"gop": 12},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2"},
    "open_gop.mp4": {"gop": 12, "bframes": 3, "x264-params": "open-gop=1"},
    "intra_refresh.mp4": {"gop": 12, "x264-params": "intra-refresh=1"},
    "odd.webm": {"codec": "libvpx-vp9", "width": 65, "height": 49},
}
REQUESTS = [list(range(NUM_FRAMES)), [30, 31, 40], [47], [0], [13, 13, 13], [40, 3, 3, 25, 12, 47], [0, 15, 31, 46]]


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Written when first asked for: videos("short_gop.mp4") -> path."""
    folder = tmp_path_factory.mktemp("videos")

    def get(name):
        path = folder / name
        return path if path.exists() else write_video(path, NUM_FRAMES, **(FILES | DECORD_FAILS)[name])

    return get


def numbers(path, indices, decoder, read_number):
    with open_video(path, decoder=decoder) as video:
        frames = video.get_frames(indices)
    assert frames.dtype == torch.uint8 and frames.shape[:2] == (len(indices), 3)
    return [read_number(frame) for frame in frames]


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_asked_for(name, decoder, videos, read_number):
    with open_video(videos(name), decoder=decoder) as video:
        assert video.num_frames == NUM_FRAMES
    for request in REQUESTS:
        assert numbers(videos(name), request, decoder, read_number) == request


@pytest.mark.parametrize("name", DECORD_FAILS)
def test_files_that_decord_fails_on(name, decoder, videos, read_number):
    for request in REQUESTS:
        assert numbers(videos(name), request, decoder, read_number) == request


@pytest.mark.parametrize("name", ["long_gop.mp4", "mpeg4.avi", "open_gop.mp4", "vp8.webm"])
def test_auto_gives_the_right_frames(name, videos, read_number):
    for request in REQUESTS[1:]:
        assert numbers(videos(name), request, "auto", read_number) == request


@pytest.mark.parametrize("name", ["short_gop.mp4", "long_gop.mp4", "h264.mkv", "vp9.webm"])
def test_back_ends_give_the_same_pixels(name, decoder, videos):
    with open_video(videos(name), decoder=decoder) as one, open_video(videos(name), decoder="pyav") as other:
        assert torch.equal(one.get_frames(range(0, NUM_FRAMES, 5)), other.get_frames(range(0, NUM_FRAMES, 5)))


def test_one_reader_answers_many_requests(decoder, videos, read_number):
    with open_video(videos("short_gop.mp4"), decoder=decoder) as video:
        for request in ([40], [3], [3, 40], [2, 1]):
            assert [read_number(frame) for frame in video.get_frames(np.array(request))] == request


@pytest.mark.parametrize("num_frames", [1, 5])
def test_very_short_videos(num_frames, decoder, tmp_path, write_video, read_number):
    path = write_video(tmp_path / "short.mp4", num_frames)
    request = [num_frames - 1, *range(num_frames)]
    assert numbers(path, request, decoder, read_number) == request
    with open_video(path, decoder=decoder) as video:
        assert video.num_frames == num_frames


@pytest.mark.parametrize("indices", [[], [NUM_FRAMES], [-1], [0, 1000]])
def test_frames_outside_the_video_are_refused(indices, decoder, videos):
    with open_video(videos("short_gop.mp4"), decoder=decoder) as video, pytest.raises(DecodeError, match="video of 48"):
        video.get_frames(indices)


def test_pyav_seeks(tmp_path, write_video, read_number, monkeypatch):
    """A clip in the middle of a long video must not cost the decoding of all before it."""
    path = write_video(tmp_path / "long.mp4", 600, gop=24)
    decode, decoded = Seeker._decode_from, []

    def counted(self, *wanted):
        for frame in decode(self, *wanted):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(Seeker, "_decode_from", counted)
    with PyAVReader(str(path)) as video:
        frames = video.get_frames([300, 301, 590])
    assert [read_number(frame) for frame in frames] == [300, 301, 590]
    assert 0 < len(decoded) <= 2 * 24


def test_pyav_falls_back_when_times_are_wrong(videos, read_number):
    """A stream whose times do not fit its index is decoded from the start, and is right all the same."""
    with PyAVReader(str(videos("short_gop.mp4"))) as video:
        times = [time + 1 for time in video.index.times]
        video._seeker.index = FrameIndex(times, video.index.key_times)
        assert [read_number(frame) for frame in video.get_frames([7, 30])] == [7, 30]


def rotate(path, degrees):
    """Patch the display matrix of an MP4's track header: what a phone writes that is held upright."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # after the box's name: version 0 fields up to the matrix
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    values = np.array([cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30], ">i4")
    data[matrix : matrix + 36] = values.tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_videos_are_turned_upright(degrees, decoder, tmp_path, write_video, read_number):
    path = write_video(tmp_path / "phone.mp4", 6, width=128, height=64)  # decord wants a width of whole 64s, turned
    rotate(path, degrees)
    with open_video(path, decoder=decoder) as video:
        frames = video.get_frames([5])
    assert frames.shape == ((1, 3, 64, 128) if degrees == 180 else (1, 3, 128, 64))
    # the track header asks for a clockwise turn: undo it
    assert read_number(torch.rot90(frames[0], k=degrees // 90, dims=(1, 2))) == 5


def test_frames_hidden_by_an_edit_list_are_not_counted(decoder, tmp_path, videos, read_number):
    path = cut(videos("long_gop.mp4"), tmp_path / "cut.mp4", 17)
    with open_video(path, decoder=decoder) as video:
        assert video.num_frames == NUM_FRAMES - 17
    assert numbers(path, [0, 1, 30, 7], decoder, read_number) == [17, 18, 47, 24]


# ------------------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "html", "lfs", "audio", "folder", "no frames"])
def test_broken_files_raise_the_one_error(kind, decoder, tmp_path, videos):
    path = tmp_path / "broken.mp4"
    break_file(kind, videos("short_gop.mp4"), path)
    for choice in (decoder, "auto"):
        with pytest.raises(DecodeError) as caught:
            open_video(path, decoder=choice)
        assert caught.value.path == str(path)
        assert caught.value.reason and "\n" not in caught.value.reason
        assert str(path) in str(caught.value)


def test_damage_in_the_middle_is_an_error_with_pyav(tmp_path, write_video, read_number):
    """The frames before the damage and after the next key frame are still good."""
    path = write_video(tmp_path / "rot.mp4", NUM_FRAMES, gop=12, bframes=0)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][15]
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[place + 6 : place + size] = bytes(size - 6)
    path.write_bytes(data)
    for request in ([14], [24, 40], [2, 30]):
        assert numbers(path, request, "pyav", read_number) == request
    for request in ([15], [0, 20]):
        with open_video(path, decoder="pyav") as video, pytest.raises(DecodeError):
            video.get_frames(request)


def test_missing_end_of_a_faststart_file(decoder, tmp_path, write_video):
    """The index is there, half of the pictures are not: no short answer."""
    path = write_video(tmp_path / "half.mp4", NUM_FRAMES, gop=12, qp="5", movflags="faststart")
    with (
        av.open(str(path)) as source,
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        output = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = output
                target.mux(packet)
    data = (tmp_path / "fast.mp4").read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DecodeError), open_video(path, decoder=decoder) as video:
        video.get_frames(range(NUM_FRAMES))


def test_error_survives_pickling():
    """It crosses from a loader's worker to the main process."""
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "no frames")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "no frames", "a.mp4: no frames")


# ------------------------------------------------------------------------------------------------- choices


def test_unknown_decoder_is_refused():
    with pytest.raises(ValueError, match="choose from auto, decord, pyav, torchcodec"):
        open_video("a.mp4", decoder="ffmpeg")


def test_decord_may_be_missing(monkeypatch, videos, read_number):
    why_missing.cache_clear()
    monkeypatch.setitem(sys.modules, "decord", None)
    assert resolve_decoder("auto") == "pyav"
    assert numbers(videos("short_gop.mp4"), [5], "auto", read_number) == [5]
    with pytest.raises(ImportError, match="--decoder pyav"):
        open_video(videos("short_gop.mp4"), decoder="decord")
    why_missing.cache_clear()


def _open_and_count(path, decoder, queue):
    with open_video(path, decoder=decoder) as video:
        queue.put((video.num_frames, int(video.get_frames([3, 30]).float().mean())))


def test_works_in_a_forked_worker_after_use_in_the_parent(decoder, videos):
    path = videos("short_gop.mp4")
    with open_video(path, decoder=decoder) as video:
        expected = (video.num_frames, int(video.get_frames([3, 30]).float().mean()))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=_open_and_count, args=(path, decoder, queue))
    worker.start()
    worker.join(30)
    assert worker.exitcode == 0
    assert queue.get() == expected
