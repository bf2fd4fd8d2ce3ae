"""The classifier: the encoder over all tokens, mean pooling, a linear head.

Letters: B clips, C channels, T H W frames and pixels, N tokens, D width, K classes.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, RATE, Options, option

from .vit import EncoderConfig, VideoTransformer


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Options):
    """What a classifier adds to its encoder."""

    num_classes: int | None = option(None, flag="nb_classes", rule=AT_LEAST_ONE)
    fc_drop_rate: float = option(0.0, "dropout rate before the head", rule=RATE)
    init_scale: float = option(0.001, "factor on the head's initial weights", rule=NOT_NEGATIVE)
    use_mean_pooling: bool | None = option(
        None,
        "give the head the mean over all tokens; default: what the head of the weights was trained on, else the mean",
        off="--use_cls",
        off_help="use the first token instead of the mean",
    )


class Classifier(VideoTransformer):
    """Logits (B, K) of clips (B, 3, T, H, W).

    With mean pooling, a fresh norm after the pooling replaces the encoder's final norm; without it, the head reads the
    first token after the final norm, as with `--use_cls` of the released code.
    """

    def __init__(self, encoder: EncoderConfig, head: HeadConfig) -> None:
        pools = head.use_mean_pooling is not False
        super().__init__(encoder, final_norm=not pools)
        assert head.num_classes is not None  # the lists say it where no flag does
        self.fc_norm = nn.LayerNorm(self.embed_dim, eps=1e-6) if pools else None
        self.fc_dropout = nn.Dropout(head.fc_drop_rate)
        self.head = nn.Linear(self.embed_dim, head.num_classes)
        self.num_frozen_blocks = 0
        self.backbone_frozen = False
        self.apply(_truncated_normal)
        # By `apply` too: inside it DeepSpeed gathers the parameters that ZeRO-3 has sharded.
        self.head.apply(partial(_scale, factor=head.init_scale))

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

    def freeze_blocks(self, number: int) -> None:
        """Train neither the patch embedding nor the first `number` blocks; they stay in evaluation mode too.

        Raises:
            ValueError: the model has fewer blocks.
        """
        if number > len(self.blocks):
            raise ValueError(f"the model has {len(self.blocks)} blocks, {number} of them cannot be frozen")
        for part in (self.patch_embed, *self.blocks[:number]):
            part.requires_grad_(False)
        self.num_frozen_blocks = number
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.backbone_frozen:
            for part in (self.patch_embed, self.blocks, self.norm):
                part.eval()
        for block in self.blocks[: self.num_frozen_blocks]:
            block.eval()
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
