"""Errors that the user can fix: one line and exit code 2, no traceback."""

import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TextIO

from sigma_video.options import OptionError
from sigma_video.terminal import PrintableStream, printable


class ConfigError(OptionError):
    """An option that does not work on this machine, or with these files; the message names the flag and the remedy."""


class CheckpointError(ValueError):
    """An unusable checkpoint; the message names the file and the reason."""


class NewerFormatError(CheckpointError):
    """A checkpoint in a format that later code writes; the message names both versions."""


class BadVideosError(RuntimeError):
    """More undecodable videos than `--max_bad_fraction` allows; the message names some, and the file with all."""


class NonFiniteError(RuntimeError):
    """A NaN or Inf loss or gradient; raised on all ranks, with the weights unchanged."""


class CollapseError(RuntimeError):
    """Features or assignments that have collapsed, with `--stop_when_collapsed`; raised on all ranks."""


USER_ERRORS: tuple[type[Exception], ...] = (OptionError, CheckpointError, BadVideosError, NonFiniteError, CollapseError)
LONGEST = 2000  # characters of a message; what a file holds may be quoted in it
_EXIT_PIPE = 128 + signal.SIGPIPE  # as a shell shows a program that this signal ended
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # full disk, quota, read-only, file size limit


@contextlib.contextmanager
def as_config_error(flag: str = "") -> Iterator[None]:
    """Turn a ValueError or ImportError about an option's value into a ConfigError.

    Args:
        flag: prefix for messages that do not name the flag.
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{flag}: {error}" if flag else str(error)) from error


def one_line(text: str) -> str:
    """A message as one line; the middle of one longer than LONGEST is left out."""
    line = " ".join(part.strip() for part in text.splitlines())
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST // 2]} [...] {line[-LONGEST // 2 :]}"


def _name(error: OSError) -> str:
    """The file of an error; the temporary one that a file is written to first is called by its final name."""
    name = error.filename
    return os.fsdecode(name).removesuffix(".tmp") if isinstance(name, str | bytes | os.PathLike) else "a file"


def _exit_with(text: str) -> NoReturn:
    sys.stderr.write(f"error: {printable(text)}\n")
    sys.stderr.flush()
    sys.exit(2)


def _is_unread(stream: TextIO) -> bool:
    """Whether it is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file behind it
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Around work on an open file: an error of it, such as a full disk, gets the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def user_errors(*types: type[Exception], interrupted: str = "interrupted") -> Iterator[None]:
    """Turn errors that a user can mend into one line on stderr and exit code 2; Ctrl-C into exit code 130.

    These are `USER_ERRORS`, the given types, and those of files and folders. What is printed meanwhile is shown with
    its control characters escaped. If what reads it ends, as `head` does, so does the program, without a word.

    Args:
        interrupted: what is said after Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # by an entry script, for the time of its imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.redirect_stdout(PrintableStream(sys.stdout)):
            yield
            sys.stdout.flush()
    except (*USER_ERRORS, *types) as error:
        _exit_with(one_line(str(error)))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the exit
            sys.exit(_EXIT_PIPE)
        if error.errno in _DISK_FULL:
            _exit_with(f"{_name(error)} could not be written: {error.strerror}. Free some space")
        if error.filename is None or error.errno is None:
            raise
        _exit_with(f"{_name(error)}: {error.strerror}")
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        sys.stderr.flush()
        sys.exit(130)
