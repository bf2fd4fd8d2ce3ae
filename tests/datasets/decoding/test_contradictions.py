"""Files whose header, packets and pictures contradict each other, and what comes with pictures."""

import av
import numpy as np
import pytest
import torch
from av.bitstream import BitStreamFilterContext
from odd_videos import write_exif_pictures

from datasets.decoding.alternatives import CROPPED, known_issues
from datasets.decoding.containers import open_container, video_stream
from datasets.decoding.in_order import frames_in_order
from datasets.decoding.open import open_video
from datasets.decoding.pyav import TOLD_ORDER
from scripts.data import check
from scripts.data.encoding import Recipe, encode
from scripts.data.explain import explain

NUM_FRAMES = 20


@pytest.mark.parametrize(
    ("orientation", "corner", "is_upright"),
    [(1, (0, 0), True), (2, (0, -1), True), (5, (0, 0), False), (6, (0, -1), False), (8, (-1, 0), False)],
)
def test_exif_data_of_frames_is_obeyed(orientation, corner, is_upright, tmp_path):
    """Orientations of Exif 2.3, 4.6.4, table 6. PyAV has no name for side data with Exif in it."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255
    source, new = tmp_path / "a.avi", tmp_path / "new.mp4"
    write_exif_pictures(source, [picture // 2, picture, picture], orientation)
    encode(str(source), str(new), Recipe(crf=5))
    assert check.check(check.Work(str(source), True))["frames"] == 3
    assert "mjpeg" in explain(str(source))
    for path in (source, new):
        with open_video(path) as video:
            image = video.get_frames([1])[0].float().mean(0)
        corners = {(row, column): image[row, column] > 128 for row in (0, -1) for column in (0, -1)}
        assert [place for place, is_white in corners.items() if is_white] == [corner]
        assert image.shape == ((48, 64) if is_upright else (64, 48))


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_files_that_do_not_say_when_frames_are_shown(codec, tmp_path, write_video, read_number):
    """MP4 with B-frames and without its table of composition times: the order is that of the decoder."""
    good = write_video(tmp_path / "good.mp4", NUM_FRAMES, codec=codec, bf="2", gop=8)
    path = tmp_path / "a.mp4"
    path.write_bytes(good.read_bytes().replace(b"ctts", b"free"))
    with open_container(str(path)) as container:  # two frames come before time 0
        frames = (frame.to_ndarray(format="rgb24") for frame in frames_in_order(container, video_stream(container)))
        shown = [read_number(torch.from_numpy(image).permute(2, 0, 1)) for image in frames]
    assert len(shown) >= NUM_FRAMES - 2 and shown == sorted(shown)
    for number, expected in enumerate(shown):
        with open_video(path) as video:
            assert read_number(video.get_frames([number])[0]) == expected
    with open_video(path) as video:
        assert [read_number(frame) for frame in video.get_frames(range(len(shown)))] == shown
        assert video.why_in_order == TOLD_ORDER and (np.diff(video.clock.seconds()) > 0).all()
    with open_video(good) as video:
        assert not video.why_in_order


def join(path, first, second, *, shown):
    """Two videos as streams of one file, of which one is marked as the default."""
    with av.open(str(first)) as one, av.open(str(second)) as other, av.open(str(path), "w") as out:
        streams = []
        for number, source in enumerate((one, other)):
            stream = out.add_stream_from_template(source.streams.video[0])
            stream.disposition = stream.disposition.__class__(1 if number == shown else 0)
            streams.append((source, stream))
        for source, stream in streams:
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)


@pytest.mark.parametrize("shown", [0, 1])
def test_the_stream_marked_as_default_is_shown(shown, decoder, tmp_path, write_video):
    sizes = ((64, 48), (96, 80))
    videos = [write_video(tmp_path / f"{width}.mp4", 6, width=width, height=height) for width, height in sizes]
    join(tmp_path / "a.mkv", *videos, shown=shown)
    with open_video(tmp_path / "a.mkv", decoder=decoder) as video:
        width, height = sizes[shown]
        assert video.get_frames([0]).shape == (1, 3, height, width)


def test_pictures_are_cropped_on_the_left(tmp_path, write_video):
    """By 8 pixels, which is no place where FFmpeg likes pictures to begin. Other back ends stretch what is left."""
    whole, path = write_video(tmp_path / "whole.mp4", 8, crf="1"), tmp_path / "a.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        crop = BitStreamFilterContext("h264_metadata=crop_left=8", stream, copy)
        for packet in source.demux(stream):
            for changed in crop.filter(packet if packet.size else None):
                changed.stream = copy
                out.mux(changed)
    with open_video(whole) as full, open_video(path) as video:
        assert video.get_frames([3]).shape == (1, 3, 48, 56)
        assert (video.get_frames([3]).float() - full.get_frames([3])[..., 8:].float()).abs().max() <= 1
    assert CROPPED in known_issues(str(path), "decord") and CROPPED not in known_issues(str(whole), "decord")
