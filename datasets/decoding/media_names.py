"""What is a video, a picture, or neither, by its name: one list for folders, lists, tools and shards.

A video is whatever the decoder (PyAV's FFmpeg) opens under its usual names, a picture what Pillow reads whole. Hidden
and system names, and downloads that have not ended, are neither, whatever they end in.
"""

import os
import re

# Of several files that differ in their suffix only, the one whose suffix comes first here is taken.
VIDEO_SUFFIXES = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts", ".3gp"),
    *(".mts", ".m2ts", ".m2t", ".vob", ".ogv", ".ogm", ".ogg", ".asf", ".divx", ".xvid", ".3g2", ".mxf", ".f4v"),
    *(".qt", ".mpe", ".mpv", ".m1v", ".m2v", ".mp2v", ".mp4v", ".mk3d", ".rm", ".rmvb", ".amv", ".dv", ".dif"),
    *(".wtv", ".nut", ".gxf", ".nsv", ".y4m", ".ivf", ".obu", ".h264", ".264", ".avc", ".h265", ".265", ".hevc"),
    *(".vvc", ".266", ".vc1", ".mjpeg", ".mjpg", ".apng", ".gif"),
)
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jpe", ".jfif", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".jp2", ".j2k", ".tga", ".dib"),
)
SUFFIXES = VIDEO_SUFFIXES + PICTURE_SUFFIXES
_VIDEOS, _PICTURES, _ALL = frozenset(VIDEO_SUFFIXES), frozenset(PICTURE_SUFFIXES), frozenset(SUFFIXES)
_SYSTEM = frozenset(  # in lower case; names that begin with a dot need no row
    [
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__", "lost+found"),
        *("$recycle.bin", "system volume information", "@eadir", "@tmp", "@recycle", "@recently-snapshot"),
        *("#recycle", "#snapshot", "~snapshot", "recycler", "network trash folder", "temporary items", "@__thumb"),
        *("recycle.bin", "$winreagent", "$sysreset", "$extend", "$getcurrent", "$windows.~bt", "$windows.~ws"),
    ]
)
_FOUND = re.compile(r"found\.\d{3}")  # folders of what a check of a Windows disk saved
_UNFINISHED = (".part", ".ytdl", ".crdownload", ".tmp", ".temp", ".download", ".aria2", ".filepart", ".partial", "~")
_IN_TEXT = "|".join(re.escape(suffix) for suffix in SUFFIXES)
TWO_FILES = re.compile(rf"(?:{_IN_TEXT})\s+(?:\S*/\S*(?:{_IN_TEXT})|[+-]?\d+)(?:\s|$)", re.IGNORECASE)


def suffix_of(path: str) -> str:
    """The end of a path from its last dot on, in lower case; "" if its last part has none."""
    return os.path.splitext(path)[1].lower()


def is_video(path: str) -> bool:
    """Whether a path has the name of a video file."""
    return suffix_of(path) in _VIDEOS


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the name of a picture."""
    return suffix_of(os.fspath(path)) in _PICTURES


def has_extension(path: str) -> bool:
    """Whether a path ends as videos and pictures do."""
    dot = path.rfind(".")
    return dot >= 0 and path[dot:].lower() in _ALL


def is_left_out(name: str) -> bool:
    """Whether the name of a file or folder is a hidden or a system one, or that of a download that has not ended."""
    lower = name.lower()
    is_system = lower in _SYSTEM or _FOUND.fullmatch(lower) is not None
    return is_system or name.startswith((".", "~$")) or lower.endswith(_UNFINISHED)
