"""After a signal a run stops at the end of an update, with a checkpoint, and resumes bit for bit."""

import os
import random
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from processes import FINETUNE, PRETRAIN, gloo_world, run_in_processes, run_script, running, script_target
from runs import load, records, same

from datasets.loading.batch import Batch
from engine import evaluation
from engine.checkpointing.files import newest_valid
from engine.distributed.ddp import Backend
from engine.distributed.world import World
from engine.resilience.preemption import (
    EXIT_CODE,
    SAVE_FAILED,
    SIGNALS,
    Preempted,
    PreemptionHandler,
    raise_if_preempted,
    requeue_job,
)

CPU = World(0, 1, 0, torch.device("cpu"))
TIMES = ("step_time", "data_time", "clips_per_second", "memory_gib", "tflops", "mfu")
STATE = ("model", "optimizer", "scaler", "epoch", "step", "best", "rng")


def without_times(folder):
    return [{k: v for k, v in record.items() if not k.endswith(TIMES)} for record in records(folder)]


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, run):
    while run.alive and not condition():
        time.sleep(0.005)


def interrupt(target, folder, rng, *, size):
    """Start, and send one of the signals to one of the ranks at some moment after the first step; what came of it."""
    log = folder / "log.txt"
    lines = log.read_text().count("\n") if log.exists() else 0
    with running(target, size=size) as run:
        wait_for(lambda: log.exists() and log.read_text().count("\n") > lines, run)
        time.sleep(rng.uniform(0, 0.3))
        number, rank = rng.choice(SIGNALS), rng.randrange(size)
        for _ in range(rng.choice((1, 2))):
            if run.processes[rank].is_alive():
                for pid in (*children(run.pids[rank]), run.pids[rank]):  # as from a terminal: loader workers too
                    os.kill(pid, number)
        return number, rank, run.finish()


