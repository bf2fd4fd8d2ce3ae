"""The training step as the released code does it, reimplemented: the baseline of bench/step.py.

Eager; unfused attention, but in the teacher, a ViT of timm in the released code (0.9.12) as here, which takes torch's
fused attention; a convolution over all tokens, then boolean indexing; position tables copied from host memory in every
pass; the teacher in float32; Sinkhorn's plan built and rescaled in place for each branch; a cross-entropy over
permuted scores; AdamW in its default form; the loss read back in every step.

The weights have our names, so that both can start from the same.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from bench.common import Cell, Clock, autocast
from models.layers import DropPath
from models.positions import sincos_table
from models.vit import VARIANTS

TEMPERATURE, EPSILON, ITERATIONS = 0.1, 0.05, 10


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        q, k, v = rearrange(F.linear(x, self.qkv.weight, bias), "b n (s h e) -> s b h n e", s=3, h=self.heads)
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj(rearrange(weights @ v, "b h n e -> b n (h e)"))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    def __init__(self, dim: int, tubelet: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, dim, kernel_size=tubelet, stride=tubelet)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.proj(clip).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    def __init__(self, cell: Cell, drop_path: float = 0.0, *, norm: bool = True) -> None:
        super().__init__()
        sizes = VARIANTS[cell.size]
        self.patch_embed = PatchEmbedding(sizes.embed_dim, cell.tubelet)
        slots, height, width = cell.grid
        self.positions = sincos_table(slots * height * width, sizes.embed_dim)  # stays on the host
        rates = torch.linspace(0, drop_path, sizes.depth).tolist()
        self.blocks = nn.ModuleList(Block(sizes.embed_dim, sizes.num_heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(sizes.embed_dim, eps=1e-6) if norm else nn.Identity()

    def forward(self, clip: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.patch_embed(clip)
        x = x + self.positions.type_as(x).to(x.device).clone().detach()
        if mask is not None:
            x = x[~mask].reshape(len(x), -1, x.shape[-1])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Decoder(nn.Module):
    def __init__(self, dim: int, heads: int, out_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, out_dim)

    def forward(self, x: torch.Tensor, num_masked: int) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -num_masked:]))


class Pretraining(nn.Module):
    """Clip and mask -> predictions at the masked positions."""

    def __init__(self, cell: Cell, head: nn.Module, prototypes: torch.Tensor | None, out_dim: int) -> None:
        super().__init__()
        sizes = VARIANTS[cell.size]
        self.encoder = Encoder(cell)
        self.encoder_to_decoder = nn.Linear(sizes.embed_dim, sizes.decoder_embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, sizes.decoder_embed_dim))
        slots, height, width = cell.grid
        self.positions = sincos_table(slots * height * width, sizes.decoder_embed_dim)
        self.decoder = Decoder(sizes.decoder_embed_dim, sizes.decoder_num_heads, out_dim)
        self.head = head
        self.prototypes = None if prototypes is None else nn.Parameter(prototypes.clone())

    def forward(self, clip: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.encoder_to_decoder(self.encoder(clip, mask))
        clips, _, dim = x.shape
        positions = self.positions.expand(clips, -1, -1).type_as(x).to(x.device).clone().detach()
        seen = positions[~mask].reshape(clips, -1, dim)
        unseen = positions[mask].reshape(clips, -1, dim)
        return self.decoder(torch.cat((x + seen, self.mask_token + unseen), dim=1), unseen.shape[1])


class Classification(Encoder):
    def __init__(self, cell: Cell, num_classes: int, drop_path: float) -> None:
        super().__init__(cell, drop_path, norm=False)
        dim = VARIANTS[cell.size].embed_dim
        self.fc_norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, num_classes)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.head(self.fc_norm(super().forward(clip).mean(dim=1)))


@torch.no_grad()
def pixel_labels(clip: torch.Tensor, mask: torch.Tensor, tubelet: tuple[int, int, int]) -> torch.Tensor:
    """Standardised pixels of all tokens, of which the masked ones are then taken: (B, M, F)."""
    mean = torch.as_tensor((0.485, 0.456, 0.406)).to(clip.device)[None, :, None, None, None]
    std = torch.as_tensor((0.229, 0.224, 0.225)).to(clip.device)[None, :, None, None, None]
    t, h, w = tubelet
    pixels = rearrange(clip * std + mean, "b c (t i) (h j) (w k) -> b (t h w) (i j k) c", i=t, j=h, k=w)
    pixels = (pixels - pixels.mean(dim=-2, keepdim=True)) / (
        pixels.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6
    )
    return rearrange(pixels, "b n p c -> b n (p c)")[mask].reshape(len(clip), -1, 3 * t * h * w)


@torch.no_grad()
def teacher_labels(network: nn.Module, clip: torch.Tensor, mask: torch.Tensor, cell: Cell) -> torch.Tensor:
    """Standardised features of all tokens, in float32, of which the masked ones are then taken: (B, M, F)."""
    frames = rearrange(clip[:, :, :: cell.tubelet[0]], "b c t h w -> (b t) c h w")
    tokens = network.forward_features(frames)[:, 1:]
    _, height, width = cell.grid
    side = round(tokens.shape[1] ** 0.5)
    if side != height:  # only in smoke tests
        maps = rearrange(tokens, "s (y x) f -> s f y x", y=side)
        tokens = rearrange(F.interpolate(maps, size=(height, width), mode="bilinear"), "s f y x -> s (y x) f")
    features = rearrange(tokens, "(b t) n f -> b (t n) f", b=len(clip))
    features = (features - features.mean(dim=1, keepdim=True)) / (
        features.var(dim=1, unbiased=True, keepdim=True).sqrt() + 1e-6
    )
    return features[mask].reshape(len(clip), -1, features.shape[-1])


@torch.no_grad()
def plan_codes(scores: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(S, K) -> (S,): Sinkhorn's plan of one branch. Prototypes are its rows; in memory it is (S, K)."""
    plan = (scores / epsilon).float().exp().t().clone()
    plan /= plan.sum()
    prototypes, samples = plan.shape
    row_sums = plan.sum(dim=1)
    for _ in range(ITERATIONS):
        plan *= (1 / prototypes / row_sums)[:, None]
        plan *= (1 / samples / plan.sum(dim=0))[None]
        row_sums = plan.sum(dim=1)
    return (plan / plan.sum(dim=0, keepdim=True)).t().argmax(dim=1)


