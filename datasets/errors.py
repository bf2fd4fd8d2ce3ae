"""The errors of the data path: each text says what is wrong, where, and what to do about it."""

import os


class AnnotationError(ValueError):
    """A list, a path or a label that the user has to correct; the text says where and how."""


class DecodeError(RuntimeError):
    """A video that cannot be decoded, whatever the reason and the back end.

    Attributes:
        path: the video.
        reason: one line of text.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str = "") -> None:
        # The DataLoader makes a worker's exception again from one text, a traceback that ends in our own message.
        text = f"{path}: {reason}" if reason else str(path).strip().splitlines()[-1].split("DecodeError: ")[-1]
        super().__init__(text)
        self.path, self.reason = (str(path), reason) if reason else text.split(": ", 1)


class ShardError(OSError):
    """A shard that cannot be read, or does not hold a member; the text names the shard and the reason."""


class FlowError(RuntimeError):
    """The optical flow network has no usable weights; the text says what to do."""


class MotionVectorError(ValueError):
    """A list whose videos have no motion vectors for the masks to follow; the text says what to do."""


class LoaderError(RuntimeError):
    """Loading ended for a reason outside the code: a dead or stuck worker, full shared memory; says what to do."""


# What the user can correct: the entry scripts end with the error's text alone, without a traceback.
DATA_ERRORS: tuple[type[Exception], ...] = (
    AnnotationError,
    DecodeError,
    ShardError,
    FlowError,
    MotionVectorError,
    LoaderError,
)
