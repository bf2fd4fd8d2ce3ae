"""Targets, hypotheses, losses and batches of repetition counting, by hand."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets.transforms.normalization import normalize_clips
from evaluation.repetition.anchors import (
    ANCHORS,
    NUM_OUTPUTS,
    anchor_loss,
    anchor_targets,
    best_factors,
    split_outputs,
)
from evaluation.repetition.cycles import (
    State,
    context_frames,
    cycles_within,
    draw_segment,
    draw_state,
    moved,
    neighbour_offsets,
)
from evaluation.repetition.segments import SegmentBatch, gather_clips, letterbox
from evaluation.repetition.training import CountingTask, RepeatedBatches


def test_offsets_by_hand():
    """Cycles of 4, 6 and 8 frames from frame 10. 4 and 6 are alike (2 frames), 6 and 8 too; 8 and 20 are not."""
    following, previous = neighbour_offsets((10, 14, 20, 28, 48))
    assert following[:5].tolist() == [4, 5, 5, 6, 6]  # 14 + 1.5 p - (10 + p), halves upwards: 4, 4.5, 5, 5.5; then 6
    assert following[10:18].tolist() == [-1] * 8 and following[18:].tolist() == [-1] * 21  # 8 before 20; the last
    assert previous[:4].tolist() == [-1] * 4 and previous[4:11].tolist() == [4, 4, 5, 5, 5, 6, 6]
    assert previous[18:].tolist() == [-1] * 21


def test_cycles_that_differ_by_two_frames_or_by_less_than_a_third_are_alike():
    assert neighbour_offsets((0, 3, 8))[0][0] == 3  # 3 and 5: two frames
    assert neighbour_offsets((0, 20, 46))[0][0] == 20  # 20 and 26: 1.3
    assert neighbour_offsets((0, 20, 47))[0][0] == -1  # 1.35 and seven frames


def test_context_is_twice_of_each_cycle():
    """Past 20..29 and the ten frames before it, future 30..39 and the ten behind it."""
    frames = context_frames(State(20, 29, 39), 16)
    assert frames[0] == 10 and frames[7] == 29 and frames[8] == 30 and frames[-1] == 49
    steps = 9.5 + np.arange(8) * 20 / 7
    assert frames[:8].tolist() == np.rint(steps).clip(10, 29).tolist()
    assert context_frames(State(-2, 3, 9), 16)[0] == -8


def test_targets_of_anchors_by_hand():
    """A cycle of 12 frames, offset 11, and a hypothesis of 10: factors 2.4, 1.79, 1.5, 1.2, .96, .8, .6."""
    classes, logs = anchor_targets(11, 10)
    assert classes.tolist() == [0, 1, 1, 1, 1, 1, 1]  # 5 to 12 is under a half
    assert logs[1:] == pytest.approx([math.log(1.2 / anchor) for anchor in ANCHORS[1:]]) and logs[0] == 0
    assert anchor_targets(-1, 10)[0].tolist() == [-1] * 7
    assert anchor_targets(9, 10)[0].tolist() == [1] * 7  # exactly a half is enough


def test_loss_by_hand():
    """Two states; of the first branch of the second nothing is known, of its second branch two anchors are none."""
    torch.manual_seed(0)
    outputs = torch.randn(2, NUM_OUTPUTS)
    classes, logs = torch.ones(2, 2, 7, dtype=torch.int64), torch.randn(2, 2, 7)
    classes[1, 0], classes[1, 1, :2] = -1, 0
    logs[classes != 1] = 0
    raw, expected = outputs.view(2, 2, 7, 3).numpy().astype(float), {"all": 0.0, "positive": 0.0}
    for branch in (0, 1):
        entropy, errors = [], []
        for state, anchor in itertools.product(range(2), range(7)):
            label = int(classes[state, branch, anchor])
            *scores, log = raw[state, branch, anchor]
            if label >= 0:
                entropy.append(math.log(sum(map(math.exp, scores))) - scores[label])
            if label == 1:
                gap = abs(log - float(logs[state, branch, anchor]))
                errors.append(gap**2 / 2 if gap < 1 else gap - 0.5)
        for mean, number in (("all", 14), ("positive", len(errors))):
            expected[mean] += np.mean(entropy) + 50 * sum(errors) / number
    for mean, value in expected.items():
        loss = anchor_loss(split_outputs(outputs), classes, logs, regression_mean=mean)
        assert loss["loss"].item() == pytest.approx(value, rel=1e-5)
        assert loss["loss"].item() == pytest.approx((loss["class_loss"] + loss["offset_loss"]).item())


def test_loss_of_ranks_is_that_of_all_states():
    """Two ranks whose states have different numbers of known anchors: the mean of their losses is the whole one."""
    torch.manual_seed(0)
    outputs, logs = torch.randn(6, 2, 7, 3), torch.randn(6, 2, 7)
    classes = torch.randint(-1, 2, (6, 2, 7))
    for mean in ("all", "positive"):
        whole = anchor_loss(outputs, classes, logs, regression_mean=mean)["loss"]
        shares = [slice(0, 2), slice(2, 6)]
        counts = []
        for share in shares:  # what each would add to the sum
            anchor_loss(outputs[share], classes[share], logs[share], regression_mean=mean, all_reduce=record(counts))
        total = torch.stack(counts).sum(0)
        parts = [
            anchor_loss(
                outputs[share],
                classes[share],
                logs[share],
                regression_mean=mean,
                all_reduce=lambda _, total=total: total.clone(),
                num_ranks=2,
            )["loss"]
            for share in shares
        ]
        assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-5)


def record(seen):
    def all_reduce(tensor):
        seen.append(tensor.clone())
        return tensor

    return all_reduce


def test_nothing_to_learn_is_no_loss():
    outputs = torch.randn(2, 2, 7, 3, requires_grad=True)
    nothing = torch.full((2, 2, 7), -1)
    loss = anchor_loss(outputs, nothing, torch.zeros(2, 2, 7), regression_mean="positive")["loss"]
    loss.backward()
    assert loss.item() == 0 and outputs.grad.eq(0).all()


def test_factors_are_those_of_the_most_confident_anchor():
    outputs = np.zeros((1, 2, 7, 3))
    outputs[0, 0, 5, :2] = -1, 3  # 1.5
    outputs[0, 1, :, 1] = -9
    outputs[0, 1, 0, 1] = 1  # 0.5
    outputs[0, 0, 5, 2], outputs[0, 1, 0, 2] = 0.3, -7
    np.testing.assert_allclose(best_factors(outputs, limit=0.5), [[1.5 * math.exp(0.3), 0.5 * math.exp(-0.5)]])


def test_states_move():
    state = State(20, 29, 39)  # cycles of ten
    assert moved(state, (1.0, 1.0), step=5) == (25, 34, 44)
    assert moved(state, (2.0, 0.5), step=0) == (10, 29, 34)
    assert moved(state, (0.3, 1.0)) is None and moved(state, (1.0, 0.39)) is None  # three frames
    assert moved(state, (0.1, 9.0), most=25) == (26, 29, 54)  # at least 4, at most 25


def test_segments_lie_around_boundaries():
    bounds, rng = (10, 14, 20, 28, 48), np.random.default_rng(0)
    drawn = {draw_segment(bounds, rng, most=300) for _ in range(2000)}
    assert min(first for first, _ in drawn) == 10 and max(last for _, last in drawn) == 48
    assert max(first for first, _ in drawn) == 20 and min(last for _, last in drawn) == 14
    assert all(cycles_within(bounds, first, last) >= 1 for first, last in drawn)
    short = [draw_segment(bounds, rng, most=16) for _ in range(200)]
    assert all(last - first + 1 <= 16 for first, last in short)
    assert cycles_within(bounds, 10, 48) == 4  # counts fit what is left of a segment
    assert cycles_within(bounds, 14, 19) == pytest.approx(1, abs=0.3)


def test_first_hypotheses_lie_in_the_segment():
    rng = np.random.default_rng(0)
    lengths = []
    for offset, frames in itertools.product((-1, 4, 17), (9, 40, 300)):
        for _ in range(300):
            state = draw_state(offset, 3.3, frames, rng)
            assert 0 <= state.left <= state.middle < state.right < frames and state.past == state.future
            lengths.append(state.past / 17) if (offset, frames) == (17, 300) else None
    near = np.array(lengths)
    assert np.mean((near > 0.45) & (near < 2.1)) > 0.3 and near.max() > 4  # around the true length, and any


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_twelfth_of_first_hypotheses_is_a_half_the_whole_or_twice_the_true_length(factor):
    """Give or take a twentieth; of the others, which are spread over all lengths, up to a twentieth lie there too."""
    rng = np.random.default_rng(0)
    past = np.array([draw_state(100, 20.0, 2000, rng).past for _ in range(3000)])
    assert 0.07 < (np.abs(past / 100 - factor) < 0.06).mean() < 0.145


# ------------------------------------------------------------------------------------------------ clips and batches


def test_frames_outside_are_the_mean_colour_after_normalisation():
    """Zeros, and not the mean colour itself, which after normalisation would be another colour."""
    frames = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    clips = gather_clips(frames, torch.tensor([[0, -1, 4]]), torch.device("cpu"))
    assert clips.shape == (1, 3, 3, 4, 4) and clips[:, :, 1].eq(0).all()
    torch.testing.assert_close(clips[0, :, [0, 2]], normalize_clips(frames[None, [0, 4]])[0])


def test_letterbox():
    """320 x 240 to 112: 112 x 84, and 14 black rows above and below."""
    boxed = letterbox(torch.full((2, 3, 240, 320), 200, dtype=torch.uint8), 112)
    assert boxed.shape == (2, 3, 112, 112)
    assert boxed[:, :, :14].eq(0).all() and boxed[:, :, -14:].eq(0).all() and boxed[:, :, 14:-14].eq(200).all()
    assert (
        letterbox(torch.full((1, 3, 50, 20), 9, dtype=torch.uint8), 10)[0, 0, 0].tolist() == [0] * 3 + [9] * 4 + [0] * 3
    )


class Echo(torch.nn.Module):
    """Says what it is told, and remembers the clips."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.clips = outputs, []

    def forward(self, clips):
        self.clips.append(clips)
        return self.outputs.flatten(1).requires_grad_()


