"""Whether a run's clips move: a rate that does not suit the videos repeats one frame, and nothing else would tell."""

import logging

import numpy as np

from sigma_video.options import OptionError

from .classification import TrainDataset
from .decoding.open import open_video
from .errors import DecodeError
from .lists.spans import frames_within
from .lists.video_list import sample_name
from .pretraining import PretrainDataset
from .samples import sample_rng
from .sampling import ClipConfig

logger = logging.getLogger(__name__)

_LOOKED_AT = 5  # videos, spread over the list
_STILL = 2  # different frames of a clip that stands still: the first, and perhaps the last
_NEARLY = 1.1  # times the rate of a video: 30 for 29.97, and rates that are means


def check_clips(dataset: PretrainDataset | TrainDataset, clip: ClipConfig) -> None:
    """Draw a clip of a few videos; what cannot be decoded is left to training. Warns where `--fps` repeats frames.

    Raises:
        OptionError: none of the clips shows more than two different frames, of videos that have more.
    """
    shown: list[tuple[int, str]] = []  # different frames, and of what
    rates = []
    for index in sorted(set(np.linspace(0, len(dataset.videos) - 1, _LOOKED_AT).astype(int).tolist())):
        path, span = dataset.videos.paths[index], dataset.videos.span(index)
        try:
            with open_video(path, decoder=dataset.decoder) as video:
                frames = dataset.draw(video, index, sample_rng(0, 0, index))
                rates.append(video.fps)
                if (length := len(frames_within(video, path, span))) > _STILL:
                    shown.append((len(np.unique(frames)), f"{sample_name(path, span)}, {length} frames"))
        except DecodeError as error:
            logger.debug("%s", error)
    option = f"--sampling_rate {clip.sampling_rate}" if clip.fps is None else f"--fps {clip.fps:g}"
    if clip.num_frames > _STILL and shown and max(shown)[0] <= _STILL:
        number, example = max(shown)
        raise OptionError(
            f"{option}: a clip of {clip.num_frames} frames would show {number} of a video again and again (looked at "
            f"{len(shown)}, such as {example}): choose a rate that suits the videos"
        )
    known = [rate for rate in rates if rate]
    if clip.fps is not None and known and clip.fps > _NEARLY * max(known):
        logger.warning("%s: the videos looked at have %.4g frames a second at most: frames repeat", option, max(known))
