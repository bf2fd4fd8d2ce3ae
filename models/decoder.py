"""The narrow decoder: visible tokens and mask tokens in, predictions at the masked positions out.

Letters: B clips, N tokens = V visible + M masked, E decoder width, P prediction width.
"""

from dataclasses import dataclass

import torch
from torch import nn

from sigma_video.options import AT_LEAST_ONE, RATE, OptionError, Options, Rule, option

from .layers import Block
from .positions import Grid, resampled_table
from .tokens import gather_tokens
from .vit import run_blocks

DEPTH = Rule(lambda value: 0 <= value <= 1000, "must be between 0 and 1000")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Options):
    """Size of the decoder, and how many of the masked tokens it predicts. None: what goes with the encoder."""

    decoder_embed_dim: int | None = option(None, rule=AT_LEAST_ONE)
    decoder_depth: int = option(4, "transformer blocks of the decoder", rule=DEPTH)
    decoder_num_heads: int | None = option(None, rule=AT_LEAST_ONE)
    decoder_mask_ratio: float = option(0.0, "part of the masked tokens that is not decoded", rule=RATE)

    def __post_init__(self) -> None:
        super().__post_init__()
        width, heads = self.decoder_embed_dim, self.decoder_num_heads
        if width is not None and heads is not None and width % heads:
            raise OptionError(f"decoder width {width} is not a multiple of its {heads} heads")


class Decoder(nn.Module):
    """Transformer over all tokens of the clip, with predictions for the masked ones."""

    pos_embed: torch.Tensor

    def __init__(self, config: DecoderConfig, *, grid: Grid, out_dim: int, use_checkpoint: bool = False) -> None:
        super().__init__()
        embed_dim, num_heads = config.decoder_embed_dim, config.decoder_num_heads
        assert embed_dim and num_heads  # `create_model` fills them in
        self.grid = grid
        self.use_checkpoint = use_checkpoint
        self.register_buffer("pos_embed", resampled_table(grid, grid, embed_dim), persistent=False)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, out_dim)

    def resample_positions(self, trained: Grid) -> None:
        """Resample the position table of the grid that the weights were trained on to this decoder's grid."""
        self.pos_embed = resampled_table(trained, self.grid, self.head.in_features).to(self.pos_embed)

    def forward(
        self,
        visible_BVE: torch.Tensor,
        mask_token: torch.Tensor,
        visible_BV: torch.Tensor,
        masked_BM: torch.Tensor,
    ) -> torch.Tensor:
        """Predict at the masked positions.

        Args:
            visible_BVE: encoded visible tokens, projected to the decoder's width.
            mask_token: (1, 1, E), replaces every masked token.
            visible_BV: their positions in the clip, int64.
            masked_BM: the masked tokens' positions, int64.

        Returns:
            (B, M, P), in the order of `masked_BM`.
        """
        visible = visible_BVE + gather_tokens(self.pos_embed, visible_BV)
        masked = mask_token + gather_tokens(self.pos_embed, masked_BM)
        tokens = torch.cat((visible, masked.to(visible.dtype)), dim=1)
        tokens = run_blocks(self.blocks, tokens, use_checkpoint=self.use_checkpoint)
        return self.head(self.norm(tokens[:, visible_BV.shape[1] :]))