def swapped_loss(predicted: torch.Tensor, projected: torch.Tensor, prototypes: nn.Parameter) -> torch.Tensor:
    with torch.no_grad():
        prototypes.copy_(F.normalize(prototypes, dim=1, p=2))
    video = F.normalize(predicted, dim=-1) @ prototypes.detach().t()
    target = F.normalize(projected, dim=-1) @ prototypes.t()
    codes_video, codes_target = (
        plan_codes(scores.detach().flatten(0, 1), EPSILON).reshape(scores.shape[:2]) for scores in (video, target)
    )

    def loss(scores: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy((scores / TEMPERATURE).permute(0, 2, 1).float().contiguous(), codes)

    return loss(video, codes_target) + loss(target, codes_video)


class ReleasedStep:
    """One training step; `clock` gets the stages."""

    def __init__(
        self,
        cell: Cell,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        amp: str,
        teacher: nn.Module | None = None,
    ) -> None:
        self.cell, self.model, self.optimizer, self.teacher = cell, model.to(device), optimizer, teacher
        self.device, self.amp = device, amp

    def loss(self, batch: object, clock: Clock) -> torch.Tensor:
        clip = batch.clip  # type: ignore[attr-defined]
        if isinstance(self.model, Classification):
            with autocast(self.device, self.amp):
                logits = self.model(clip)
                clock.mark("encoder")
                return F.cross_entropy(logits.float(), batch.label, label_smoothing=0.1)  # type: ignore[attr-defined]
        mask = batch.mask.to(self.device)  # type: ignore[attr-defined]
        if self.teacher is not None:
            labels = teacher_labels(self.teacher, clip, mask, self.cell)
            clock.mark("teacher")
        else:
            labels = pixel_labels(clip, mask, self.cell.tubelet)
            clock.mark("targets")
        assert isinstance(self.model, Pretraining)
        with autocast(self.device, self.amp):
            predicted = self.model(clip, mask)
            clock.mark("decoder")
            if self.model.prototypes is None:
                return F.mse_loss(predicted.float(), labels)
            return swapped_loss(predicted, self.model.head(labels), self.model.prototypes)

    def __call__(self, batch: object, clock: Clock) -> float:
        loss = self.loss(batch, clock)
        value = loss.item()  # the released code stops if it is not finite
        clock.mark("objective")
        self.optimizer.zero_grad()
        loss.backward()
        clock.mark("backward")
        norms = [p.grad.detach().norm(2) for p in self.model.parameters() if p.grad is not None]
        torch.norm(torch.stack(norms), 2)
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        clock.mark("optimizer")
        return value
