"""What happens on the page with one visitor's video, and that his files are deleted. Used by page.py."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from datasets.errors import DecodeError
from engine.errors import ConfigError, NonFiniteError
from scripts.webapp.answers import Answers

REFUSALS = (ConfigError, DecodeError, NonFiniteError)  # that the page tells, as they are about the video
WAITS = "Waiting: one video at a time ..."
DONE = "Done: the video was deleted. Give the next one."
FAILED = (
    "**Not shown: too many videos wait, or something failed here. Try again in a minute; the command's terminal says "
    "more.**"
)

Changes = dict[Any, Any]  # of the page: what a component shows from now on


class Parts:
    """The components that change.

    Attributes:
        places: by kind: the column, the film, the sheet.
    """

    def __init__(
        self,
        video: gr.Video,
        state: gr.Markdown,
        classes: gr.Label,
        places: Mapping[str, tuple[gr.Column, gr.Video, gr.Image]],
    ) -> None:
        self.video, self.state, self.classes, self.places = video, state, classes, places

    @property
    def all(self) -> list[Any]:
        """What a step may change."""
        return [self.video, self.state, self.classes, *(x for place in self.places.values() for x in place)]

    def say(self, text: str) -> Changes:
        """The line beside the video."""
        return {self.state: text}

    def clear(self) -> Changes:
        """Nothing of an earlier video is left."""
        shown: Changes = {self.classes: gr.update(value=None, visible=False)}
        for column, film, sheet in self.places.values():
            shown |= {column: gr.update(visible=False), film: None, sheet: None}
        return shown

    def accept(self) -> Changes:
        """The next video may be given."""
        return {self.video: gr.update(value=None, interactive=True)}

    def fail(self) -> Changes:
        """The queue is full, or something is wrong here: as before a video was given."""
        return self.clear() | self.say(FAILED) | self.accept()


def hold(upload: str | None, folder: Path, parts: Parts) -> tuple[tuple[str, str] | None, Changes]:
    """Take a video before it waits in the queue, and no other of this visitor until it was looked at.

    The page keeps uploads by their content: two visitors with the same video have one file, which ends with the first
    of them. So each has a link of his own.

    Returns:
        both paths, for `drop`; None if there is no video. What changes on the page.
    """
    if upload is None:
        return None, {}
    own = Path(tempfile.mkdtemp(dir=folder), Path(upload).name)
    try:
        os.link(upload, own)
    except FileNotFoundError:
        own.parent.rmdir()
        return None, parts.clear() | parts.accept() | parts.say("**Not shown: the video is gone; drop it again**")
    return (upload, str(own)), parts.clear() | parts.say(WAITS) | {parts.video: gr.update(interactive=False)}


def drop(held: tuple[str, str] | None) -> None:
    """Delete a visitor's video, wherever it is."""
    if held is not None:
        upload, own = map(Path, held)
        upload.unlink(missing_ok=True)
        own.unlink(missing_ok=True)
        if own.parent.is_dir():
            own.parent.rmdir()


def look_at(answers: Answers, held: tuple[str, str] | None, folder: Path, parts: Parts) -> Iterator[Changes]:
    """What changes on the page, step by step; the video is deleted at the end, whatever comes."""
    if held is None:
        return
    path = Path(held[1])
    try:
        yield parts.say("Reading the video ...")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            yield from _looked_at(answers, path, Path(scratch), parts)
        drop(held)
        yield parts.say(DONE) | parts.accept()
    except REFUSALS as error:
        reason = error.reason if isinstance(error, DecodeError) else str(error)
        text = reason.replace(f"{path}: ", "").replace(str(path), "the video")
        drop(held)
        yield parts.clear() | parts.say(f"**Not shown: {text}**") | parts.accept()
    finally:
        drop(held)


def _looked_at(answers: Answers, path: Path, scratch: Path, parts: Parts) -> Iterator[Changes]:
    """Classes, then each kind of pictures."""
    answers.check(path)
    if answers.classifier is not None:
        yield parts.say("Looking for its classes ...")
        yield {parts.classes: gr.update(value=answers.classes(path), visible=True)}
    kinds = answers.kinds
    yield parts.say(f"Drawing picture 1 of {len(kinds)} ...")
    for number, picture in enumerate(answers.pictures(path, scratch), 2):
        column, film, sheet = parts.places[picture.kind]
        shown = {column: gr.update(visible=True), film: str(picture.film), sheet: str(picture.sheet)}
        yield shown | (parts.say(f"Drawing picture {number} of {len(kinds)} ...") if number <= len(kinds) else {})
