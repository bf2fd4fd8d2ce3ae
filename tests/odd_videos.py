"""Files that say one thing and show another, made from sound ones."""

import io
import struct
import wave
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


def cut(source, target, first):
    """`ffmpeg -ss ... -c copy`: all packets from the key frame before `first`; an edit list hides those before it."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        packets = [packet for packet in reader.demux(stream) if packet.size]
        times = sorted(packet.pts for packet in packets)
        start = max(i for i, packet in enumerate(packets) if packet.is_keyframe and packet.pts <= times[first])
        output = writer.add_stream_from_template(stream)
        for packet in packets[start:]:
            packet.stream = output
            packet.pts, packet.dts = packet.pts - times[first], packet.dts - times[first]
            writer.mux(packet)
    return target


def write_sound(path):
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))


def break_file(kind, good, path):
    data = good.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "html":
        path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 20)
    elif kind == "lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    elif kind == "audio":
        write_sound(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "no frames":
        with av.open(str(path), "w", format="matroska") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
