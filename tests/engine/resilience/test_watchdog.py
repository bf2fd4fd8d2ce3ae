"""A process that stalls ends with the stacks of its threads, and so do those that wait for it."""

import time
import types

import torch
from processes import run_in_processes

import engine.resilience.watchdog
from engine.distributed.collectives import all_reduce_sum
from engine.distributed.world import distributed
from engine.resilience.watchdog import EXIT_CODE, heartbeat, watchdog


def stall_here():
    time.sleep(600)


def test_a_rank_that_sleeps_ends_all_ranks_with_their_stacks():
    def target():
        with distributed("cpu") as world, watchdog(1.0):
            if world.rank == 1:
                stall_here()
            all_reduce_sum(torch.ones(1))  # waits for the other

    ended = run_in_processes(target, size=2)
    assert ended[1].code == EXIT_CODE
    assert ended[0].code != 0  # its own watchdog's, or gloo's error when the other is gone
    assert "stall_here" in ended[1].stderr and "--stall_timeout" in ended[1].stderr
    assert ended[0].code != EXIT_CODE or "collectives.py" in ended[0].stderr


def test_progress_and_no_watchdog_are_left_alone():
    """By a clock of its own: on a busy machine real seconds pass between two beats."""

    def target():
        now = [time.monotonic()]
        engine.resilience.watchdog.time = types.SimpleNamespace(monotonic=lambda: now[0])
        with watchdog(1.0):
            for _ in range(6):
                now[0] += 0.9
                time.sleep(0.2)  # it looks every 0.1 s
                heartbeat()
        now[0] += 99
        time.sleep(0.3)  # outside
        with watchdog(0):
            now[0] += 99
            time.sleep(0.2)

    (ended,) = run_in_processes(target)
    assert ended.code == 0 and ended.stderr == ""
