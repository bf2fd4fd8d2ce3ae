"""Files that say one thing and show another, made from sound ones."""

import io
import struct
from fractions import Fraction

import av
from PIL import Image

ONE, W = 1 << 16, 1 << 30
# what is done to the stored picture -> the first four of a, b, c, d: the point (p, q) is shown at (ap + cq, bp + dq)
MATRICES = {
    "nothing": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "left to right": (-1, 0, 0, 1),
    "top to bottom": (1, 0, 0, -1),
    "90, then left to right": (0, 1, 1, 0),
    "90, then top to bottom": (0, -1, -1, 0),
}


def packets(source, target, change=lambda number, packet: True):
    """The packets of a video in another file, as `change` leaves them; those it returns False for are left out."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            if change(number, packet):
                packet.stream = copy
                new.mux(packet)
    return target


def no_key_table(source, target):
    data = source.read_bytes()
    assert b"stss" in data
    target.write_bytes(data.replace(b"stss", b"free"))


def all_keys(source, target):
    data = bytearray(source.read_bytes())
    start = data.rfind(b"idx1")
    for entry in range(start + 8, start + 8 + struct.unpack("<I", data[start + 4 : start + 8])[0], 16):
        data[entry + 4] |= 0x10
    target.write_bytes(data)


def write_matrix(path, matrix):
    data = bytearray(path.read_bytes())
    offset = data.index(b"tkhd") + 4 + 40  # version 0 fields up to the matrix
    a, b, c, d = matrix
    data[offset : offset + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, W)
    path.write_bytes(data)


def write_exif_pictures(path, images, orientation):
    """Motion JPEG of cameras: pictures (H, W, 3) with Exif data, among them how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuvj420p"
        for number, image in enumerate(images):
            data = io.BytesIO()
            Image.fromarray(image).save(data, "JPEG", quality=95, exif=exif)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.is_keyframe = stream, True
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, 25)
            out.mux(packet)
