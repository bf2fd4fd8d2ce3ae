"""The watch for collapse: its numbers against naive forms, over ranks, and on runs that do and do not collapse."""

import logging
import math
import re

import pytest
import torch
import torch.nn.functional as F
from processes import PRETRAIN, gloo_world, run_script
from runs import records
from sklearn.metrics import mutual_info_score

from engine.distributed.collectives import all_reduce_sum
from engine.errors import CollapseError
from engine.monitoring import collapse
from engine.monitoring.collapse import CollapseDetector
from models import create_model


def naive_cosine(features):
    unit = F.normalize(features.double().flatten(0, 1), dim=-1)
    cosines = unit @ unit.T
    return float(cosines[~torch.eye(len(unit), dtype=torch.bool)].mean())


def mean_cosine(features):
    return collapse.mean_cosine(all_reduce_sum(collapse.sum_of_directions(features)))


def code_statistics(codes, num_prototypes):
    return collapse.code_statistics(all_reduce_sum(collapse.count_codes(codes, num_prototypes)))


def watch(detector, out, **when):
    """The numbers of one step of one rank."""
    return detector.report(detector.sums(out), num_ranks=1, **when)


def test_mean_cosine():
    features = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)) + 0.5
    assert mean_cosine(features) == pytest.approx(naive_cosine(features), abs=1e-6)
    assert mean_cosine(torch.ones(2, 3, 4)) == pytest.approx(1, abs=1e-6)
    assert mean_cosine(torch.ones(1, 1, 4)) == 0  # no pair


def test_code_statistics():
    codes = torch.tensor([[0, 0, 1], [1, 4, 0]])
    found = code_statistics(codes, 6)
    shares = [3 / 6, 2 / 6, 1 / 6]
    assert found["entropy"] == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert found["perplexity"] == pytest.approx(math.exp(found["entropy"]))
    assert (found["prototypes_used"], found["num_usable"]) == (3, 6)
    assert code_statistics(codes, 100)["num_usable"] == 6
    even = code_statistics(torch.arange(50), 50)
    assert even["perplexity"] == pytest.approx(50) and even["prototypes_used"] == 50


def share(world, features, codes):
    own = features.tensor_split(world.size)[world.rank], codes.tensor_split(world.size)[world.rank]
    return mean_cosine(own[0]), code_statistics(own[1], 9)


def test_two_ranks_count_together():
    generator = torch.Generator().manual_seed(1)
    features, codes = torch.randn(3, 4, 5, generator=generator), torch.randint(9, (3, 4), generator=generator)
    for cosine, statistics in gloo_world(share, features, codes):
        assert cosine == pytest.approx(naive_cosine(features), abs=1e-6)
        assert statistics == pytest.approx(code_statistics(codes, 9))


def outputs(*, loss=1.0, used=40, alike=False, num_prototypes=40):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 20, 8, generator=generator)
    if alike:
        features = features * 1e-3 + 1
    codes = torch.arange(80).reshape(4, 20) % used
    part = torch.tensor(loss)
    return {"loss": 2 * part, "video_loss": part, "target_loss": part, "codes_video": codes, "codes_target": codes} | {
        "predicted": torch.randn(4, 20, 8, generator=generator),
        "projected": features,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"loss": math.log(40)}, "video_loss is no better than guessing (3.689, and guessing gives 3.689)"),
        ({"used": 3}, "few prototypes are in use by the target codes (3 of 40)"),
        ({"used": 4}, None),
        ({"used": 40, "num_prototypes": 3000}, None),  # of the 80 tokens' prototypes
        ({"alike": True}, None),  # the codes are spread and predicted: what the features share is no matter
        ({"alike": True, "num_prototypes": None}, "projected features are all alike (mean cosine 1.000"),
    ],
    ids=str,
)
def test_warnings(changes, words, caplog):
    detector = CollapseDetector(changes.get("num_prototypes", 40))
    with caplog.at_level(logging.WARNING):
        found = watch(detector, outputs(**changes), step=7, after_warmup=False)
        for step in (8, 9, 10):
            watch(detector, outputs(**changes), step=step, after_warmup=True)
    texts = [record.getMessage() for record in caplog.records]
    assert bool(texts) is (words is not None)
    # Alike targets are a collapse before the warm-up, too; a loss that is no better than guessing is told at the third.
    step = 7 if "projected" in (words or "") else 10 if "guessing" in (words or "") else 8
    assert words is None or any(text.startswith(f"step {step}: ") and words in text for text in texts)
    assert step == 7 or not any(text.startswith("step 7: ") for text in texts)
    if detector.num_prototypes is None:
        assert found.keys() == {"cosine_predicted", "cosine_projected"}
        return
    assert found["ln_k"] == pytest.approx(math.log(detector.num_prototypes))
    keys = {
        f"{name}_{branch}"
        for name in ("entropy", "perplexity", "prototypes_used", "information")
        for branch in ("video", "target")
    }
    assert found.keys() == keys | {"ln_k", "cosine_predicted", "cosine_projected"}


