"""What an update trains on, and the loss of fine-tuning."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import PRETRAIN, run_script
from runs import series

from datasets.loading.batch import Batch
from datasets.transforms.mixup import MixupConfig, build_mixup
from engine.pretraining import PretrainingForward
from engine.schedules import Schedule
from engine.tasks.classification import Classification
from engine.training import Trainer


def test_every_epoch_shows_other_samples(data, tmp_path):
    """With weights that stand still, a loss changes only with the order, the clips and the masks."""
    still = {"target_type": "pixel", "lr": 1e-30, "min_lr": 0, "weight_decay": 0, "epochs": 3, "warmup_epochs": 0}
    losses = []
    for name in ("a", "b"):
        assert run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path / name, **still)).code == 0
        losses.append(series(tmp_path / name, "train/loss")[:, 0])
    assert len(set(losses[0].tolist())) == 9
    assert torch.equal(*losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classification_loss(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])
    logits[0, 0] += 9
    batch = Batch(clip=logits, index=torch.arange(6), label=labels)
    out = Classification(None, smoothing)(torch.nn.Identity(), batch)
    targets = (1 - smoothing) * F.one_hot(labels, 4) + smoothing / 4
    torch.testing.assert_close(out["loss"], -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean())
    torch.testing.assert_close(out["top1"], 100 * (logits.argmax(1) == labels).float().mean())
    half = Classification(None, smoothing)(torch.nn.Identity(), Batch(logits.bfloat16(), batch.index, label=labels))
    assert half["loss"].dtype == torch.float32


def test_classification_loss_with_mixup():
    """Of what `build_mixup` makes: both draw the same numbers from NumPy's generator."""
    mixup = build_mixup(MixupConfig(mixup=0.8, cutmix=0.0, mixup_switch_prob=0.0), num_classes=3)
    clips, labels = torch.randn(4, 3, 2, 8, 8), torch.tensor([0, 1, 2, 0])
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(384, 3))
    np.random.seed(0)  # noqa: NPY002
    mixed, targets = mixup(clips.clone(), labels)
    np.random.seed(0)  # noqa: NPY002
    out = Classification(mixup, 0.1)(head, Batch(clips.clone(), torch.arange(4), label=labels))
    assert out.keys() == {"loss"}
    torch.testing.assert_close(out["loss"], -(targets * head(mixed).log_softmax(dim=1)).sum(dim=1).mean())


def test_pretraining_calls_guide_teacher_and_model_in_turn():
    """The guide's mask goes to the teacher and to the model, the teacher's features to the model."""
    batch = Batch(clip=torch.rand(2, 3), index=torch.arange(2), mask=torch.tensor([[True, True, False]] * 2))
    seen = []

    def model(clip, mask, features, *, num_masked):
        seen.append((clip, mask, features, num_masked))
        return {"loss": clip.sum()}

    assert PretrainingForward()(model, batch)["loss"] == batch.clip.sum()
    clip, mask, features, num_masked = seen.pop()
    assert clip is batch.clip and mask is batch.mask and features is None and num_masked == 2
    forward = PretrainingForward(
        teacher=lambda clip, mask, number: clip + mask * number, guide=lambda clip, mask: ~mask
    )
    forward(model, batch)
    _, mask, features, num_masked = seen.pop()
    assert torch.equal(mask, ~batch.mask) and torch.equal(features, batch.clip + ~batch.mask * 2) and num_masked == 2


@pytest.mark.parametrize(("warmup_epochs", "warmup_steps", "first"), [(0, -1, 5), (2, -1, 10), (0, 3, 5), (1, 8, 8)])
def test_diagnostics_may_warn_after_the_warm_up_and_after_the_first_epoch(warmup_epochs, warmup_steps, first):
    """A new model is at chance, and its loss near that of guessing."""
    rates = {"lr": 1.0, "min_lr": 0.0, "warmup_lr": 0.0, "weight_decay": 0.0, "weight_decay_end": 0.0}
    length = {"epochs": 9, "steps_per_epoch": 5, "warmup_epochs": warmup_epochs, "warmup_steps": warmup_steps}
    trainer = SimpleNamespace(schedule=Schedule(**rates, **length))
    assert [Trainer.warmed_up(trainer, step) for step in (first - 1, first)] == [False, True]