def batch_of(lengths, seed=0):
    frames = sum(lengths)
    return SegmentBatch(
        frames=torch.arange(frames, dtype=torch.uint8)[:, None, None, None].expand(frames, 3, 2, 2).clone(),
        following=torch.full((frames,), 9),
        previous=torch.full((frames,), 9),
        lengths=list(lengths),
        counts=[3.0] * len(lengths),
        keys=[(0, place) for place in range(len(lengths))],
        index=torch.arange(len(lengths)),
    )


def test_training_shows_each_segment_its_own_frames_and_moves_on():
    outputs = torch.zeros(2, 2, 7, 3)
    outputs[:, :, 3, 1] = 5  # the length is right
    task, batch = CountingTask(num_frames=8, regression_mean="all", seed=0), batch_of([60, 40])
    batch.states, batch.rngs = [State(20, 29, 39), State(0, 9, 19)], list(map(np.random.default_rng, (1, 2)))
    model = Echo(outputs)
    task(model, batch.to("cpu"))
    shown = model.clips[0][:, 0, :, 0, 0] * 0.229 * 255 + 0.485 * 255
    expected = context_frames(State(20, 29, 39), 8), 60 + context_frames(State(0, 9, 19), 8)
    np.testing.assert_allclose(shown[0], expected[0], atol=0.01)
    inside = context_frames(State(0, 9, 19), 8) >= 0
    np.testing.assert_allclose(shown[1][inside], expected[1][inside], atol=0.01)
    assert model.clips[0][1, :, ~torch.from_numpy(inside)].eq(0).all() and not inside.all()
    steps = [new.middle - old for new, old in zip(batch.states, (29, 9), strict=True)]
    assert 3 <= steps[0] <= 12 and 2 <= steps[1] <= 8  # a twentieth to a fifth of the segment
    assert all(state.past == state.future == 10 for state in batch.states)


