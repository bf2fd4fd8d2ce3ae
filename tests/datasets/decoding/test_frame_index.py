"""The index from an MP4's header against the one from its packets, and files whose header must not be trusted."""

import io

import av
import numpy as np
import pytest

from datasets.decoding.containers import open_container, video_stream
from datasets.decoding.frame_index import _composition_offsets, index_from_header, index_from_packets
from datasets.decoding.pyav import PyAVReader
from datasets.errors import DecodeError

VIDEOS = {  # name -> keywords of write_video
    "reordered.mp4": {"gop": 12, "bframes": 3},
    "as_decoded.mp4": {"bframes": 0, "fps": 10},
    "pyramid.mov": {"gop": 250, "preset": "medium", "bframes": 7},
    "open_gop.mp4": {"gop": 12, "bframes": 3, "x264-params": "open-gop=1"},
    "hevc.mp4": {"codec": "libx265", "preset": "fast", "gop": 12},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2"},
    "uneven.mp4": {"bframes": 3, "times": [40 * i + 13 * (i % 4 == 1) for i in range(40)]},
}


def indices(path):
    with open_container(str(path)) as container, open(path, "rb") as file:
        stream = video_stream(container)
        return index_from_header(stream, file), index_from_packets(container, stream)


@pytest.mark.parametrize("name", VIDEOS)
def test_header_and_packets_agree(name, tmp_path, write_video):
    header, packets = indices(write_video(tmp_path / name, 40, **VIDEOS[name]))
    assert len(header.times) == 40 and len(header.key_times) >= 1
    assert header.times == packets.times
    assert set(header.key_times) <= set(packets.key_times)  # of open groups, FFmpeg's parser sees more


@pytest.fixture
def packets(tmp_path, write_video):
    """`packets(target, **options)` -> target: the packets of a video of 40 frames in another file."""
    source = write_video(tmp_path / "source.mp4", 40, gop=12, bframes=3)

    def copy(target, *, shift=0, sound=False, **options):
        with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
            if sound:  # a track before that of the pictures
                audio = new.add_stream("aac", rate=8000)
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate = 8000
            output = new.add_stream_from_template(old.streams.video[0])
            if sound:
                new.mux(audio.encode(frame))
                new.mux(audio.encode())
            for packet in old.demux(video=0):
                if packet.size:
                    packet.stream, packet.pts, packet.dts = output, packet.pts - shift, packet.dts - shift
                    new.mux(packet)
        return target

    return copy


def test_a_track_behind_another(packets, tmp_path):
    header, scanned = indices(packets(tmp_path / "sound.mp4", sound=True))
    assert header == scanned and len(header.times) == 40


@pytest.mark.parametrize("bframes", [0, 3])
@pytest.mark.parametrize("movflags", ["frag_keyframe+global_sidx", "dash"])  # as sites for streaming have them
def test_fragments_behind_the_first(movflags, bframes, write_video, tmp_path):
    """FFmpeg's index grows with what is read: of a file with a table of its fragments it holds the first at first."""
    whole, path = write_video(tmp_path / "whole.mp4", 40, gop=12, bframes=bframes), tmp_path / "fragments.mp4"
    with av.open(str(whole)) as old, av.open(str(path), "w", options={"movflags": movflags}) as new:
        output = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = output
                new.mux(packet)
    header, scanned = indices(path)
    assert header is None and len(scanned.times) == 40
    with PyAVReader(str(path)) as video:
        assert video.num_frames == 40


@pytest.mark.parametrize("runs", ["more than there are bytes", "of a negative length", "of 2^31 samples"])
def test_a_damaged_table_of_offsets(runs, packets, tmp_path):
    path = packets(tmp_path / "x.mp4")
    data = bytearray(path.read_bytes())
    number = data.index(b"ctts") + 8  # behind the name, version and flags; the runs follow
    place, value = {
        "more than there are bytes": (number, 1 << 20),
        "of a negative length": (number + 4, (1 << 32) - 1),
        "of 2^31 samples": (number + 4, (1 << 31) - 1),
    }[runs]
    data[place : place + 4] = value.to_bytes(4, "big")
    assert _composition_offsets(io.BytesIO(data), 1, 40) is None


@pytest.mark.parametrize("kind", ["fragments", "begins later", "ends early"])
def test_headers_not_trusted(kind, packets, tmp_path):
    path = tmp_path / "x.mp4"
    if kind == "fragments":
        packets(path, movflags="frag_keyframe+empty_moov")
    elif kind == "begins later":  # by an edit list
        packets(path, shift=5 * 512)
    else:
        data = bytearray(packets(path).read_bytes())
        length = data.index(b"elst") + 12  # behind the name, version, flags and number of edits
        data[length : length + 4] = (500).to_bytes(4, "big")  # milliseconds
        path.write_bytes(data)
    header, scanned = indices(path)
    assert header is None and scanned is not None
    with PyAVReader(str(path)) as video:
        assert video.num_frames == len(scanned.times)


@pytest.mark.parametrize("edit", [0, 5 * 512])
def test_a_file_that_ends_before_its_index_does(edit, packets, tmp_path):
    """FFmpeg by itself calls it a shorter video."""
    path = packets(tmp_path / "x.mp4", movflags="faststart", shift=edit)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DecodeError, match="the file is cut off: 1 of the 40 frames of its index are not in it"):
        PyAVReader(str(path))


def test_other_containers_are_read_packet_by_packet(write_video, tmp_path):
    header, scanned = indices(write_video(tmp_path / "x.mkv", 10))
    assert header is None and len(scanned.times) == 10
