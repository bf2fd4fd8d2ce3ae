"""Files that people have in their data sets: other codecs, very short, oddly timed, and broken ones."""

from dataclasses import dataclass
from pathlib import Path

import av
from odd_videos import MATRICES, ONE, break_file, cut, write_matrix
from videos import write_video

NUM_FRAMES = 24
_TIMES = [sum(150 if i % 3 == 0 else 20 for i in range(number)) for number in range(NUM_FRAMES)]
_SOUND = {  # name -> keywords of write_video
    "long_gop.mp4": {"gop": 250, "bframes": 3},
    "short_gop.mp4": {"gop": 12},
    "hevc.mp4": {"codec": "libx265"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "variable_rate.mp4": {"times": _TIMES},
    "turned.mp4": {"width": 128, "height": 64},
}
_HIDDEN = 5  # frames of the cut one, by its edit list
REASONS = {  # name -> of those that cannot be decoded, what PyAV says of them
    "cut_off.mp4": "the file is cut off: 18 of the 24 frames of its index are not in it",
    "no_index.mp4": "Invalid data found when processing input",
    "bit_rot.mp4": "(Invalid data found when processing input|frame [0-9]+ is damaged)",
    "html.mp4": "Invalid data found when processing input",
    "empty.mp4": "empty file",
    "sound.mp4": "no video stream",
    "missing.mp4": "No such file or directory",
}


@dataclass(frozen=True)
class Odd:
    """A file, and the numbers of its frames as they are shown; None: a clip of it cannot be decoded."""

    path: Path
    numbers: list[int] | None
    reason: str = ""


def write_odd_files(folder):
    """All of them, by their names. A clip that spans half a broken one meets the damage."""
    every = list(range(NUM_FRAMES))
    odd = {name: Odd(write_video(folder / name, NUM_FRAMES, **options), every) for name, options in _SOUND.items()}
    write_matrix(odd["turned.mp4"].path, [ONE * value for value in MATRICES["90"]])
    for name, number in (("one_frame.mp4", 1), ("five_frames.mp4", 5)):
        odd[name] = Odd(write_video(folder / name, number), every[:number])
    odd["edit_list.mp4"] = Odd(cut(odd["long_gop.mp4"].path, folder / "edit_list.mp4", _HIDDEN), every[_HIDDEN:])
    odd["cut_off.webm"] = _cut_off_webm(odd["vp9.webm"].path, folder / "cut_off.webm")
    good = odd["short_gop.mp4"].path
    _cut_off_behind_index(good, folder / "cut_off.mp4")
    _rot(good, folder / "bit_rot.mp4")
    for name, kind in (("no_index", "truncated"), ("html", "html"), ("empty", "empty"), ("sound", "audio")):
        break_file(kind, good, folder / f"{name}.mp4")
    return odd | {name: Odd(folder / name, None, reason) for name, reason in REASONS.items()}


def _places(path):
    """Where the packets are: (place, size) in bytes."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def _cut_off_webm(source, target):
    """It has no index that tells how many there were: the frames before the cut are the video."""
    kept = NUM_FRAMES // 2
    place, _ = _places(source)[kept]
    target.write_bytes(source.read_bytes()[:place])
    return Odd(target, list(range(kept)))


def _cut_off_behind_index(source, target):
    """An index of all frames, and the data of the first quarter of them."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    place, _ = _places(target)[NUM_FRAMES // 4]
    target.write_bytes(target.read_bytes()[:place])


def _rot(source, target):
    """Some bits of the frames from the first quarter on are others."""
    data = bytearray(source.read_bytes())
    for place, size in _places(source)[NUM_FRAMES // 4 :]:
        for offset in range(8, size, 5):
            data[place + offset] ^= 0x55
    target.write_bytes(data)
