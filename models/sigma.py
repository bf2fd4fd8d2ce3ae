"""SIGMA: masked video modelling with Sinkhorn-guided targets (arXiv 2407.15447). With pixels and L2 it is VideoMAE.

The video model (encoder and decoder) sees the visible tubelets and predicts an embedding for each masked one. The
projection network embeds what is really there. The objective assigns both to prototypes, balanced by Sinkhorn-Knopp,
and each branch predicts the other's assignment.

Letters: B clips, C channels, T H W frames and pixels, N tokens = V visible + M masked, D encoder width, F
target-feature width, P embedding width, K prototypes.
"""

import torch
from torch import nn

from .decoder import Decoder
from .tokens import gather_tokens, num_chosen, running_cells, split_by_mask
from .vit import VideoTransformer


class Sigma(nn.Module):
    """The method: video model, projection network and objective in one module.

    Args:
        encoder: clip and visible positions -> tokens.
        decoder: encoded tokens -> predictions at the masked positions.
        targets: clip and masked positions -> target features; None if `forward` is always given them.
        projection: target features -> embeddings (`self.head`, as released checkpoints call it).
        objective: predictions, embeddings and prototypes -> losses.
        num_prototypes: K, for an objective that uses them.
        decoder_mask_ratio: fraction of the masked tokens that is not decoded (see `running_cells`).
    """

    def __init__(
        self,
        *,
        encoder: VideoTransformer,
        decoder: Decoder,
        targets: nn.Module | None,
        projection: nn.Module,
        objective: nn.Module,
        num_prototypes: int,
        decoder_mask_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        decoder_dim, embedding_dim = decoder.head.in_features, decoder.head.out_features
        self.encoder = encoder
        self.encoder_to_decoder = nn.Linear(encoder.embed_dim, decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder = decoder
        self.targets = targets
        self.head = projection
        self.prototypes = (
            nn.Parameter(torch.randn(num_prototypes, embedding_dim)) if objective.uses_prototypes else None
        )
        self.objective = objective
        self.decoder_mask_ratio = decoder_mask_ratio
        # As released (modeling_pretrain.py): cut at one standard deviation, and `encoder_to_decoder` and the projection
        # network keep nn.Linear's default.
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        for part in (encoder, decoder):
            part.apply(_xavier)

    def forward(
        self,
        clip_BCTHW: torch.Tensor,
        mask_BN: torch.Tensor,
        target_features: torch.Tensor | None = None,
        *,
        num_masked: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Predictions, embeddings and losses of a batch.

        Args:
            clip_BCTHW: (B, 3, T, H, W) float, ImageNet-normalised.
            mask_BN: (B, N) bool, True = masked, the same number in every row; best kept in host memory.
            target_features: (B, M, F), used instead of the target network's output.
            num_masked: M, if known: then a mask on the device is not counted there (see `split_by_mask`).

        Returns:
            `loss` and the other results of the objective, `predicted` and `projected` (B, M, P), and `decoded` (B, M),
            their positions. With a `decoder_mask_ratio` M is smaller there than in the mask.
        """
        visible_BV, masked_BM = split_by_mask(mask_BN, clip_BCTHW.device, num_masked=num_masked)
        masked_BM, target_features = self._select_decoded(masked_BM, target_features)
        visible_BVD = self.encoder(clip_BCTHW, visible_BV)
        predicted_BMP = self.decoder(self.encoder_to_decoder(visible_BVD), self.mask_token, visible_BV, masked_BM)
        if target_features is None:
            target_features = self.target_features(clip_BCTHW, masked_BM)
        projected_BMP = self.head(target_features)
        with torch.autocast(clip_BCTHW.device.type, enabled=False):  # Sinkhorn and the losses in float32
            losses = self.objective(predicted_BMP, projected_BMP, self.prototypes)
        return {**losses, "predicted": predicted_BMP, "projected": projected_BMP, "decoded": masked_BM}

    def _select_decoded(
        self, masked_BM: torch.Tensor, target_features: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The masked positions to decode, with their features if given: all of them, or a draw of running cells."""
        if self.decoder_mask_ratio <= 0:
            return masked_BM, target_features
        chosen_BR = running_cells(masked_BM, self.encoder.grid, self.decoder_mask_ratio)
        chosen_features = None if target_features is None else gather_tokens(target_features, chosen_BR)
        return masked_BM.gather(1, chosen_BR), chosen_features

    def target_features(self, clip_BCTHW: torch.Tensor, masked_BM: torch.Tensor) -> torch.Tensor:
        """(B, M, F) of the target network."""
        if self.targets is None:
            raise ValueError("the model has no target network: pass target_features")
        return self.targets(clip_BCTHW, masked_BM)

    def stacks(self, num_masked: int) -> dict[str, tuple[nn.ModuleList, int]]:
        """The blocks of encoder and decoder, with the number of a clip's tokens that pass through them in training."""
        num_visible = self.encoder.num_tokens - num_masked
        num_decoded = num_chosen(num_masked, self.decoder_mask_ratio)
        return {
            "encoder": (self.encoder.blocks, num_visible),
            "decoder": (self.decoder.blocks, num_visible + num_decoded),
        }

    def freeze_projection(self) -> None:
        """Freeze the projection network: its parameters get no gradient."""
        for parameter in self.head.parameters():
            parameter.requires_grad = False

    def no_weight_decay(self) -> set[str]:
        """Parameters the optimizer must not decay, besides vectors and biases."""
        return {"mask_token"}

    def unit_rows(self) -> set[str]:
        """Parameters whose rows every forward pass L2-normalises in place: updates start from there."""
        return {"prototypes"} if self.prototypes is not None else set()


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
