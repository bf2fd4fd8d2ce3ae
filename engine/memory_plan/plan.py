"""What a run needs of a machine's memory, the largest batch that fits, and what would help if its own does not."""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ..config import TrainingConfig
from ..distributed.ddp import check_amp
from ..errors import ConfigError
from ..memory import GIB, Need, memory_of, most_resident
from ..monitoring.metrics import log_table, setup_logging
from .step import ONE_PROCESS, StepMemory

C = TypeVar("C", bound=Any)  # a TrainingConfig with an encoder
logger = logging.getLogger(__name__)

# Of a GPU, beside tensors: the CUDA context with its kernels, libraries' workspaces, blocks that the allocator cannot
# use. Not measured: the context alone takes 0.3 to 0.6 GiB, depending on card and driver.
GPU_RUNTIME = GIB
MORE = 8  # times the run's batch: no larger one is looked for
HOLES = "holes that glibc keeps between tensors; MALLOC_MMAP_THRESHOLD_=1048576 in the environment avoids them"
MOST = 128 * GIB  # of lower bounds: more than any GPU that a step is planned for


def bound(batch: int, unit: int) -> int:
    """The batch beyond which no larger one is looked for."""
    return MORE * max(batch, 2 * unit)


def largest_batch(total: Callable[[int], int], batch: int, *, unit: int, limit: int) -> int:
    """The largest multiple of `unit` clips whose total stays below `limit`, or a few percent less; 0: there is none.

    The total is the largest of several straight lines, one for each moment of a step, hence convex: a straight line
    between two batches overestimates it. Beyond them it has to be asked for, up to `MORE` times the batch: many clips
    of a small model would take long to plan.
    """
    few, many = unit, max(batch, 2 * unit)
    most = bound(batch, unit)
    if total(few) > limit:
        return 0
    while total(many) <= limit:
        slope = (total(many) - total(few)) / (many - few)
        more = int((limit - total(many)) / slope) // unit * unit if slope else many
        if not more or many == most:
            return many
        few, many = many, min(many + more, most)
    while True:
        slope = (total(many) - total(few)) / (many - few)
        more = int((limit - total(few)) / slope) // unit * unit
        if more <= few / 20:
            return few + more
        few += more


@dataclass(frozen=True)
class Planned:
    """The machine that is planned for.

    Attributes:
        on_gpu: else on a CPU.
        capacity, runtime: its memory, and what is taken of it beside the step, in bytes.
        runtime_is: says what that is.
    """

    on_gpu: bool
    capacity: int
    runtime: int
    runtime_is: str


def machine_of(config: TrainingConfig) -> Planned:
    """What `--memory_plan` and `--device` name: a GPU of so many GiB, a CPU, or what is there.

    Raises:
        ConfigError: `--device cuda` without a GPU, and nothing says how large it is.
    """
    run, size = config.run, config.run.planned_gib
    here = torch.cuda.is_available()
    on_gpu = run.device == "cuda" or (run.device == "auto" and (size is not None or here))
    if on_gpu and size is None and not here:
        raise ConfigError("--memory_plan --device cuda: no GPU here; say for how many GiB, as in --memory_plan 8")
    capacity = memory_of(torch.device("cuda" if on_gpu else "cpu")) if size is None else int(size * GIB)
    if on_gpu:
        return Planned(True, capacity, GPU_RUNTIME, "CUDA context, libraries, allocator: assumed")
    return Planned(False, capacity, most_resident(), "Python and its libraries: this process, without loader workers")


def amp_of(config: TrainingConfig, *, on_gpu: bool) -> str:
    """The precision to plan with: fp16 takes as much as bf16, which a CPU has too."""
    amp = config.run.amp or ("bf16" if on_gpu else "none")
    check_amp(amp, torch.device("cuda" if on_gpu else "cpu"))
    return "bf16" if amp == "fp16" else amp


def refuse_absurd(needs: Sequence[Need]) -> None:
    """Raise ConfigError for lower bounds of a run that no device could hold: its estimate would take long itself."""
    total, largest = sum(need.size for need in needs), max(needs, key=lambda need: need.size)
    if total > MOST:
        raise ConfigError(
            f"{largest.flags}: {largest.name}: at least {largest.size / GIB:,.1f} GiB of {total / GIB:,.1f} GiB for "
            f"the run, and --memory_plan is for at most {MOST / GIB:.0f} GiB. Choose less"
        )