@pytest.mark.parametrize(
    ("script", "size", "times"),
    [
        pytest.param(PRETRAIN, 1, 8, marks=pytest.mark.slow),
        pytest.param(PRETRAIN, 2, 5, marks=pytest.mark.long),
        pytest.param(FINETUNE, 1, 7, marks=pytest.mark.long),
    ],
)
def test_interrupted_again_and_again_it_ends_as_if_it_had_not_been(script, size, times, data, tmp_path):
    """Twenty signals, at random moments of steps, decoding, validation and saving, to one rank, once or twice."""
    rng = random.Random(f"{script} {size}")
    epochs = {PRETRAIN: 24, FINETUNE: 10}[script]
    changes = {"epochs": epochs, "batch_size": 4 // size, "drop_path": 0.5, "save_ckpt_freq": 5}
    if script == FINETUNE:
        changes |= {"batch_size": 2, "num_sample": 1, "num_workers": 2, "log_dir": tmp_path / "events"}
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    finished = run_script(script, *data.flags(script, straight, **changes), size=size)
    assert all(f.code == 0 for f in (finished if size > 1 else [finished]))
    target = script_target(script, *data.flags(script, cut, **changes))
    seen, step = 0, 0
    for _ in range(times):
        number, rank, ended = interrupt(target, cut, rng, size=size)
        if all(f.code == 0 for f in ended):
            break
        assert [f.code for f in ended] == [EXIT_CODE] * size, (number, rank, [f.stderr[-2000:] for f in ended])
        assert "stopped by SIG" in ended[0].stderr
        newest = load(newest_valid(cut))
        assert newest["step"] > step
        step, seen = newest["step"], seen + 1
    assert seen >= times // 2
    finished = run_script(script, *data.flags(script, cut, **changes), size=size)
    assert all(f.code == 0 for f in (finished if size > 1 else [finished]))
    a, b = (load(folder / f"checkpoint-{epochs - 1}.pth") for folder in (straight, cut))
    for key in STATE:
        assert same(a[key], b[key]), key
    assert without_times(cut) == without_times(straight)
    assert not list(cut.glob("*.tmp"))


def test_a_final_test_that_is_interrupted_is_done_again(data, tmp_path):
    changes = {"epochs": 1, "warmup_epochs": 0}
    script = script_target(FINETUNE, *data.flags(FINETUNE, tmp_path, **changes))
    result = tmp_path / "test.json"

    def interrupted():
        predict_batch = evaluation.predict_batch

        def asked_behind(*args, **kwargs):
            if (tmp_path / "checkpoint-0.pth").exists():  # that is, behind the last validation
                os.kill(os.getpid(), signal.SIGUSR1)
            return predict_batch(*args, **kwargs)

        evaluation.predict_batch = asked_behind
        script()

    (ended,) = run_in_processes(interrupted)
    assert ended.code == EXIT_CODE, ended.stderr[-2000:]
    assert "stopped by SIGUSR1 while testing; the same command tests again" in ended.stderr
    assert (tmp_path / "checkpoint-0.pth").exists() and not result.exists()
    (ended,) = run_in_processes(script)
    assert ended.code == 0 and result.exists(), ended.stderr[-2000:]


def backend_of(world):
    """A backend, and what does an update with it."""
    model = torch.nn.Linear(2, 1)
    backend = Backend(model, torch.optim.SGD(model.parameters(), lr=0.1, fused=True), world=world, amp="none")

    def update():
        backend.backward(backend.model(torch.ones(1, 2)).sum(), update_freq=1)
        backend.step()

    return backend, update


def poll_after_updates(world, posted, *, skipped=(), runs_ahead=False):
    """What a rank is told after each update: `posted` says which rank gets which request in which."""
    backend, update = backend_of(world)
    backend.runs_ahead = runs_ahead
    polled = []
    with PreemptionHandler(world) as handler:
        for step in range(5):
            if step not in skipped:
                update()
            request = posted.get((world.rank, step))
            if request in SIGNALS:
                os.kill(os.getpid(), request)
            polled.append(handler.poll(backend, save_failed=request == SAVE_FAILED))
        polled.append(handler.poll_blocking())
    return polled


def test_a_signal_to_one_rank_stops_all_after_the_same_update():
    assert gloo_world(poll_after_updates, {(1, 1): signal.SIGTERM}) == [[0, 0, 15, 15, 15, 15]] * 2


def test_the_highest_request_holds():
    """Signals and failed saves of several ranks, at once and one after the other; nothing is added up."""
    posted = {(0, 0): signal.SIGINT, (1, 0): signal.SIGINT, (2, 1): signal.SIGUSR1, (0, 1): signal.SIGTERM}
    posted[1, 3] = SAVE_FAILED
    assert gloo_world(poll_after_updates, posted, size=3) == [[0, 2, 15, 15, SAVE_FAILED, SAVE_FAILED]] * 3


def test_a_request_waits_for_an_update_that_is_not_skipped():
    def polled(world):
        return poll_after_updates(world, {(1, 0): signal.SIGTERM}, skipped=(1, 2))

    assert gloo_world(polled) == [[0, 0, 0, 15, 15, 15]] * 2


def test_where_the_host_runs_ahead_the_update_before_is_read():
    """As on a GPU, where the host must not wait for the update that it has just enqueued."""

    def polled(world):
        return poll_after_updates(world, {(1, 1): signal.SIGTERM}, runs_ahead=True)

    assert gloo_world(polled) == [[0, 0, 0, 15, 15, 15]] * 2


def poll_blocking_after_a_signal(world):
    with PreemptionHandler(world) as handler:
        os.kill(os.getpid(), signal.SIGINT if world.rank else signal.SIGUSR1)
        return handler.poll_blocking()


def test_poll_blocking_includes_signals_received_just_now():
    assert gloo_world(poll_blocking_after_a_signal) == [signal.SIGUSR1] * 2


def wait_while_slurm_requeues(world, answer):
    os.environ.update(ONE)
    with PreemptionHandler(world) as handler:
        if world.is_main:
            time.sleep(0.5)
            answer.touch()
        handler.wait_for_requeue(signal.SIGUSR1)
        return answer.exists()


def test_no_rank_exits_before_the_job_is_requeued(tmp_path):
    """srun ends all processes when the first has ended: seen to end the main one's scontrol."""
    assert gloo_world(wait_while_slurm_requeues, tmp_path / "answer") == [True, True]


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in SIGNALS]
    with PreemptionHandler(CPU) as handler:
        backend, _ = backend_of(CPU)
        assert handler.poll(backend) == 0
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert handler.poll(backend) == signal.SIGTERM  # nobody wants the job again, whoever else asked
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_interruptible():
    with PreemptionHandler(CPU) as handler:
        with pytest.raises(Preempted) as request, handler.interruptible():
            raise_if_preempted()
            os.kill(os.getpid(), signal.SIGUSR1)
            raise_if_preempted()
        assert request.value.code == EXIT_CODE and request.value.signum == signal.SIGUSR1
        with pytest.raises(Preempted), handler.interruptible():  # the request came before
            raise AssertionError
        raise_if_preempted()  # outside, signals are only recorded


