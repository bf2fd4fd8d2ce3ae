"""The model that is shown, and what it makes of clips.

Letters: T H W frames and pixels, N tokens of a clip, P embedding width, D encoder width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from datasets.masks.masks import MaskConfig
from datasets.transforms.normalization import normalize_clips
from models.analysis.prototypes import embed, predict
from models.classifier import Classifier
from models.sigma import Sigma
from models.vit import VideoTransformer
from models.weights.load import encoder_state
from models.weights.rebuild import rebuild

from .clips import Clips

MOST_MASKS = 20  # that are drawn until every token was masked in one


@dataclass(frozen=True)
class Subject:
    """A model and what is shown of it.

    Attributes:
        describe: model and weights in one line.
        masks: as in its training.
        clusters: of k-means.
        seed: of masks and k-means.
    """

    model: Sigma | Classifier
    describe: str
    masks: MaskConfig
    clusters: int
    seed: int
    device: torch.device

    @property
    def encoder(self) -> VideoTransformer:
        """Of the model."""
        return self.model.encoder if isinstance(self.model, Sigma) else self.model

    @property
    def prototypes(self) -> torch.Tensor | None:
        """(K, P); None of a model without."""
        return self.model.prototypes if isinstance(self.model, Sigma) else None

    def draw_masks(self, number: int) -> torch.Tensor:
        """(number, N) bool."""
        rng = np.random.default_rng(self.seed)
        return torch.from_numpy(np.stack([self.masks.draw(self.encoder.grid, rng) for _ in range(number)]))

    def normalized(self, clips: Clips) -> Iterator[torch.Tensor]:
        """(1, 3, T, H, W) of every clip, on the device."""
        for frames in clips.frames:
            yield normalize_clips(frames[None].to(self.device))

    def tokens(self, clips: Clips) -> np.ndarray:
        """(C t, h, w, D) float32: the encoder's tokens of whole clips, none masked."""
        encoder = self.encoder
        tokens = [VideoTransformer.forward(encoder, clip)[0].float().cpu() for clip in self.normalized(clips)]
        return torch.cat([part.unflatten(0, encoder.grid) for part in tokens]).numpy()

    def embeddings(self, clips: Clips) -> torch.Tensor:
        """(C, N, P) of all tubelets: of the projection network, or where that needs a teacher, of the decoder."""
        model = self.model
        assert isinstance(model, Sigma)
        if model.targets is not None:
            return torch.cat([embed(model, clip)[0].float().cpu() for clip in self.normalized(clips)])
        return torch.cat([self._predict_all(model, clip).cpu() for clip in self.normalized(clips)])

    def _predict_all(self, model: Sigma, clip: torch.Tensor) -> torch.Tensor:
        """(1, N, P): the decoder predicts masked tokens, so masks are drawn until each token was masked in one."""
        found = torch.zeros(1, model.encoder.num_tokens, model.decoder.head.out_features, device=self.device)
        missing = torch.ones(model.encoder.num_tokens, dtype=torch.bool)
        for mask in self.draw_masks(MOST_MASKS):
            predicted, places = predict(model, clip, mask[None])
            new = missing[places[0].cpu()].to(self.device)
            found[0, places[0, new]] = predicted[0, new].float()
            missing &= ~mask
            if not missing.any():
                break
        return found

    def of_embeddings(self) -> str:
        """What `embeddings` are, in words."""
        if isinstance(self.model, Sigma) and self.model.targets is None:
            return "Embeddings are the decoder's predictions: the targets' need the image teacher's weights"
        return "Embeddings are the projection network's, of the tubelets themselves"


def build_model(state: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> Sigma | Classifier:
    """The model of native tensors: of pre-training, a classifier, or an encoder alone, with a head that is not used.

    Raises:
        ModelError: no model of this project.
    """
    if "decoder.head.weight" in state or "head.weight" in state:
        return rebuild(state, args)
    alone = encoder_state(state)
    width = next((len(value) for name, value in alone.items() if name == "patch_embed.proj.weight"), 1)
    if "norm.weight" not in alone:  # as of a classifier that pools
        alone |= {"fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)}
    return rebuild(alone | {"head.weight": torch.zeros(1, width), "head.bias": torch.zeros(1)}, args)
