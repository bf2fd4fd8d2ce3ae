"""The sizes of a model, known from its options, are those of the model that is then built."""

import pytest

from models.classifier import HeadConfig
from models.decoder import DecoderConfig
from models.objectives import ObjectiveConfig
from models.registry import build_classifier, build_pretraining_model
from models.sizes import classifier_parts, pretraining_parts
from models.targets import TargetConfig
from models.teachers import with_teacher_dim
from models.vit import EncoderConfig

MINI = "pretrain_videomae_mini_patch8_32"


def numbers_of(model):
    """Parameters, and numbers of the tables of positions."""
    tables = [buffer for name, buffer in model.named_buffers() if name.endswith("pos_embed")]
    return sum(p.numel() for p in model.parameters()), sum(table.numel() for table in tables)


def sums(parts):
    return sum(part.weights for part in parts), sum(part.table for part in parts)


@pytest.mark.parametrize(
    ("name", "encoder", "decoder", "targets", "objective"),
    [
        (MINI, {}, {}, {}, {}),
        (MINI, {"img_size": 48, "num_frames": 8, "tubelet_size": 4}, {"decoder_depth": 0}, {}, {"num_prototypes": 7}),
        (MINI, {"init_values": 0.1, "mlp_ratio": 3.0}, {"decoder_depth": 2}, {"target_type": "pixel"}, {}),
        (MINI, {}, {"decoder_embed_dim": 32, "decoder_num_heads": 4}, {"projection_dims": (5, 6)}, {}),
        (MINI, {}, {}, {"decoder_num_classes": 11, "projection_dims": ()}, {"loss_func": "L2"}),
        ("pretrain_videomae_small_patch16_224", {"img_size": 32}, {}, {"target_type": "dino_v1"}, {}),
        ("pretrain_videomae_tiny_patch14_224", {"img_size": 28}, {}, {"target_type": "dino_v2"}, {"loss_func": "L2"}),
    ],
)
def test_pretraining(name, encoder, decoder, targets, objective):
    encoder = EncoderConfig(**{"img_size": 32, "num_frames": 4, **encoder})
    configs = DecoderConfig(**decoder), with_teacher_dim(TargetConfig(**targets)), ObjectiveConfig(**objective)
    model = build_pretraining_model(name, encoder, *configs)
    assert sums(pretraining_parts(name, encoder, *configs)) == numbers_of(model)


@pytest.mark.parametrize("pooling", [True, False])
@pytest.mark.parametrize("encoder", [{}, {"init_values": 0.1, "tubelet_size": 1}, {"depth": 2, "embed_dim": 64}])
def test_classifier(encoder, pooling):
    encoder = EncoderConfig(**{"img_size": 32, "num_frames": 4, **encoder})
    head = HeadConfig(num_classes=5, use_mean_pooling=pooling)
    model = build_classifier("vit_mini_patch8_32", encoder, head)
    assert sums(classifier_parts("vit_mini_patch8_32", encoder, head)) == numbers_of(model)
