"""`create_model(name, **overrides)`: the project's model table.

It is not timm's: registering `vit_base_patch16_224` there would overwrite timm's own model of that name.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from .classifier import Classifier
from .decoder import Decoder
from .objectives import OBJECTIVES
from .projection import HIDDEN_DIMS, projection_mlp
from .sigma import Sigma
from .sinkhorn.balance import AllReduce
from .targets import PixelTarget
from .vit import VARIANTS, VideoTransformer

_NAME = re.compile(r"(?P<kind>pretrain_(?:videomae|sigma)|vit)_(?P<variant>[a-z]+)_patch(?P<patch>\d+)_(?P<size>\d+)")
TARGET_TYPES = ("pixel", "mlp", "dino_v1", "dino_v2")


class ModelError(ValueError):
    """A name or an option that no model can be made of; the message says the remedy."""


def create_model(name: str, **overrides: Any) -> nn.Module:
    """A pre-training model or a classifier by name.

    Args:
        name: `pretrain_videomae_{variant}_patch{p}_{size}` or `vit_{variant}_patch{p}_{size}` with a variant of
            `models.vit.VARIANTS`, such as `vit_base_patch16_224`.
        overrides: keyword arguments of `build_pretraining_model` or `build_classifier`, in place of what the name says.

    Raises:
        ModelError: unknown name, or options that do not fit together.
    """
    match = _NAME.fullmatch(name.lower())
    if match is None or match["variant"] not in VARIANTS:
        raise ModelError(
            f"--model {name}: unknown. Names are pretrain_videomae_VARIANT_patchP_SIZE (pre-training) and "
            f"vit_VARIANT_patchP_SIZE (classification), VARIANT one of {', '.join(VARIANTS)}; "
            f"for example pretrain_videomae_base_patch16_224"
        )
    build: Callable[..., nn.Module] = build_classifier if match["kind"] == "vit" else build_pretraining_model
    named = {"img_size": int(match["size"]), "patch_size": int(match["patch"])}
    return build(match["variant"], **{**named, **overrides})


def build_pretraining_model(
    variant: str,
    *,
    target_type: str = "mlp",
    loss_func: str = "SWAV",
    img_size: int,
    patch_size: int,
    num_frames: int = 16,
    tubelet_size: int = 2,
    encoder_embed_dim: int | None = None,
    encoder_depth: int | None = None,
    encoder_num_heads: int | None = None,
    decoder_embed_dim: int | None = None,
    decoder_depth: int = 4,
    decoder_num_heads: int | None = None,
    decoder_num_classes: int | None = None,
    projection_dims: Sequence[int] = HIDDEN_DIMS,
    normalize_target: bool = True,
    num_prototypes: int = 3000,
    sinkhorn_eps: float = 0.05,
    sinkhorn_iterations: int = 10,
    all_reduce: AllReduce | None = None,
    drop_path_rate: float = 0.0,
    init_values: float = 0.0,
    use_checkpoint: bool = False,
    decoder_mask_ratio: float = 0.0,
) -> Sigma:
    """SIGMA, or VideoMAE with `target_type="pixel", loss_func="L2"`.

    With `target_type="mlp", loss_func="L2"` both networks can agree on a constant, and do: the collapsing baseline of
    the paper (unless `freeze_projection` is called). An image teacher's features are given to `forward`.

    `decoder_num_classes` is the embedding width P: by default the tubelet's number of values for pixels, 256 for the
    projection MLP, the encoder's width for image teachers. `all_reduce` sums a tensor over ranks, for the balancing.
    """
    sizes = VARIANTS[variant]
    tubelet = (tubelet_size, patch_size, patch_size)
    pixel_dim = 3 * tubelet_size * patch_size * patch_size
    width = encoder_embed_dim or sizes.embed_dim
    embedding_dim = decoder_num_classes or {"pixel": pixel_dim, "mlp": 256}.get(target_type, width)
    check_pretraining(target_type, loss_func, embedding_dim=embedding_dim, pixel_dim=pixel_dim)
    encoder = VideoTransformer(
        **check_encoder(
            img_size=img_size,
            patch_size=patch_size,
            num_frames=num_frames,
            tubelet_size=tubelet_size,
            embed_dim=width,
            depth=encoder_depth or sizes.depth,
            num_heads=encoder_num_heads or sizes.num_heads,
            drop_path_rate=drop_path_rate,
            init_values=init_values,
            use_checkpoint=use_checkpoint,
        )
    )
    decoder = Decoder(
        grid=encoder.grid,
        depth=decoder_depth,
        out_dim=embedding_dim,
        use_checkpoint=use_checkpoint,
        **check_decoder(
            embed_dim=decoder_embed_dim or sizes.decoder_embed_dim,
            num_heads=decoder_num_heads or sizes.decoder_num_heads,
        ),
    )
    balancing = {"epsilon": sinkhorn_eps, "num_iters": sinkhorn_iterations, "all_reduce": all_reduce}
    uses_pixels = target_type in ("pixel", "mlp")
    # The MLP is defined on standardised tubelets; only for pixel regression are raw values a choice.
    targets = PixelTarget(tubelet, normalize=normalize_target or target_type == "mlp") if uses_pixels else None
    projection = projection_mlp(pixel_dim, embedding_dim, projection_dims) if target_type == "mlp" else nn.Identity()
    return Sigma(
        encoder=encoder,
        decoder=decoder,
        targets=targets,
        projection=projection,
        objective=OBJECTIVES[loss_func](**(balancing if loss_func == "SWAV" else {})),
        num_prototypes=num_prototypes,
        decoder_mask_ratio=decoder_mask_ratio,
    )


def build_classifier(
    variant: str,
    *,
    num_classes: int,
    img_size: int,
    patch_size: int,
    num_frames: int = 16,
    tubelet_size: int = 2,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    **options: Any,
) -> Classifier:
    """Encoder and linear head; `options` are `Classifier`'s and `VideoTransformer`'s remaining arguments."""
    if num_classes < 1:
        raise ModelError(f"a classifier of {num_classes} classes: --nb_classes must be at least 1")
    sizes = VARIANTS[variant]
    encoder_options = check_encoder(
        img_size=img_size,
        patch_size=patch_size,
        num_frames=num_frames,
        tubelet_size=tubelet_size,
        embed_dim=embed_dim or sizes.embed_dim,
        depth=depth or sizes.depth,
        num_heads=num_heads or sizes.num_heads,
    )
    return Classifier(num_classes=num_classes, **encoder_options, **options)


def check_pretraining(target_type: str, loss_func: str, *, embedding_dim: int, pixel_dim: int) -> None:
    """Raise ModelError for targets and objectives that do not go together."""
    if target_type not in TARGET_TYPES:
        raise ModelError(f"--target_type {target_type}: choose from {', '.join(TARGET_TYPES)}")
    if loss_func not in OBJECTIVES:
        raise ModelError(f"--loss_func {loss_func}: choose from {', '.join(OBJECTIVES)}")
    if target_type == "pixel" and embedding_dim != pixel_dim:
        raise ModelError(f"--target_type pixel predicts {pixel_dim} values a tubelet, not {embedding_dim}")


def check_decoder(*, embed_dim: int, num_heads: int) -> dict[str, int]:
    """The options as given; raises ModelError where the width is not a multiple of the heads."""
    if embed_dim % num_heads:
        raise ModelError(f"decoder width {embed_dim} is not a multiple of its {num_heads} heads")
    return {"embed_dim": embed_dim, "num_heads": num_heads}


def check_encoder(**options: Any) -> dict[str, Any]:
    """The options as given; raises ModelError where sizes do not divide."""
    for whole, part, flags in (
        ("num_frames", "tubelet_size", "--num_frames and --tubelet_size"),
        ("img_size", "patch_size", "--input_size and the model's patch size"),
        ("embed_dim", "num_heads", "the encoder's width and heads"),
    ):
        if options[part] < 1 or options[whole] < options[part] or options[whole] % options[part]:
            raise ModelError(f"{whole} {options[whole]} is not a multiple of {part} {options[part]}: check {flags}")
    return options
