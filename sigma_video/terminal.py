"""Text from outside, such as names of files and classes, made safe for a terminal."""

import re
from typing import Any, TextIO

# Control characters but for newline and tab; marks that turn the direction of text; what is no character at all, as in
# file names that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, keep_bytes: bool = False) -> str:
    r"""The text with control characters as escapes: `\x1b[31m` is shown, and does not make what follows red.

    Args:
        keep_bytes: leave bytes of file names that are not UTF-8, which Python holds as surrogates, for a file.
    """
    return _UNSAFE.sub(lambda found: found[0] if keep_bytes and found[0] >= "\ud800" else _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class PrintableStream:
    """A text stream whose text passes through `printable`; all else is that of the stream below it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, and return the length of the text as it was given."""
        self.stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
