"""The video transformer: one encoder for pre-training (visible tokens) and for everything after it (all tokens).

Letters: B clips, C channels, T H W frames and pixels, N tokens, V visible tokens, D width.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .layers import Block, TubeletEmbedding
from .positions import Grid, resampled_table
from .tokens import gather_tokens


@dataclass(frozen=True)
class Variant:
    """Sizes of an encoder and of its decoder in pre-training."""

    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int
    decoder_num_heads: int


VARIANTS = {
    "mini": Variant(128, 4, 4, 64, 2),  # for demonstrations on a CPU
    "tiny": Variant(192, 12, 3, 96, 3),
    "small": Variant(384, 12, 6, 192, 3),
    "base": Variant(768, 12, 12, 384, 6),
    "large": Variant(1024, 24, 16, 512, 8),
    "huge": Variant(1280, 32, 16, 640, 8),
}


class VideoTransformer(nn.Module):
    """ViT over tubelets with a fixed sinusoidal position table (arXiv 2010.11929, 2203.12602); no class token.

    Masked tokens are left out before the first block, so pre-training pays for the visible ones only.

    Args:
        img_size, patch_size, num_frames, tubelet_size: of the clip and its tubelets, in pixels and frames.
        embed_dim, depth, num_heads: D, number of blocks and heads; `VARIANTS` has the usual ones.
        mlp_ratio: hidden width of the MLPs over D.
        drop_rate, attn_drop_rate: dropout on the branches' outputs and on the attention weights.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first.
        init_values: initial layer scale; 0 for none.
        use_checkpoint: activation checkpointing, block by block.
        final_norm: False for a classifier that normalises after pooling.
    """

    pos_embed: torch.Tensor

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        num_frames: int = 16,
        tubelet_size: int = 2,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init_values: float = 0.0,
        use_checkpoint: bool = False,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.grid: Grid = (num_frames // tubelet_size, img_size // patch_size, img_size // patch_size)
        self.position_grid = self.grid  # the grid whose position table is in use
        self.clip_shape = (3, num_frames, img_size, img_size)
        self.embed_dim = embed_dim
        self.use_checkpoint = use_checkpoint
        self.patch_embed = TubeletEmbedding(embed_dim, (tubelet_size, patch_size, patch_size))
        self.register_buffer("pos_embed", resampled_table(self.grid, self.grid, embed_dim), persistent=False)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                drop=drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=rate,
                init_values=init_values,
            )
            for rate in (drop_path_rate * i / max(depth - 1, 1) for i in range(depth))
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6) if final_norm else nn.Identity()

    def forward(self, clip_BCTHW: torch.Tensor, visible_BV: torch.Tensor | None = None) -> torch.Tensor:
        """Encode the visible tokens, or all of them.

        Args:
            clip_BCTHW: (B, 3, T, H, W) float.
            visible_BV: (B, V) int64, their positions in the clip; None for all N.

        Returns:
            (B, V, D) or (B, N, D), after the final norm.
        """
        self.check_clip(clip_BCTHW)
        position = self.pos_embed if visible_BV is None else gather_tokens(self.pos_embed, visible_BV)
        tokens = self.patch_embed(clip_BCTHW, visible_BV) + position
        return self.norm(run_blocks(self.blocks, tokens, use_checkpoint=self.use_checkpoint))

    @property
    def num_tokens(self) -> int:
        """N, the number of tokens of a whole clip."""
        t, h, w = self.grid
        return t * h * w

    @property
    def tubelet(self) -> tuple[int, int, int]:
        """Frames, height and width of a tubelet in pixels."""
        return self.patch_embed.tubelet

    def resample_positions(self, trained: Grid) -> None:
        """Resample the position table of the grid that the weights were trained on to this model's grid."""
        self.position_grid = trained
        self.pos_embed = resampled_table(trained, self.grid, self.embed_dim).to(self.pos_embed)

    def check_clip(self, clip_BCTHW: torch.Tensor) -> None:
        """Raise ValueError, with both shapes, for a clip of another size than the model was built for."""
        if tuple(clip_BCTHW.shape[1:]) != self.clip_shape:
            raise ValueError(f"the model takes clips of shape {self.clip_shape}, got {tuple(clip_BCTHW.shape[1:])}")


def run_blocks(blocks: nn.ModuleList, x_BND: torch.Tensor, *, use_checkpoint: bool) -> torch.Tensor:
    """Apply the blocks; with `use_checkpoint` the backward pass recomputes activations instead of storing them."""
    for block in blocks:
        x_BND = checkpoint(block, x_BND, use_reentrant=False) if use_checkpoint else block(x_BND)
    return x_BND
