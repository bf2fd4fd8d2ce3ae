"""The update: accumulation, clipping, precision, and that a gradient that is not finite changes nothing."""

import copy

import pytest
import torch
from processes import gloo_world
from runs import same
from torch import nn

from engine.distributed.ddp import Backend, autocast, check_amp, set_matmul_precision
from engine.distributed.world import World
from engine.errors import ConfigError, NonFiniteError
from engine.optim import build_optimizer, parameter_groups

CPU = World(0, 1, 0, torch.device("cpu"))


@pytest.mark.parametrize(
    ("device", "amp", "precision"),
    [("cuda", "bf16", "high"), ("cuda", "fp16", "high"), ("cuda", "none", "highest"), ("cpu", "bf16", "highest")],
)
@pytest.mark.parametrize("before", ["high", "highest"])
def test_float32_products_are_tf32_on_a_gpu_with_autocast_only(device, amp, precision, before):
    default = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(before)
        set_matmul_precision(torch.device(device), amp)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(default)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def inputs(seed=1, number=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 6, generator=generator), torch.randn(number, 3, generator=generator)


def backend_of(model, *, opt="adamw", world=CPU, amp="none", lr=0.1, **options):
    groups = parameter_groups(model, weight_decay=0.05)
    optimizer = build_optimizer(groups, opt=opt, lr=lr, betas=(0.9, 0.95), eps=1e-8, momentum=0.9)
    return Backend(model, optimizer, world=world, amp=amp, **options)


def update(backend, x, y, *, update_freq=1):
    """One optimizer step over the batch, in `update_freq` parts; the gradient norm."""
    for number, (part_x, part_y) in enumerate(zip(x.chunk(update_freq), y.chunk(update_freq), strict=True), start=1):
        with backend.accumulating(last=number == update_freq):
            with backend.autocast():
                loss = nn.functional.mse_loss(backend.model(part_x).float(), part_y)
            backend.backward(loss, update_freq=update_freq)
    return backend.step()


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
@pytest.mark.parametrize("update_freq", [2, 4])
def test_accumulation_equals_the_whole_batch(opt, update_freq):
    whole, parts = network(), network()
    a, b = backend_of(whole, opt=opt), backend_of(parts, opt=opt)
    for step in range(3):
        norms = [update(a, *inputs(step)), update(b, *inputs(step), update_freq=update_freq)]
        torch.testing.assert_close(*norms)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_step_equals_torch_s_own(opt):
    """Against a plain, unfused optimizer."""
    ours, theirs = network(), network()
    backend = backend_of(ours, opt=opt)
    groups = parameter_groups(theirs, weight_decay=0.05)
    plain = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-8, foreach=False),
        "sgd": lambda: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, foreach=False),
    }[opt]()
    for step in range(4):
        x, y = inputs(step)
        norm = update(backend, x, y)
        plain.zero_grad()
        nn.functional.mse_loss(theirs(x), y).backward()
        expected = torch.cat([p.grad.flatten() for p in theirs.parameters()]).norm()
        torch.testing.assert_close(norm, expected)
        plain.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_bad_gradient_leaves_weights_and_optimizer_as_they_are(opt, value, steps_before):
    model = network()
    backend = backend_of(model, opt=opt, stop_on_nonfinite=False)
    for step in range(steps_before):
        update(backend, *inputs(step))
        assert backend.last_update_finite and not backend.last_update_skipped()
    x, y = inputs(9)
    y[3, 1] = value  # one element of one sample
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(backend.optimizer.state_dict())
    norm = update(backend, x, y)
    assert not torch.isfinite(norm)
    assert not backend.last_update_finite and backend.last_update_skipped() and backend.num_skipped_updates == 1
    assert same(dict(model.state_dict()), dict(before[0]))
    if steps_before:
        assert same(backend.optimizer.state_dict(), before[1])
    backend.check_finite(2)  # the run is to go on
    # without the bad step it would have gone on in the same way
    other = network()
    straight = backend_of(other, opt=opt)
    for step in range(steps_before):
        update(straight, *inputs(step))
    for b in (backend, straight):
        update(b, *inputs(5))
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert backend.last_update_finite and backend.num_skipped_updates == 1


def test_after_a_bad_update_nothing_moves_until_it_is_noticed():
    """On a GPU the check comes only now and then: the run stops with the weights that it had before."""
    model = network()
    backend = backend_of(model)
    x, y = inputs()
    update(backend, x, y)
    backend.check_finite(0)
    before = copy.deepcopy(backend.training_state())
    update(backend, x * float("nan"), y)
    update(backend, x, y)
    assert backend.last_update_finite and backend.last_update_skipped()
    assert same(dict(backend.training_state()["model"]), dict(before["model"]))
    assert same(backend.training_state()["optimizer"], before["optimizer"])
    with pytest.raises(NonFiniteError, match=r"step 2: .*2 updates.*--lr"):
        backend.check_finite(2)
    backend.load_training_state(before)
    backend.check_finite(2)
    update(backend, x, y)
    assert not same(dict(model.state_dict()), dict(before["model"]))


def test_a_loss_that_is_not_finite_counts_though_its_gradient_is():
    """Also if it is not the last of those that are accumulated."""
    model = network()
    backend = backend_of(model)
    before = copy.deepcopy(model.state_dict())
    x, y = inputs()
    for shift in (float("inf"), 0.0):
        backend.backward(nn.functional.mse_loss(backend.model(x), y) + shift, update_freq=2)
    assert torch.isfinite(backend.step())
    assert not backend.last_update_finite and same(dict(model.state_dict()), dict(before))