def test_information_is_at_most_the_mutual_information():
    """With the best prediction, the conditional shares, it is the mutual information of tokens and codes itself."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, (4, 20), generator=generator)  # what a prediction sees of a token: one of three things
    codes = {
        "codes_video": torch.randint(40, (4, 20), generator=generator),
        "codes_target": (tokens + (torch.rand(4, 20, generator=generator) < 0.2)) % 5,
    }

    def loss_of(name, shares_TK):
        return -shares_TK.log()[tokens, codes[name]].mean()

    def conditional_shares(name):
        joint_TK = F.one_hot(tokens.flatten(), 3).double().T @ F.one_hot(codes[name].flatten(), 40).double()
        return joint_TK / joint_TK.sum(dim=1, keepdim=True)

    def found(change):
        losses = {
            "video_loss": loss_of("codes_target", change(conditional_shares("codes_target"))),
            "target_loss": loss_of("codes_video", change(conditional_shares("codes_video"))),
        }
        features = {name: torch.randn(4, 20, 8, generator=generator) for name in ("predicted", "projected")}
        statistics = watch(CollapseDetector(40), {**codes, **losses, **features}, step=0, after_warmup=False)
        return [statistics["information_video"], statistics["information_target"]]

    true = [mutual_info_score(tokens.flatten(), codes[name].flatten()) for name in ("codes_target", "codes_video")]
    assert found(lambda shares: shares) == pytest.approx(true, abs=1e-5)
    worse = found(lambda shares: (shares + 0.01) / (shares + 0.01).sum(dim=1, keepdim=True))
    assert all(bound < best for bound, best in zip(worse, true, strict=True))


@pytest.mark.parametrize("known_at", [None, 30])
def test_a_run_that_does_not_begin_to_learn_is_warned_of_and_not_ended(known_at, caplog):
    """Losses at the entropy of the codes: what a prediction has that is the same for all tokens."""
    detector = CollapseDetector(40, stops=True)
    for step in range(100):
        loss = math.log(40) - (0.7 if step == known_at else 0.1)  # the entropy of the codes is ln 20
        watch(detector, outputs(loss=loss, used=20), step=step, after_warmup=step >= 10)
    steps = [record.getMessage().split(":")[0] for record in caplog.records if "begun to learn" in record.getMessage()]
    assert steps == [f"step {10 + 59 if known_at is None else known_at + 60}"]
    assert not any("collapsed" in record.getMessage() for record in caplog.records)


def test_a_loss_at_chance_is_expected_while_the_targets_are_random(caplog):
    """And is no reason to end a run; few prototypes in use are."""
    detector = CollapseDetector(40, stops=True, held_steps=90)
    for step in range(1, 91):
        watch(detector, outputs(loss=math.log(40)), step=step, after_warmup=step > 10)
    assert not caplog.records
    with pytest.raises(CollapseError, match="step 93: video_loss is no better than guessing"):
        for step in range(91, 99):
            watch(detector, outputs(loss=math.log(40)), step=step, after_warmup=True)
    detector = CollapseDetector(40, stops=True, held_steps=90)
    with pytest.raises(CollapseError, match="few prototypes"):
        for step in range(9):
            watch(detector, outputs(used=3), step=step, after_warmup=True)


def test_one_bad_batch_is_no_warning(caplog):
    detector = CollapseDetector(40)
    for step in range(20):
        loss = math.log(40) if step % 3 else 1.0
        watch(detector, outputs(loss=loss), step=step, after_warmup=True)
    assert not caplog.records


def test_pixels_may_be_alike(caplog):
    watch(CollapseDetector(None, check_cosine=False), outputs(alike=True), step=1, after_warmup=True)
    assert not caplog.records


def test_a_warning_is_not_repeated_while_it_lasts(caplog):
    detector = CollapseDetector(40)
    for step, used in enumerate((3, 3, 30, 3)):
        watch(detector, outputs(used=used), step=step, after_warmup=True)
    steps = [record.getMessage().split(":")[0] for record in caplog.records if "target codes" in record.getMessage()]
    assert steps == ["step 0", "step 3"]


def train(loss_func, frozen=False, steps=120):
    """A tiny model on clips of one texture each, half hidden by noise: the watch's numbers and the loss at the end, and
    by what factor the spread of the projections has changed."""
    torch.manual_seed(0)
    model = create_model(
        "pretrain_videomae_mini_patch8_32",
        target_type="mlp",
        loss_func=loss_func,
        num_frames=4,
        encoder_embed_dim=32,
        encoder_depth=1,
        decoder_depth=1,
        projection_dims=[64],
        decoder_num_classes=16,
        num_prototypes=8,
        sinkhorn_eps=0.03,
    )
    if frozen:
        model.freeze_projection()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    generator = torch.Generator().manual_seed(1)
    textures = torch.randn(8, 3, 2, 8, 8, generator=generator)
    spreads = []
    for _ in range(steps):
        clip = textures[torch.randperm(8, generator=generator)].repeat(1, 1, 2, 4, 4)
        clip = clip + torch.randn(clip.shape, generator=generator)
        mask = torch.rand(8, 32, generator=generator).argsort(dim=1) < 24
        out = model(clip, mask)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        spreads.append(float(out["projected"].detach().flatten(0, 1).std(dim=0).mean()))
    detector = CollapseDetector(8 if loss_func == "SWAV" else None)
    return watch(detector, out, step=steps, after_warmup=True), spreads[-1] / spreads[0], float(out["loss"].detach())


@pytest.mark.slow
def test_regression_onto_a_trained_projection_collapses_and_sinkhorn_does_not(caplog):
    """The trivial solution that the paper sets out to avoid: both networks agree on a constant."""
    found, spread, loss = train("L2")
    assert loss < 5e-3 and spread < 0.2 and found["cosine_projected"] > 0.95  # a splendid loss, for the wrong reason
    assert "projected features are all alike" in caplog.text
    caplog.clear()
    found, spread, loss = train("SWAV")
    assert loss < 0.1 and spread > 2 and found["cosine_projected"] < 0.5
    assert found["prototypes_used_target"] == found["prototypes_used_video"] == 8
    assert not caplog.records
    found, spread, loss = train("L2", frozen=True)  # with a projection that stands still there is nothing to agree on
    assert loss > 0.01 and 0.9 < spread < 1.1 and found["cosine_projected"] < 0.5


def test_in_a_run(data, tmp_path):
    """At log steps the statistics are in log.txt with the losses; the console has the warnings."""
    flags = data.flags(PRETRAIN, tmp_path, print_freq=1)
    finished = run_script(PRETRAIN, *flags)
    assert finished.code == 0, finished.stderr
    rows = records(tmp_path)
    assert len(rows) == 6
    for row in rows:
        assert row["train/ln_k"] == pytest.approx(math.log(12))
        assert 0 < row["train/entropy_target"] <= math.log(12) + 1e-6
        assert 1 <= row["train/prototypes_used_video"] <= 12
        assert -1 <= row["train/cosine_predicted"] <= 1
    warned = re.findall(r"step (\d+): \w+_loss is no better than guessing", finished.stderr)
    assert warned and min(map(int, warned)) >= 5  # an untrained model stands there; the warm-up is over at step 3
