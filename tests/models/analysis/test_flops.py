"""Operations counted from sizes: against the numbers worked out by hand, and against torch's counter."""

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, addmm_flop

from models import create_model
from models.analysis.flops import classifier_flops, pretraining_flops, teacher_flops
from models.teachers import ImageTeacher

NUM_MASKED = 1408  # of 1568 tokens, at ratio 0.9 of 14 x 14 places
GIGA = {  # worked out by hand: GFLOP for a clip of 16 x 224 x 224, by variant
    "pixel": {"small": 64.0, "base": 202.3, "large": 484.4},
    "mlp": {"small": 96.0, "base": 232.2, "large": 512.9},
    "dino_v1": {"small": 369.8, "base": 506.8, "large": 788.1},
    "finetuning": {"small": 339.4, "base": 1078.4, "large": 3576.0},
}


@pytest.mark.parametrize("kind", GIGA)
def test_numbers_worked_out_by_hand(kind):
    """Within the rounding of the table, with the paper's teacher, DINO ViT-B/16, for all sizes of the model."""
    for variant, expected in GIGA[kind].items():
        with torch.device("meta"):  # sizes are all that counts
            if kind == "finetuning":
                found = classifier_flops(create_model(f"vit_{variant}_patch16_224", num_classes=400))
            else:
                options = {"target_type": kind, "loss_func": "L2" if kind == "pixel" else "SWAV"}
                options |= {"decoder_num_classes": 768} if kind == "dino_v1" else {}
                model = create_model(f"pretrain_videomae_{variant}_patch16_224", **options)
                teacher = None
                if kind == "dino_v1":
                    network = timm.create_model("vit_base_patch16_224.dino", num_classes=0)
                    teacher = ImageTeacher(network, tubelet=(2, 16, 16), grid=model.encoder.grid)
                    assert teacher_flops(teacher) / 1e9 == pytest.approx(281.0, abs=0.05)
                found = pretraining_flops(model, num_masked=NUM_MASKED, teacher=teacher)
        assert found / 1e9 == pytest.approx(expected, abs=0.5 if expected > 1000 else 0.1), variant


def counted(forward):
    """Matrix products of a forward and backward pass, by torch."""
    # The gradient of the prototypes is added in place, and torch counts the other forms only.
    in_place = {torch.ops.aten.addmm_: lambda added, a, b, **_: addmm_flop(added, a, b)}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        forward()["loss"].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("target_type", "loss_func", "frozen"),
    [("pixel", "L2", False), ("mlp", "SWAV", False), ("mlp", "SWAV", True), ("mlp", "L2", False)],
)
def test_pretraining_against_the_counter(target_type, loss_func, frozen):
    options = {"target_type": target_type, "loss_func": loss_func, "num_prototypes": 20, "projection_dims": (48, 24)}
    model = create_model(
        "pretrain_videomae_mini_patch8_32", num_frames=4, decoder_depth=2, sinkhorn_iterations=1, **options
    )
    if frozen:
        model.freeze_projection()
    mask = torch.arange(32).expand(3, -1) < 20
    found = counted(lambda: model(torch.randn(3, 3, 4, 32, 32), mask))
    assert found == 3 * pretraining_flops(model, num_masked=20)


def test_masked_tokens_that_are_not_decoded_and_several_masks():
    options = {"target_type": "pixel", "loss_func": "L2", "decoder_mask_ratio": 0.5}
    model = create_model("pretrain_videomae_mini_patch8_32", num_frames=4, decoder_depth=2, **options)
    mask = torch.arange(32).expand(3, -1) < 20
    found = counted(lambda: model(torch.randn(3, 3, 4, 32, 32), mask))
    one = pretraining_flops(model, num_masked=20)
    assert found == 3 * one and pretraining_flops(model, num_masked=20, num_masks=4) == 4 * one


def test_teacher_against_the_counter():
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    teacher = ImageTeacher(network, tubelet=(2, 16, 16), grid=(3, 2, 2))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        teacher.features(torch.randn(2, 3, 6, 32, 32))
    assert counter.get_total_flops() == 2 * teacher_flops(teacher)
    plain = create_model("pretrain_videomae_mini_patch16_32", num_frames=6, target_type="dino_v1", loss_func="SWAV")
    both = pretraining_flops(plain, num_masked=8, teacher=teacher)
    assert both == pretraining_flops(plain, num_masked=8) + teacher_flops(teacher)


@pytest.mark.parametrize("number", [1, 4])
def test_frozen_blocks_against_the_counter(number):
    model = create_model("vit_mini_patch8_32", num_frames=4, num_classes=5)
    model.freeze_blocks(number)
    found = counted(lambda: {"loss": model(torch.randn(3, 3, 4, 32, 32)).sum()})
    assert found == 3 * classifier_flops(model)


@pytest.mark.parametrize("frozen", [False, True])
def test_classifier_against_the_counter(frozen):
    model = create_model("vit_mini_patch8_32", num_frames=4, num_classes=5)
    if frozen:
        model.freeze_backbone()
    found = counted(lambda: {"loss": model(torch.randn(3, 3, 4, 32, 32)).sum()})
    assert found == 3 * classifier_flops(model)
