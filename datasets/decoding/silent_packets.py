"""Packets that show nothing: no frame comes out of the decoder, and a player goes on showing the one before.

DivX and Xvid write a picture that is `not coded` where a frame was dropped; VP8 and VP9 code frames that only others
are built from.
"""

_VOL, _VOP = range(0x20, 0x30), 0xB6  # start codes of MPEG-4 part 2


def is_hidden_vpx(codec: str, packet: memoryview) -> bool:
    """Whether a packet of VP8 or VP9 holds one frame that is not shown (RFC 6386, 9.1; VP9 specification, 6.2).

    Several frames in one packet of VP9 end with an index, and show something.
    """
    first = packet[0]
    if codec == "vp8":
        return not first & 0x10
    if packet[len(packet) - 1] & 0xE0 == 0xC0:  # the index of a superframe
        return False
    bits = _Bits(bytes(packet[:2]))
    bits.take(2)  # frame marker
    profile = bits.take(1) + 2 * bits.take(1)
    if profile == 3:
        bits.take(1)
    if bits.take(1):  # shows an earlier frame
        return False
    bits.take(1)  # kind of frame
    return not bits.take(1)


def is_not_coded(packet: bytes, header: bytes) -> bool:
    """Whether a packet of MPEG-4 part 2 holds one picture, which is `not coded` (ISO/IEC 14496-2, 6.2.5).

    Args:
        packet: as it is in the file.
        header: where the video object layer is found if it is not in the packet: `extradata`, or the first packet.
    """
    start = packet.find(b"\0\0\1" + bytes([_VOP]))
    if start < 0:
        return True  # no picture at all
    if packet.find(b"\0\0\1" + bytes([_VOP]), start + 4) >= 0:
        return False
    width = _increment_bits(packet) or _increment_bits(header)
    if not width:
        return False
    bits = _Bits(packet[start + 4 : start + 32])
    bits.take(2)  # kind of picture
    while bits.take(1):  # seconds
        continue
    bits.take(1 + width + 1)
    return not bits.is_at_end and not bits.take(1)


def _increment_bits(data: bytes) -> int:
    """How many bits the time of a picture within its second takes, by the video object layer; 0 without one."""
    place = -1
    while (place := data.find(b"\0\0\1", place + 1)) >= 0:
        if place + 3 < len(data) and data[place + 3] in _VOL:
            break
    if place < 0:
        return 0
    bits = _Bits(data[place + 4 : place + 40])
    bits.take(1 + 8)  # random access, kind of object
    version = 1
    if bits.take(1):
        version = bits.take(4)
        bits.take(3)
    if bits.take(4) == 15:  # a pixel shape of its own
        bits.take(16)
    if bits.take(1):  # control parameters
        bits.take(2 + 1)
        if bits.take(1):
            bits.take(79)
    if bits.take(2) == 3 and version != 1:
        bits.take(4)
    bits.take(1)
    return max((bits.take(16) - 1).bit_length(), 1)


class _Bits:
    """Reads bits, the highest of a byte first; zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    @property
    def is_at_end(self) -> bool:
        return self._left <= 0

    def take(self, count: int) -> int:
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1) if self._left >= 0 else 0