def test_targets_are_those_of_the_past_at_the_state_and_of_the_future_behind_it():
    """None where the segment ends."""
    batch = batch_of([60, 40])
    batch.previous, batch.following = torch.arange(5, 105), torch.arange(105, 205)
    batch.states = [State(20, 29, 41), State(30, 39, 49)]
    classes, logs = CountingTask._targets(batch)
    expected = [
        [anchor_targets(5 + 29, 10), anchor_targets(105 + 30, 12)],
        [anchor_targets(5 + 60 + 39, 10), anchor_targets(-1, 10)],
    ]
    assert classes.tolist() == [[branch[0].tolist() for branch in row] for row in expected]
    np.testing.assert_allclose(logs, [[branch[1] for branch in row] for row in expected], rtol=1e-6)


def test_hypotheses_depend_on_seed_and_sample_alone():
    """The same segment has the same hypotheses, whatever else is in its batch."""
    outputs = torch.randn(3, 2, 7, 3, generator=torch.Generator().manual_seed(0))
    task = CountingTask(num_frames=8, regression_mean="all", seed=5)
    together, alone = batch_of([60, 40, 50]), batch_of([60, 40, 50])
    for step in range(20):
        task(Echo(outputs), together)
        assert all(0 <= state.middle < length for state, length in zip(together.states, together.lengths, strict=True))
        if step == 0:
            alone = SegmentBatch(
                frames=alone.frames[60:100],
                following=alone.following[60:100],
                previous=alone.previous[60:100],
                lengths=[40],
                counts=[3.0],
                keys=[(0, 1)],
                index=torch.tensor([1]),
            )
        task(Echo(outputs[1:2]), alone)
        assert alone.states[0] == together.states[1]
    nan = torch.full_like(outputs, torch.nan)
    task(Echo(nan), together)  # --on_nonfinite decides about the loss
    assert all(state.right < length for state, length in zip(together.states, together.lengths, strict=True))


def test_batches_are_repeated_and_resumed():
    sampler = SimpleNamespace(state_dict=lambda steps: {"position": steps}, load_state_dict=lambda state: state)

    class Loader(list):
        pass

    loader = Loader(SimpleNamespace(name=name, failures=["x"]) for name in "abcde")
    loader.sampler = sampler
    batches = RepeatedBatches(loader, times=3, group=2)
    seen = [(batch.name, len(batch.failures)) for batch in batches]
    assert "".join(name for name, _ in seen) == "abababcdcdcd" and len(batches) == 12  # the fifth has no partner
    assert [number for _, number in seen] == [1, 1, 0, 0, 0, 0] * 2
    assert batches.sampler.state_dict(6) == {"position": 2}
