"""A checkpoint as an encoder of MVEB, the video tasks of mteb: `mteb.evaluate(VideoEncoder(load(FILE), NAME), tasks)`.

`mteb` needs Hugging Face's `datasets`: import this as `sigma_video.inference.mveb`, with no checkout before the
installed packages on Python's path; scripts/mveb.py sees to that.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from datasets.errors import DecodeError

from .sources import Sample
from .video_model import VideoModel
from .views import DEFAULT_RATE, Views

_MIDDLE = Views(1, 1)


class VideoEncoder(AbsEncoder):
    """Embeds a video as `VideoModel.features` does: the mean over the tokens of its views.

    Frames are read, chosen and normalised as in this project's own test, not by mteb's collators, which spread the
    frames of a clip over the whole video whatever the model was trained on.

    Args:
        model: as `sigma_video.load` gives it.
        name: in the results: "organization/model".
        views: clips over the video, crops of each; default: the clip from the middle.
    """

    def __init__(self, model: VideoModel, name: str, *, views: Views = _MIDDLE) -> None:
        self.model, self.views = model, views
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name,
                "revision": model.loaded.digest,
                "experiment_kwargs": _settings(model, views),  # results of other settings lie in another folder
                "n_parameters": sum(tensor.numel() for tensor in model.loaded.model.parameters()),
                "embed_dim": model.loaded.model.embed_dim,
                "framework": ["PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": False,
                "modalities": ["video"],
            }
        )

    def encode(self, inputs: DataLoader, *, show_progress_bar: bool = True, **_: Any) -> np.ndarray:
        """The videos of a task (V, D), float32.

        Args:
            inputs: rows of a Hugging Face data set with a column `video`.

        Raises:
            DecodeError: a video cannot be read.
        """
        rows: Any = inputs.dataset
        stored = dataclasses.replace(rows.features["video"], decode=False)  # files: mteb opens them itself
        loader = DataLoader(
            rows.cast_column("video", stored),
            batch_size=inputs.batch_size,
            num_workers=inputs.num_workers,
            collate_fn=self._read,
        )
        found = [self._embed(views) for views in tqdm(loader, desc="videos", disable=not show_progress_bar)]
        return np.concatenate(found)

    def _read(self, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """uint8 (V, G, T, 3, S, S)."""
        return torch.stack([self._views_of(row["video"]) for row in rows])

    def _views_of(self, video: Mapping[str, Any]) -> torch.Tensor:
        with _as_file(video) as path:
            try:
                return self.model.read_views(Sample(path), self.views)
            except DecodeError as error:
                raise DecodeError(video["path"] or "a video of the task", error.reason) from error

    def _embed(self, views_VGT3SS: torch.Tensor) -> np.ndarray:
        tokens = self.model.encode_views(views_VGT3SS.flatten(0, 1))
        return tokens.unflatten(0, views_VGT3SS.shape[:2]).mean(dim=(1, 2)).cpu().numpy()


def _settings(model: VideoModel, views: Views) -> dict[str, str | int]:
    """What embeddings depend on besides the weights and the size of a clip, which the digest holds."""
    clip = model.clip
    rate = f"{clip.fps:g}fps" if clip.fps else clip.sampling_rate or DEFAULT_RATE
    sampling = clip.sampling if clip.sampling == "uniform" else f"{clip.sampling}-{rate}"
    return {"sampling": sampling, "short_side": clip.short_side_size, "views": str(views), "amp": model.amp}


@contextlib.contextmanager
def _as_file(video: Mapping[str, Any]) -> Iterator[str]:
    """The path of a video that a data set keeps as a file, or as the bytes of one."""
    if video["bytes"] is None:
        yield video["path"]
        return
    with tempfile.NamedTemporaryFile(suffix=Path(video["path"] or ".mp4").suffix) as file:
        file.write(video["bytes"])
        file.flush()
        yield file.name