def cheaper_runs(config: C, *, on_gpu: bool) -> dict[str, C]:
    """The run with what saves memory and changes nothing else, by flags; the last one has all of it."""
    found: dict[str, C] = {}
    both = config
    if not config.encoder.use_checkpoint:
        found["--use_checkpoint"] = both = replace(config, encoder=replace(config.encoder, use_checkpoint=True))
    if amp_of(config, on_gpu=on_gpu) == "none":
        found["--amp bf16"] = replace(config, run=replace(config.run, amp="bf16"))
        both = replace(both, run=replace(config.run, amp="bf16"))
    return found | ({" ".join(found): both} if len(found) > 1 else {})


def plan_memory(
    config: C,
    estimate: Callable[[C], StepMemory],
    *,
    machine: Planned,
    ahead: int,
    remedies: Mapping[str, C],
    unit: int = 1,
    notes: Iterable[str] = (),
) -> None:
    """Log what a run needs, the largest batch that fits, and, if the run's own does not, what would help.

    Args:
        config: the run.
        estimate: of a run's step.
        machine: that is planned for.
        ahead: bytes that the next batch takes on the device meanwhile, for each of `--batch_size`.
        remedies: the same run with options that save memory, by what they are called, in the order to try them.
        unit: what `--batch_size` has to be a multiple of.
        notes: what is not counted.
    """
    setup_logging(ONE_PROCESS, "")
    batch, limit = config.optim.batch_size, machine.capacity - machine.runtime
    measured = functools.cache(estimate)

    def total(run: C, clips: int) -> int:
        return measured(replace(run, optim=replace(run.optim, batch_size=clips))).total + ahead * clips

    def most(run: C) -> int:
        return largest_batch(functools.partial(total, run), batch, unit=unit, limit=limit)

    step, fitting = measured(config), most(config)
    needed = total(config, batch) + machine.runtime
    parts = {"weights": step.weights, "gradients": step.gradients, "optimizer moments": step.moments}
    parts |= {"batch": step.batch + ahead * batch, "activations": step.activations}
    rows = {name: f"{size / GIB:6.2f} GiB" for name, size in parts.items()}
    rows["runtime"] = f"{machine.runtime / GIB:6.2f} GiB ({machine.runtime_is})"
    rows["total"] = f"{needed / GIB:6.2f} GiB with --batch_size {batch}"
    rows[f"memory of the {'GPU' if machine.on_gpu else 'CPU'}"] = f"{machine.capacity / GIB:6.2f} GiB"
    bounded = " or more" if fitting >= bound(batch, unit) else ""
    rows["largest batch"] = f"--batch_size {fitting}{bounded}" if fitting else f"not even --batch_size {unit} fits"
    log_table("memory plan", rows)
    for note in (*notes, *(() if machine.on_gpu else (HOLES,))):
        logger.info("not counted: %s", note)
    if needed > machine.capacity:
        _log_remedies(config, total, most, remedies=remedies, unit=unit, runtime=machine.runtime)


def _log_remedies(
    config: C,
    total: Callable[[C, int], int],
    most: Callable[[C], int],
    *,
    remedies: Mapping[str, C],
    unit: int,
    runtime: int,
) -> None:
    """What would make the run fit, each with its own estimate."""
    batch, freq = config.optim.batch_size, config.optim.update_freq
    rows = {}
    split = replace(config, optim=replace(config.optim, update_freq=2 * freq))  # gradients wait for the next batch
    fitting = most(split)
    smaller = [n for n in range(unit, min(fitting, batch - 1) + 1, unit) if batch % n == 0]
    if smaller:
        flags = f"--batch_size {smaller[-1]} --update_freq {freq * batch // smaller[-1]}"
        rows[flags] = f"{(total(split, smaller[-1]) + runtime) / GIB:.2f} GiB, the same total batch"
    for flags, run in remedies.items():
        shown = f"largest batch {n}" if (n := most(run)) else "no batch fits"
        rows[flags] = f"{(total(run, batch) + runtime) / GIB:.2f} GiB with --batch_size {batch}; {shown}"
    log_table("it does not fit; what would help", rows)