def evaluate_until_a_signal_to_rank_0(world, in_step):
    """Rank 0 has three batches and is asked to stop in its second, rank 1 has many; batches that were read."""
    read = 0

    def batches():
        nonlocal read
        for number in range(400 if world.rank else 3):
            if not world.rank and number == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
            read += 1
            yield Batch(clip=torch.ones(2, 4), index=torch.tensor([2 * number, 2 * number + 1]), label=torch.ones(2))

    options = {"world": world, "num_videos": 806, "clips_at_once": 2, "scores": torch.sigmoid}
    with PreemptionHandler(world) as handler:
        try:
            with handler.interruptible():
                evaluation.predict(torch.nn.Linear(4, 3), batches(), in_step=in_step, autocast=nullcontext(), **options)
        except Preempted as request:
            return request.code, request.signum, read


@pytest.mark.parametrize("in_step", [False, True])
def test_a_signal_to_one_rank_ends_the_evaluation_of_all(in_step):
    """They agree on it, however many batches each has: a rank that went alone would leave the others a lost peer."""
    first, second = gloo_world(evaluate_until_a_signal_to_rank_0, in_step)
    assert first == (EXIT_CODE, signal.SIGUSR1, 2)
    assert second[:2] == (EXIT_CODE, signal.SIGUSR1) and second[2] < 300


@pytest.mark.slow
def test_a_run_on_two_ranks_that_is_stopped_in_validation(data, tmp_path):
    changes = {"epochs": 1, "warmup_epochs": 0, "batch_size": 2, "num_sample": 1, "mixup": 0, "cutmix": 0}
    script = script_target(FINETUNE, *data.flags(FINETUNE, tmp_path, **changes))

    def interrupted():
        predict_batch = evaluation.predict_batch

        def asked_behind(*args, **kwargs):
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return predict_batch(*args, **kwargs)

        evaluation.predict_batch = asked_behind
        script()

    for ended in run_in_processes(interrupted, size=2):
        assert ended.code == EXIT_CODE and "Traceback" not in ended.stderr, ended.stderr[-2000:]
    assert not (tmp_path / "checkpoint-0.pth").exists() and list(tmp_path.glob("checkpoint-*.pth"))
    for ended in run_in_processes(script, size=2):
        assert ended.code == 0, ended.stderr[-2000:]
    assert (tmp_path / "checkpoint-0.pth").exists() and (tmp_path / "test.json").exists()


ONE = {"SLURM_JOB_ID": "7", "SIGMA_REQUEUE": "1"}
ARRAY = ONE | {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}
USR1, TERM = signal.SIGUSR1, signal.SIGTERM


@pytest.mark.parametrize(
    ("signum", "environment", "called"),
    [
        (USR1, ONE, "requeue 7\n"),
        (USR1, ARRAY, "requeue 5_2\n"),
        (TERM, ONE, None),
        (USR1, {}, None),
        (USR1, ONE | {"SIGMA_REQUEUE": "0"}, None),
        (USR1, {"SLURM_JOB_ID": "7"}, None),
    ],
)
def test_requeue_job(signum, environment, called, tmp_path, monkeypatch):
    """With a program called scontrol that writes down its arguments, and gets the signal with which slurm then ends the
    job; tests/slurm has the real one."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\nkill -TERM $$\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert requeue_job(signum, environment) is (called is not None)
    assert ((tmp_path / "called").read_text() if called else None) == called
    assert (tmp_path / "called").exists() is (called is not None)


def test_failing_requeue_is_loud(tmp_path, monkeypatch, caplog):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho not permitted >&2\nexit 1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert requeue_job(USR1, ONE) is False
    assert "scontrol requeue 7 failed, submit the job again by hand: not permitted" in caplog.text


def test_a_hangup_is_a_request_to_stop_unless_nohup_has_it_ignored():
    before = signal.getsignal(signal.SIGHUP)
    try:
        for ignored in (False, True):
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
            with PreemptionHandler(CPU) as handler:
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(0.01)
                assert handler.local_signal == (0 if ignored else signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_terminal_has_gone_saves_and_resumes(data, tmp_path):
    """The hangup comes, and whatever is written to the terminal from then on is an error."""
    flags = data.flags(PRETRAIN, tmp_path, epochs=400)

    def target():
        controller, terminal = os.openpty()
        os.dup2(terminal, 2)
        os.close(terminal)
        log = PreemptionHandler.poll

        def hang_up(self, *args, **options):
            if self.local_signal == 0 and (tmp_path / "log.txt").exists():
                os.close(controller)
                os.kill(os.getpid(), signal.SIGHUP)
            return log(self, *args, **options)

        PreemptionHandler.poll = hang_up
        script_target(PRETRAIN, *flags)()

    (ended,) = run_in_processes(target)
    assert ended.code == EXIT_CODE, ended.stderr
    assert "stopped by SIGHUP after" in (tmp_path / "console.txt").read_text()
    assert load(newest_valid(tmp_path))["step"] >= 1
