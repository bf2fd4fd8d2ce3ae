"""reencode.py on tiny real videos: frames, times, key frames, what is turned and what is dropped."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from data_tools import call, numbers
from videos import _paint, write_video

from datasets.decoding.nal_units import is_h264_reference
from datasets.decoding.open import open_video
from datasets.lists.read import read_list
from scripts.data import encoding
from scripts.data.media import describe, open_source


def encode(source, folder, **recipe):
    target = folder / "new" / "x.mp4"
    result = encoding.encode(str(source), str(target), encoding.Recipe(**recipe))
    assert os.listdir(target.parent) == ["x.mp4"]
    return target, result


def times(path):
    with open_source(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_frames_and_key_frames(tmp_path):
    source = write_video(tmp_path / "x.mp4", 50, first=1000, width=128, height=96, gop=50)
    target, result = encode(source, tmp_path, short_side=48)
    assert numbers(target) == list(range(1000, 1050))
    assert result == {"frames": 50, "height": 48, "width": 64, "bytes": target.stat().st_size}
    with open_source(str(target)) as container:
        keys = [number for number, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert np.diff([*keys, 50]).max() <= 12
    assert describe(str(target))["key_distance"] == pytest.approx(50 / len(keys))
    assert times(target) == pytest.approx(times(source))


def test_most_frames_are_needed_by_no_other(tmp_path):
    source = write_video(tmp_path / "x.mp4", 48, width=128, height=96, gop=48)
    target, _ = encode(source, tmp_path)
    with open_source(str(target)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        extradata = stream.codec_context.extradata
        unneeded = sum(not is_h264_reference(memoryview(packet), extradata) for packet in packets)
    assert unneeded >= 48 * 9 / 12  # of 12: a key frame, 5 B, P, 4 B, P


def test_key_frames_of_the_source_are_not_taken_over(tmp_path):
    target, _ = encode(write_video(tmp_path / "x.mp4", 24, gop=1, width=128, height=96), tmp_path)
    assert describe(str(target))["key_distance"] > 2


def test_variable_rate_stays(tmp_path):
    rng = np.random.default_rng(0)
    ticks = np.cumsum(rng.integers(200, 9000, 40)).tolist()
    with av.open(str(tmp_path / "x.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 90_000)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(_paint(number, 64, 48), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 90_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    target, _ = encode(tmp_path / "x.mp4", tmp_path)
    assert numbers(target) == list(range(40))
    assert times(target) == pytest.approx([(tick - ticks[0]) / 90_000 for tick in ticks], abs=1e-9)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(degrees, tmp_path):
    source = write_video(tmp_path / "x.mp4", 5, width=64, height=48, crf="5")
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    matrix = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 0x4000], ">i4") * 0x10000
    data[place : place + 36] = matrix.tobytes()
    source.write_bytes(data)
    target, result = encode(source, tmp_path, crf=5)
    with open_video(source) as old, open_video(target) as new:
        shown, made = old.get_frames([3]).float(), new.get_frames([3]).float()
    assert made.shape == shown.shape == (1, 3, result["height"], result["width"])
    assert (made - shown).abs().mean() < 6
    with open_source(str(target)) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_what_an_edit_list_hides_is_gone(tmp_path):
    source = write_video(tmp_path / "x.mp4", 48, gop=48)
    with av.open(str(source)) as old, av.open(str(tmp_path / "cut.mp4"), "w") as out:  # ffmpeg -ss ... -c copy
        stream = old.streams.video[0]
        copy = out.add_stream_from_template(stream)
        begin = round(17 / 30 / stream.time_base)
        for packet in old.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, copy
                out.mux(packet)
    target, _ = encode(tmp_path / "cut.mp4", tmp_path)
    assert numbers(target) == list(range(17, 48))
    with open_source(str(target)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert not any(packet.is_discard for packet in packets)
    assert len(packets) == 31


def test_full_range_becomes_limited(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], (64, 1, 3))
    with av.open(str(tmp_path / "x.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 256, 64, "yuvj420p"
        stream.codec_context.color_range = 2
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(ramp, format="rgb24").reformat(format="yuvj420p")))
        out.mux(stream.encode())
    target, _ = encode(tmp_path / "x.mp4", tmp_path, crf=1)
    with open_video(target) as video:
        assert (video.get_frames([1])[0, :, 32].float() - torch.linspace(0, 255, 256)).abs().max() <= 4


def test_audio_is_dropped_and_small_videos_keep_their_size(tmp_path):
    assert encoding.target_size(240, 320, 256) == (240, 320)
    assert encoding.target_size(1080, 1920, 256) == (256, 456)  # 455.1: even
    assert encoding.target_size(1920, 1080, 256) == (456, 256)
    assert encoding.target_size(1, 3, 256) == (2, 4)


def test_shards_are_encoded_too(videos, tmp_path):
    (tmp_path / "l.csv").write_text(f"{videos.good[0]} 0\n{videos.good[3]} 1\n")
    call("shard", tmp_path / "l.csv", tmp_path / "packed")
    call("reencode", tmp_path / "packed" / "l.csv", tmp_path / "small")
    for path, source in zip(
        read_list(tmp_path / "small" / "l.csv").paths, (videos.good[0], videos.good[3]), strict=True
    ):
        assert numbers(path) == numbers(source)
