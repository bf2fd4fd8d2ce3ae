"""Properties of H.264 packets that are read without decoding (ITU-T H.264, 7.3.1 and 7.4.1)."""

from collections.abc import Iterator

_SLICES = (1, 2, 5)  # kinds of NAL unit that hold a picture, or a part of it
_IDR = 5
_KIND, _REFERENCE = 0x1F, 0x60  # bits of a NAL unit's first byte: `nal_unit_type`, `nal_ref_idc`


def slice_headers(packet: memoryview, extradata: bytes | None) -> Iterator[int]:
    """The first byte of every NAL unit in a packet that holds a part of a picture.

    Args:
        packet: NAL units, each after its length (MP4, Matroska) or after a start code (MPEG-TS, AVI).
        extradata: of the stream: its first byte tells which, its fifth how many bytes a length has.
    """
    if extradata and extradata[0] == 1:
        size, place = (extradata[4] & 3) + 1, 0
        while place + size < len(packet):
            if packet[place + size] & _KIND in _SLICES:
                yield packet[place + size]
            place += size + int.from_bytes(packet[place : place + size], "big")
        return
    units = [unit for unit in bytes(packet).split(b"\0\0\1")[1:] if unit]
    yield from (unit[0] for unit in units if unit[0] & _KIND in _SLICES)


def is_h264_reference(packet: memoryview, extradata: bytes | None) -> bool:
    """Whether other frames may be built from the one in a packet; arguments as for `slice_headers`."""
    headers = list(slice_headers(packet, extradata))
    return not headers or any(header & _REFERENCE for header in headers)


def is_h264_restart(packet: memoryview, extradata: bytes | None) -> bool:
    """Whether decoding can begin at a packet with nothing of what came before; arguments as for `slice_headers`."""
    return any(header & _KIND == _IDR for header in slice_headers(packet, extradata))
