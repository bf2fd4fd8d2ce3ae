"""How many numbers a model will hold, from its options alone: to be asked before any memory is taken.

Letters: D encoder width, E decoder width, N tokens, F target-feature width, P embedding width, K prototypes or classes.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from .classifier import HeadConfig
from .decoder import DecoderConfig
from .objectives import OBJECTIVES, ObjectiveConfig
from .registry import complete_decoder, complete_encoder
from .targets import TARGETS, TargetConfig
from .tokens import Tubelet
from .vit import EncoderConfig


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        flags: the options that its size comes from, with their values.
        name: of the part, in words.
        weights, table: how many numbers it learns, and how many constant ones it holds.
    """

    flags: str
    name: str
    weights: int
    table: int = 0


def pretraining_parts(
    name: str, encoder: EncoderConfig, decoder: DecoderConfig, targets: TargetConfig, objective: ObjectiveConfig
) -> list[Part]:
    """The parts of `build_pretraining_model`; together they are all its parameters, and its tables of positions."""
    encoder, decoder = complete_encoder(name, encoder), complete_decoder(name, decoder)
    kind, width, narrow = TARGETS[targets.target_type], encoder.embed_dim or 0, decoder.decoder_embed_dim or 0
    feature_dim = kind.features(_tubelet(encoder)).dim if kind.features else width
    embedding_dim = targets.decoder_num_classes or kind.embedding_dim or feature_dim
    blocks = decoder.decoder_depth * _block(narrow, 4 * narrow)
    others = width * narrow + narrow + 2 * narrow
    parts = [
        *_encoder_parts(name, encoder, norms=1, other_table_width=narrow),
        Part(f"--decoder_depth {decoder.decoder_depth}", "decoder", blocks + others),
        Part(f"--decoder_num_classes {embedding_dim}", "the decoder's last layer", (narrow + 1) * embedding_dim),
    ]
    if kind.projects:
        widths = (feature_dim, *targets.projection_dims, embedding_dim)
        flags = f"--projection_dims {' '.join(map(str, targets.projection_dims))}"
        parts.append(Part(flags, "projection network", sum(a * b + b for a, b in pairwise(widths))))
    if OBJECTIVES[objective.name_for(targets.target_type)].uses_prototypes:
        number = objective.num_prototypes
        parts.append(Part(f"--num_prototypes {number}", "prototypes", number * embedding_dim))
    return parts


def classifier_parts(name: str, encoder: EncoderConfig, head: HeadConfig) -> list[Part]:
    """The parts of `build_classifier`; together they are all its parameters, and its table of positions."""
    encoder, num_classes = complete_encoder(name, encoder), head.num_classes or 0
    width = encoder.embed_dim or 0
    return [
        *_encoder_parts(name, encoder, norms=1),
        Part(f"--nb_classes {num_classes}", "head", width * num_classes + num_classes),
    ]


def _encoder_parts(name: str, encoder: EncoderConfig, *, norms: int, other_table_width: int = 0) -> list[Part]:
    """The encoder with its final norm, and the tables of positions: its own and that of a decoder."""
    width, depth = encoder.embed_dim or 0, encoder.depth or 0
    block = _block(width, int(width * encoder.mlp_ratio), scales=encoder.init_values > 0)
    embedding = 3 * math.prod(_tubelet(encoder)) * width + width
    num_tokens = tokens_of(name, encoder)
    clip = f"--input_size {encoder.img_size}, --num_frames {encoder.num_frames}"
    return [
        Part(
            f"--model {name}, --tubelet_size {encoder.tubelet_size}",
            "encoder",
            depth * block + embedding + norms * 2 * width,
        ),
        Part(clip, f"positions of {num_tokens} tokens", 0, num_tokens * (width + other_table_width)),
    ]


def tokens_of(name: str, encoder: EncoderConfig) -> int:
    """N, the tokens of a clip."""
    encoder = complete_encoder(name, encoder)
    return encoder.num_frames // encoder.tubelet_size * (encoder.img_size // (encoder.patch_size or 1)) ** 2


def _tubelet(encoder: EncoderConfig) -> Tubelet:
    return encoder.tubelet_size, encoder.patch_size or 1, encoder.patch_size or 1


def _block(width: int, hidden: int, *, scales: bool = False) -> int:
    norms, attention = 4 * width, 4 * width * width + 3 * width
    return norms + attention + 2 * width * hidden + hidden + width + (2 * width if scales else 0)
