"""The golden pre-training cases: model, inputs and the released code's results. README.md says how they were made."""

import json
from pathlib import Path

import numpy as np
import torch
from golden import weights

from models import create_model

GOLDEN = Path(__file__).parent

TINY = {
    "img_size": 64,
    "encoder_embed_dim": 48,
    "encoder_depth": 3,
    "encoder_num_heads": 4,
    "decoder_embed_dim": 24,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
    "num_prototypes": 40,
}


def fill(model):
    """Give every parameter the golden value of its name."""
    state = {n: torch.from_numpy(weights.filled(n, tuple(v.shape))) for n, v in model.state_dict().items()}
    model.load_state_dict(state, strict=True)
    return model


class PretrainingCase:
    """One golden pre-training run: model, inputs and recorded results."""

    def __init__(self, name, **options):
        self.golden = np.load(GOLDEN / f"{name}.npz")
        self.config = json.loads(str(self.golden["config"]))
        self.given_features = self.config["target"] == "feat"
        self.model = fill(
            create_model(
                "pretrain_videomae_base_patch16_224",
                target_type=self.config["target_type"],
                loss_func=self.config["loss_func"],
                decoder_num_classes=self.config["decoder_num_classes"],
                sinkhorn_eps=self.config.get("eps", 0.05),
                **TINY,
                **options,
            )
        )

    def inputs(self, video_seed, mask_seed, feature_seed):
        """Clip, mask and, for the feature case, the standardised features at the masked positions."""
        batch, size = self.config["batch"], self.config["size"]
        clip = torch.from_numpy(weights.video(video_seed, batch, 16, size))
        patches = (size // 16) ** 2
        mask = torch.from_numpy(weights.tube_mask(mask_seed, batch, 8, patches, self.config["mask_ratio"]))
        features = None
        if self.given_features:
            raw = weights.features(feature_seed, (batch, 8, patches, self.config["decoder_num_classes"]))
            raw = torch.from_numpy(raw).flatten(1, 2)
            raw = (raw - raw.mean(1, keepdim=True)) / (raw.var(1, unbiased=True, keepdim=True).sqrt() + 1e-6)
            features = raw[mask].reshape(batch, -1, raw.shape[-1])
        return clip, mask, features

    def run(self):
        seed = self.config["seed"]
        self.first_inputs = self.inputs(seed, seed + 1, seed + 2)
        return self.model(*self.first_inputs)
