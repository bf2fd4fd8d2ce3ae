"""The video transformer: one encoder for pre-training (visible tokens) and for everything after it (all tokens).

Letters: B clips, C channels, T H W frames and pixels, N tokens, V visible tokens, D width.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, RATE, OptionError, Options, option

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


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Options):
    """Geometry, size and regularisation of an encoder. What is None comes from the model's name.

    Attributes:
        img_size, patch_size, num_frames, tubelet_size: of the clip and its tubelets, in pixels and frames.
        embed_dim, depth, num_heads: D, number of blocks and heads; `VARIANTS` has the usual ones.
        mlp_ratio: hidden width of the MLPs over D.
        drop_rate, attn_drop_rate: dropout on the branches' outputs and on the attention weights.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first.
        init_values: initial layer scale; 0 for none.
        use_checkpoint: activation checkpointing, block by block.
    """

    img_size: int = option(224, flag="input_size", rule=AT_LEAST_ONE)
    num_frames: int = option(16, rule=AT_LEAST_ONE)
    tubelet_size: int = option(2, "frames of a tubelet, the piece of a clip that a token stands for", rule=AT_LEAST_ONE)
    patch_size: int | None = option(None, rule=AT_LEAST_ONE)
    embed_dim: int | None = option(None, rule=AT_LEAST_ONE)
    depth: int | None = option(None, rule=AT_LEAST_ONE)
    num_heads: int | None = option(None, rule=AT_LEAST_ONE)
    mlp_ratio: float = 4.0
    drop_rate: float = option(0.0, "dropout rate of the blocks' branches", flag="drop", rule=RATE)
    attn_drop_rate: float = option(0.0, "dropout rate of the attention weights", rule=RATE)
    drop_path_rate: float = option(0.0, "stochastic depth rate of the last block", flag="drop_path", rule=RATE)
    init_values: float = option(0.0, "initial value of layer scale; 0: no layer scale", rule=NOT_NEGATIVE)
    use_checkpoint: bool = option(False, "activation checkpointing: less memory, more time")

    def __post_init__(self) -> None:
        super().__post_init__()
        for whole, part, flags in (
            ("num_frames", "tubelet_size", "--num_frames and --tubelet_size"),
            ("img_size", "patch_size", "--input_size and the model's patch size"),
            ("embed_dim", "num_heads", "the encoder's width and heads"),
        ):
            size, unit = getattr(self, whole), getattr(self, part)
            if size is not None and unit is not None and size % unit:
                raise OptionError(f"{whole} {size} is not a multiple of {part} {unit}: check {flags}")


class VideoTransformer(nn.Module):
    """ViT over tubelets with a fixed sinusoidal position table (arXiv 2010.11929, 2203.12602); no class token.

    Masked tokens are left out before the first block, so pre-training pays for the visible ones only.

    Args:
        config: geometry, size and regularisation.
        final_norm: False for a classifier that normalises after pooling.
    """

    pos_embed: torch.Tensor

    def __init__(self, config: EncoderConfig, *, final_norm: bool = True) -> None:
        super().__init__()
        frames, size, patch = config.num_frames, config.img_size, config.patch_size
        assert patch and config.embed_dim and config.depth and config.num_heads  # `create_model` fills them in
        self.grid: Grid = (frames // config.tubelet_size, size // patch, size // patch)
        self.position_grid = self.grid  # the grid whose position table is in use
        self.clip_shape = (3, frames, size, size)
        self.embed_dim = config.embed_dim
        self.use_checkpoint = config.use_checkpoint
        self.patch_embed = TubeletEmbedding(self.embed_dim, (config.tubelet_size, patch, patch))
        self.register_buffer("pos_embed", resampled_table(self.grid, self.grid, self.embed_dim), persistent=False)
        drop_path_rates = [config.drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            Block(
                self.embed_dim,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                drop=config.drop_rate,
                attn_drop=config.attn_drop_rate,
                drop_path=rate,
                init_values=config.init_values,
            )
            for rate in drop_path_rates
        )
        self.norm = nn.LayerNorm(self.embed_dim, eps=1e-6) if final_norm else nn.Identity()

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
        shape = tuple(clip_BCTHW.shape)
        if len(shape) != 5:  # first: an export is for any B, also for one that equals a size of a clip
            got = "one clip: clip[None]" if shape == self.clip_shape else f"shape {shape}"
            raise ValueError(f"the model takes a batch of clips, (B, *{self.clip_shape}), got {got}")
        if shape[1:] != self.clip_shape:
            raise ValueError(f"the model takes clips of shape {self.clip_shape}, got {shape[1:]}")


def run_blocks(blocks: nn.ModuleList, x_BND: torch.Tensor, *, use_checkpoint: bool) -> torch.Tensor:
    """Apply the blocks; with `use_checkpoint` the backward pass recomputes activations instead of storing them."""
    for block in blocks:
        x_BND = checkpoint(block, x_BND, use_reentrant=False) if use_checkpoint else block(x_BND)
    return x_BND
