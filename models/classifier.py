"""The classifier: the encoder over all tokens, mean pooling, a linear head.

Letters: B clips, C channels, T H W frames and pixels, N tokens, D width, K classes.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from .vit import VideoTransformer


class Classifier(VideoTransformer):
    """Logits (B, K) of clips (B, 3, T, H, W).

    With mean pooling the encoder's final norm is left out and a fresh one follows the pooling; without it, the first
    token after the final norm is used, as the released code's `--use_cls` does.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        use_mean_pooling: bool = True,
        fc_drop_rate: float = 0.0,
        init_scale: float = 0.001,
        **encoder_options: Any,
    ) -> None:
        super().__init__(final_norm=not use_mean_pooling, **encoder_options)
        self.fc_norm = nn.LayerNorm(self.embed_dim, eps=1e-6) if use_mean_pooling else None
        self.fc_dropout = nn.Dropout(fc_drop_rate)
        self.head = nn.Linear(self.embed_dim, num_classes)
        self.backbone_frozen = False
        self.apply(_truncated_normal)
        # Also by `apply`, within which DeepSpeed makes parameters whole that it has shared out.
        self.head.apply(partial(_scale, factor=init_scale))

    def forward_features(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, D): the mean over all tokens, normed (or the first token; see the class)."""
        tokens_BND = super().forward(clip_BCTHW)
        return tokens_BND[:, 0] if self.fc_norm is None else self.fc_norm(tokens_BND.mean(dim=1))

    def forward(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # no mask here
        return self.head(self.fc_dropout(self.forward_features(clip_BCTHW)))

    def freeze_backbone(self) -> None:
        """Leave only `fc_norm` and `head` trainable, for linear probing (run_class_finetuning.py of the released code).

        The backbone also stays in evaluation mode through `train()`, other than there: stochastic depth in a frozen
        network would only add noise to its features.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad = name.startswith(("fc_norm.", "head."))
        self.backbone_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.backbone_frozen:
            for part in (self.patch_embed, self.blocks, self.norm):
                part.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Parameters the optimizer must not decay, besides vectors and biases."""
        return set()


def _truncated_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def _scale(module: nn.Module, *, factor: float) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.mul_(factor)