class Doubling(torch.autograd.Function):
    """A loss of ordinary size whose scaled gradient is beyond all numbers: what a too large scale does in fp16."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("inf")


def test_what_the_scaler_skips_is_counted_apart():
    """The scaler is the one of fp16 on a GPU; here it works in float32."""
    model = network()
    backend = backend_of(model)
    backend.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    x, y = inputs()
    for fault in (Doubling.apply, lambda loss: loss * float("nan"), lambda loss: loss):
        before = copy.deepcopy(model.state_dict())
        backend.backward(fault(nn.functional.mse_loss(backend.model(x), y)), update_freq=1)
        backend.step()
        seen = (
            bool(backend.last_update_finite),
            backend.last_update_skipped(),
            int(backend.num_skipped_updates),
            backend.pop_scaler_skips(),
        )
        if fault == Doubling.apply:
            assert seen == (True, True, 0, 1) and backend.scaler.get_scale() == 2.0
            backend.check_finite(0)
        else:
            assert seen[1:] == (True, seen[2], 0) and seen[2] > 0  # the stop outlasts the fault
        assert same(dict(model.state_dict()), dict(before))


def test_what_the_scaler_skipped_last_goes_into_a_checkpoint():
    """One between two log steps does not lose what the schedule has not heard of, and a rollback counts it once."""
    backend = backend_of(network())
    backend.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = copy.deepcopy(backend.training_state())
    x, y = inputs()
    backend.backward(Doubling.apply(nn.functional.mse_loss(backend.model(x), y)), update_freq=1)
    backend.step()
    after = copy.deepcopy(backend.training_state())
    backend.load_training_state(before)
    assert backend.pop_scaler_skips() == 0
    backend.load_training_state(after)
    assert backend.pop_scaler_skips() == 1


def bad_on_rank_1(world):
    model = network()
    backend = backend_of(model, world=world)
    before = copy.deepcopy(model.state_dict())
    x, y = inputs(world.rank)
    loss = nn.functional.mse_loss(backend.model(x), y)
    backend.backward(loss + (float("inf") if world.rank == 1 else 0), update_freq=1)  # no gradient tells of it
    backend.step()
    try:
        backend.check_finite(0)
    except NonFiniteError:
        return same(dict(model.state_dict()), dict(before))


def test_all_ranks_stop_together():
    assert gloo_world(bad_on_rank_1) == [True, True]


def accumulated(world, size):
    model = network()
    backend = backend_of(model, world=world, opt="sgd")
    x, y = inputs(number=8)
    for step in range(2):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(step))
        # part k of every rank together are the k-th half of the batch
        own = order.reshape(2, size, -1)[:, world.rank].flatten()
        norm = update(backend, x[own], y[own], update_freq=2)
    return dict(model.state_dict()), norm


def test_accumulation_over_two_ranks():
    expected, expected_norm = accumulated(CPU, 1)
    for weights, norm in gloo_world(accumulated, 2):
        torch.testing.assert_close(weights, expected)
        torch.testing.assert_close(norm, expected_norm)


@pytest.mark.parametrize("clip_grad", [0.01, 1e6])
def test_clipping(clip_grad):
    """SGD's first step shows the gradient it was given: (1 + momentum) * (g + decay * w)."""
    model = network()
    before = copy.deepcopy(model)
    backend = backend_of(model, opt="sgd", clip_grad=clip_grad, lr=1.0)
    x, y = inputs()
    norm = update(backend, x, y)
    nn.functional.mse_loss(before(x), y).backward()
    expected = torch.nn.utils.clip_grad_norm_(before.parameters(), clip_grad)
    torch.testing.assert_close(norm, expected)  # before clipping
    for name, parameter in model.named_parameters():
        old = before.get_parameter(name)
        decay = 0.05 if old.ndim > 1 else 0
        torch.testing.assert_close(parameter, old - 1.9 * (old.grad + decay * old), rtol=1e-4, atol=1e-7)


def test_gradients_are_cleared():
    model = network()
    update(backend_of(model), *inputs())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fp16_needs_a_gpu_and_unknown_precision_is_named():
    with pytest.raises(ConfigError, match="--amp fp16 needs a GPU"):
        backend_of(network(), amp="fp16")
    with pytest.raises(ConfigError, match="--amp fp8"):
        check_amp("fp8", CPU.device)
    assert check_amp("fp16", torch.device("cuda")) == "fp16"


def test_bf16_runs_on_a_cpu_with_float32_weights():
    a, b = network(), network()
    half, full = backend_of(a, amp="bf16", lr=0.01), backend_of(b, lr=0.01)
    with half.autocast():
        assert half.model(inputs()[0]).dtype == torch.bfloat16
    with full.autocast():
        assert full.model(inputs()[0]).dtype == torch.float32
    for step in range(3):
        norms = [update(backend, *inputs(step)) for backend in (half, full)]
        torch.testing.assert_close(*norms, rtol=0.05, atol=0)
    assert all(parameter.dtype == torch.float32 for parameter in a.parameters())
    assert not same(dict(a.state_dict()), dict(b.state_dict()))


def test_autocast_can_be_entered_again():
    """Evaluation uses one object for all its batches."""
    context = autocast(CPU.device, "bf16")
    for _ in range(2):
        with context:
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
