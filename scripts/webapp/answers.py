"""What a checkpoint makes of one video, step by step, and which videos are refused. The page is in page.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.decoding.media_names import is_image
from datasets.decoding.open import open_video
from datasets.errors import DecodeError
from engine.checkpointing.read_weights import StartConfig
from engine.config import RunConfig
from engine.errors import ConfigError, as_config_error
from inference.load import load
from inference.predict import task_of
from inference.video_model import VideoModel
from inference.views import doubts, with_sampling_rate
from models import ModelError
from models.sigma import Sigma
from scripts.visualization.clips import Clips, Sampling, read_clips, seconds_of
from scripts.visualization.files import write_film, write_picture
from scripts.visualization.gallery import collect
from scripts.visualization.load import load_subject
from scripts.visualization.pictures import KINDS, Drawn, draw, show_prototypes, why_missing
from scripts.visualization.subject import Subject

SHOWN = ("masks", "prototypes", "clusters", "components", "attention")  # kinds, in the order of the page
PLAYED = 0.5  # speed of films: a clip is short
MB = 2**20
_UNKNOWN_RATE = 25  # frames a second of a video that does not say when they are shown


@dataclass(frozen=True)
class Limits:
    """The largest and longest video that is looked at."""

    megabytes: float
    seconds: float

    def describe(self) -> str:
        """In words."""
        return f"at most {self.megabytes:g} MB and {self.seconds:g} s"


@dataclass(frozen=True)
class Picture:
    """A sheet and a film of one kind, as files."""

    kind: str
    sheet: Path
    film: Path


@dataclass(frozen=True)
class Answers:
    """A checkpoint, ready for videos.

    Attributes:
        subject: the model that is drawn.
        sampling: of the clips that are drawn.
        classifier: the model that names classes; None of a checkpoint without a head.
        left_out: what the checkpoint cannot show, a line each.
    """

    subject: Subject
    sampling: Sampling
    classifier: VideoModel | None
    left_out: tuple[str, ...]
    limits: Limits

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of pictures that the checkpoint can show."""
        return tuple(kind for kind in SHOWN if not why_missing(kind, self.subject))

    def check(self, path: Path) -> None:
        """Raise ConfigError for a video that is too large or too long, DecodeError for one that cannot be read."""
        size = path.stat().st_size
        if size > self.limits.megabytes * MB:
            raise ConfigError(f"the video has {size / MB:.1f} MB, this page takes {self.limits.describe()}")
        if is_image(path.name):
            raise DecodeError(path, "a picture: give a video")
        seconds = length_of(path)
        if seconds > self.limits.seconds:
            raise ConfigError(f"the video is {seconds:.1f} s long, this page takes {self.limits.describe()}")

    def classes(self, path: Path) -> dict[str, float]:
        """The five most likely classes and their probabilities, over the views of the run's test.

        Raises:
            ConfigError: the video cannot be read.
        """
        assert self.classifier is not None
        found: Any = self.classifier.predict(path)
        return {name if self.classifier.class_names else f"class {name}": p for name, p in found.top(5).items()}

    def pictures(self, path: Path, folder: Path) -> Iterator[Picture]:
        """Draw all kinds, one after the other, into a folder."""
        clips = read_clips(str(path), None, self.sampling)
        for kind in self.kinds:
            with as_config_error():
                drawn = self._draw(kind, clips)
            picture = Picture(kind, folder / f"{kind}.png", folder / f"{kind}.mp4")
            write_picture(drawn.sheet, picture.sheet)
            write_film(drawn.film, picture.film, rate=PLAYED * clips.rate)
            yield picture

    def _draw(self, kind: str, clips: Clips) -> Drawn:
        if kind in KINDS:
            return draw(kind, self.subject, clips)
        return show_prototypes(collect(self.subject, [clips], num_nearest=1), self.subject, 0)


def length_of(path: Path) -> float:
    """Seconds that a video lasts; raises DecodeError where it cannot be read."""
    with open_video(path) as video:
        times, frames = seconds_of(video), video.num_frames
    if times is None:
        return frames / _UNKNOWN_RATE
    return float(times[-1] - times[0] + (np.median(np.diff(times)) if len(times) > 1 else 0))


def load_answers(
    checkpoint: str, limits: Limits, *, device: str, trust: bool = False, sampling_rate: int | None = None
) -> Answers:
    """Read a checkpoint; see `load_subject`.

    Raises:
        CheckpointError: it cannot be read, or holds no model of this project.
        ConfigError: a device that is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: there is no GPU here; give cpu or leave it out")
    subject, sampling = load_subject(checkpoint, trust=trust, device=device, sampling_rate=sampling_rate)
    classifier, words = None, [f"{kind}: {reason}" for kind in SHOWN if (reason := why_missing(kind, subject))]
    try:
        classifier, doubt = _load_classifier(checkpoint, subject, trust=trust, sampling_rate=sampling_rate)
        words += doubt
    except ModelError as error:
        words.insert(0, f"classes: {error}")
    return Answers(subject, sampling, classifier, tuple(words), limits)


def _load_classifier(
    checkpoint: str, subject: Subject, *, trust: bool, sampling_rate: int | None
) -> tuple[VideoModel, list[str]]:
    """The model that names classes, and what is not known of it, in words. Raises ModelError: see `task_of`."""
    if isinstance(subject.model, Sigma):
        raise ModelError("a checkpoint of pre-training has none; fine-tune it first")
    loaded = with_sampling_rate(load(checkpoint, StartConfig(trust_checkpoint=trust)), sampling_rate)
    task_of(loaded)
    if loaded.args.get("task") == "regression":
        raise ModelError("it predicts a number, which `sigma predict` shows")
    doubt = doubts(loaded)
    words = [doubt] if doubt else []
    if not loaded.class_names:
        words.insert(0, "names of the classes: the file has none, so they are numbers")
    loaded.model.to(subject.device)
    return VideoModel(loaded, subject.device, RunConfig().amp_on(subject.device)), words
