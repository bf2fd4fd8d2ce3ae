"""check.py, its --explain and reencode.py on files that say one thing and show another."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from moving_videos import write_moving_square
from odd_videos import MATRICES, ONE, all_keys, no_key_table, packets, write_matrix

from datasets.decoding import pyav
from datasets.decoding.open import open_video
from datasets.decoding.pyav import LYING_KEYS
from datasets.decoding.seeking import Seeker
from datasets.lists.spans import frames_within
from datasets.masks.motion_vectors import MotionReader
from scripts.data import check
from scripts.data.encoding import Recipe, encode
from scripts.data.explain import explain

NUM_FRAMES = 40


@pytest.mark.parametrize("full", [False, True])
def test_files_that_are_only_safe_in_order_are_named(full, tmp_path, write_video):
    good = write_video(tmp_path / "good.avi", NUM_FRAMES, codec="flv", b="1M")
    all_keys(good, tmp_path / "bad.avi")
    sound = check.check(check.Work(str(good), full))
    odd = check.check(check.Work(str(tmp_path / "bad.avi"), full))
    assert "error" not in sound and "in_order" not in sound
    assert odd["in_order"] == LYING_KEYS and odd["frames"] == NUM_FRAMES
    text = check.report({"good.avi": sound, "bad.avi": odd}, [], {})
    assert "a seek is not safe" in text and "bad.avi" in text.partition("not safe")[2]


def test_a_full_check_compares_seeks_with_reading_in_order(tmp_path, write_video, monkeypatch):
    """A reader whose seeks end one frame too late, without noticing it."""
    path = write_video(tmp_path / "a.mp4", NUM_FRAMES)

    class Late(Seeker):
        def collect(self, indices, make):
            asked = {min(number + 1, NUM_FRAMES - 1): number for number in indices}
            return super().collect(sorted(asked), lambda number, frame: make(asked[number], frame))

    assert "error" not in check.check(check.Work(str(path), True))
    monkeypatch.setattr(pyav, "Seeker", Late)
    assert "by a seek" in check.check(check.Work(str(path), True))["error"]


# what is done -> where the top left corner goes (row, column; -1 is the last), and where a step of 8 right and 4 down
SHOWN = {
    "nothing": ((0, 0), (8, 4)),
    "90": ((0, -1), (-4, 8)),
    "180": ((-1, -1), (-8, -4)),
    "270": ((-1, 0), (4, -8)),
    "left to right": ((0, -1), (-8, 4)),
    "top to bottom": ((-1, 0), (8, -4)),
    "90, then left to right": ((0, 0), (4, 8)),
    "90, then top to bottom": ((-1, -1), (-4, -8)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_reencoded_videos_are_upright(name, tmp_path, write_video):
    """Of frame 1 only the block at the top left is white; the new file has no matrix and shows it where it belongs."""
    source = write_video(tmp_path / "a.mp4", 5, crf="5")
    write_matrix(source, [ONE * value for value in MATRICES[name]])
    encode(str(source), str(tmp_path / "new.mp4"), Recipe(crf=5))
    with av.open(str(tmp_path / "new.mp4")) as container:
        frame = list(container.decode(video=0))[1]
    assert not frame.side_data.get("DISPLAYMATRIX")
    image = frame.to_ndarray(format="rgb24").mean(-1)
    assert image.shape == ((64, 48) if "90" in name or name == "270" else (48, 64))
    corners = {(row, column): image[row, column] > 128 for row in (0, -1) for column in (0, -1)}
    assert [corner for corner, is_white in corners.items() if is_white] == [SHOWN[name][0]]


@pytest.mark.parametrize("name", MATRICES)
def test_motion_vectors_are_turned_and_mirrored(name, tmp_path):
    path = tmp_path / "a.mp4"
    write_moving_square(path, 12, velocity=(2, 1), pan=True, width=104, height=76)
    write_matrix(path, [ONE * value for value in MATRICES[name]])
    with MotionReader(path) as video:
        frames, motion = video.get_frames_and_motion([2, 6], [(0, 1)])
    way = np.rint(np.median(motion, axis=(0, 2, 3))).astype(int)
    assert tuple(way) == SHOWN[name][1]
    one, other = frames.float()
    inner = (slice(None), slice(10, -10), slice(10, -10))
    moved = other.roll((-way[1], -way[0]), (1, 2))
    assert (moved - one)[inner].abs().mean() < 0.3 * (other - one)[inner].abs().mean()


def test_spans_mean_the_same_after_reencoding(tmp_path, write_video, read_number):
    """Of files with one time twice, one of 1,000 frames a second."""
    source = write_video(tmp_path / "good.mkv", NUM_FRAMES, bframes=0)
    for name, times in {
        "slow": [40 * k + 160 * max(k - 20, 0) for k in range(NUM_FRAMES)],
        "fast": [*range(NUM_FRAMES)],
    }.items():

        def change(number, packet, times=times):
            packet.time_base = Fraction(1, 1000)
            packet.pts = packet.dts = times[number - (number == 7)]
            return True

        path = packets(source, tmp_path / f"{name}.mkv", change)
        encode(str(path), str(tmp_path / f"{name}.mp4"), Recipe(crf=5))
        span = (0.8, 2.0) if name == "slow" else (0.01, 0.02)
        with open_video(path) as old, open_video(tmp_path / f"{name}.mp4") as new:
            inside = frames_within(old, str(path), span)
            assert len(inside) > 1 and inside == frames_within(new, "new", span)
            assert [read_number(frame) for frame in new.get_frames(inside)] == list(inside)


def test_tags_of_colour_and_pixel_shape(tmp_path, write_video, read_number):
    source = write_video(tmp_path / "a.mp4", 9, colorspace="8", aspect="16:9")
    with av.open(str(source)) as container:
        shape = container.streams.video[0].sample_aspect_ratio
    encode(str(source), str(tmp_path / "new.mp4"), Recipe())
    with open_video(tmp_path / "new.mp4") as video:
        assert [read_number(frame) for frame in video.get_frames([8, 2])] == [8, 2]
        assert video.pixel_shape == shape
    assert "error" not in check.check(check.Work(str(tmp_path / "new.mp4"), True))


def test_what_cannot_be_read_back_does_not_count(tmp_path, write_video, monkeypatch):
    source = write_video(tmp_path / "a.mp4", 9)
    import scripts.data.encoding as module

    def broken(path, num_frames):
        raise module.DecodeError(path, "no")

    monkeypatch.setattr(module, "decode_all", broken)
    with pytest.raises(module.DecodeError, match="what was written cannot be read: no"):
        encode(str(source), str(tmp_path / "out" / "new.mp4"), Recipe())
    assert not list((tmp_path / "out").iterdir())


def test_explain_tells_what_is_odd(tmp_path, write_video):
    source = write_video(tmp_path / "good.mp4", NUM_FRAMES, codec="mpeg4", b="1M")
    sound = explain(str(source))
    assert "40 shown, of 40 packets" in sound and "as stored" in sound and "from the key frame before a clip" in sound
    assert "key frames    to the container 4, 12 to 12 apart; to the decoder 4, 12 to 12 apart" in sound
    no_key_table(source, tmp_path / "bad.mp4")
    write_matrix(tmp_path / "bad.mp4", [-ONE, 0, 0, ONE])
    odd = explain(str(tmp_path / "bad.mp4"))
    assert "mirrored left to right" in odd and "36 of the container's are none to the decoder" in odd
    assert f"in order from the start of the file, as {LYING_KEYS}" in odd


def test_explain_on_the_command_line(tmp_path, write_video, capsys):
    write_video(tmp_path / "a.mkv", 9)
    check.main(["--explain", "a.mkv", "--data_root", str(tmp_path)])
    assert "matroska" in capsys.readouterr().out
    (tmp_path / "b.mkv").write_bytes(struct.pack("9s", b"no video"))
    with pytest.raises(SystemExit):
        check.main(["--explain", str(tmp_path / "b.mkv")])
