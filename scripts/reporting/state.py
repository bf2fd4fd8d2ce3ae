"""What a run is doing, from the files in its folder. Imports no torch."""

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

from engine.resilience.holder import NAME, STALE_AFTER, process_space, process_start, read_holder

from .run_folder import CONSOLE, LOG, RECORD, RESULTS, Run

TRAINING, TESTING, FINISHED, INTERRUPTED, FAILED = "training", "testing", "finished", "interrupted", "failed"
RECENT = 20  # log lines that the speed is taken from
_TAIL = 1 << 14  # bytes
_STOPPED = re.compile(r"stopped by (\S+) ")


@dataclass(frozen=True)
class State:
    """Attributes:
    kind: one of the names above.
    why: more words about it, or "".
    seconds_left: of training, at the recent speed; None if it does not train, or this is not known.
    written_at: when the run last wrote something, in seconds since 1970.
    """

    kind: str
    why: str
    seconds_left: float | None
    written_at: float


def state_of(run: Run) -> State:
    """The state of a run now."""
    kind, why = _kind(run)
    times = [_modified(run.folder / name) for name in (LOG, RECORD, RESULTS, CONSOLE)]
    return State(kind, why, seconds_left(run) if kind == TRAINING else None, max(times))


def _kind(run: Run) -> tuple[str, str]:
    is_trained = run.total_steps is not None and run.step >= run.total_steps
    if is_running(run.folder):
        return (TESTING if is_trained else TRAINING), ""
    only_tested = not run.records and run.result is not None
    if only_tested or (is_trained and (run.is_pretraining or run.result is not None)):
        return FINISHED, ""
    if stopped := _last_stop(run.folder / CONSOLE):
        return INTERRUPTED, f"by {stopped}"
    reports = sorted(run.folder.glob("nonfinite-step*.json"), key=_modified)
    if reports and _modified(reports[-1]) >= _modified(run.folder / LOG):
        return FAILED, f"NaN or Inf, see {reports[-1].name}"
    if holder := read_holder(run.folder / NAME):
        was_copied = holder["folder"] != run.folder.stat().st_ino
        return (INTERRUPTED, "copied while it ran") if was_copied else (FAILED, "its process is gone")
    return FAILED, "ended by an error"


def is_running(folder: Path) -> bool:
    """Whether the process that holds the folder's lock runs.

    One of this machine is looked up; one elsewhere counts as running while it goes on writing its count, by this
    machine's clock.
    """
    holder = read_holder(folder / NAME)
    if not holder or holder["folder"] != folder.stat().st_ino:  # a lock that was copied with its folder
        return False
    if (holder["host"], holder["space"]) == (platform.node(), process_space()):
        return process_start(holder["pid"]) == holder["process_start"]
    return time.time() - _modified(folder / NAME) < STALE_AFTER


def seconds_left(run: Run) -> float | None:
    """Time of the steps that are left, without validation and saving."""
    recent = [value for _, value in run.values("train/step_time")[-RECENT:] if value is not None]
    if run.total_steps is None or not recent:
        return None
    return max(run.total_steps - run.step, 0) * sum(recent) / len(recent)


def _last_stop(console: Path) -> str:
    """The signal that ended the last start, '' if none did."""
    try:
        with console.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _TAIL, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    found = [_STOPPED.search(line) for line in lines[-3:]]  # lines about slurm may follow
    return next((match[1] for match in found if match), "")


def _modified(file: Path) -> float:
    """When a file was last written; 0 if it is not there."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def age(seconds: float) -> str:
    """A time span in its largest unit: "40 s", "5 min", "3 h", "2 d"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def clock(seconds: float | None) -> str:
    """h:mm:ss; "" for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
