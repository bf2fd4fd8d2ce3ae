"""Collectives of a run, counted as functions of the number of ranks, and what they cost by a stated model.

python bench/scale.py [--ranks 8 128 1024] [--size base] [--flags "--target_type pixel"] [--json FILE] [--quick]

The real entry script trains in this one process, as rank 0 of so many: torch's fake process group takes every
collective and returns at once. Its values are wrong; which collectives there are, with how many bytes, is right. The
backend runs ahead of its values as on a GPU. The loader gives the same clip again and again.

Counted are: the start of a run, an update, one with a log step, one with a checkpoint, the end of an epoch (log step,
means, checkpoint), and the start of a run that resumes. "of objects" are those of pickled objects, two each. "host
waits" are reads of values of the newest update, for which the host waits and then the device; tensors that are in host
memory on any machine do not count. Milliseconds are by the model below, not measured.
"""

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed import fake_pg  # noqa: F401  (registers the backend)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import run_sigma_pretraining as script
from bench import common
from bench.common import Cell
from datasets.loading.batch import Batch
from engine.checkpointing import checkpoint
from engine.distributed import ddp
from engine.distributed.world import World
from engine.flags import parse

STEPS = 6  # updates of an epoch
LOG_EVERY, SAVE_EVERY = 4, 5
# Which update of the epoch, counted from 1, is which; DDP arranges its buckets during the first two.
PHASES = {3: "update", LOG_EVERY: "log step", SAVE_EVERY: "save", STEPS: "end of epoch"}
GPUS_PER_NODE = 8

# The model's assumptions: an H100 or H200 node with NVLink 4, one 400 Gb/s adapter a GPU. Bytes per second that NCCL
# reaches in one direction, and seconds a hop including the kernel's own synchronisation.
NVLINK_BYTES, NVLINK_HOP = 300e9, 2e-6
NETWORK_BYTES, NETWORK_HOP = 40e9, 8e-6
TCP_BYTES, TCP_HOP = 2e9, 40e-6  # gloo, between host processes
TCP_CONNECT = 1e-3  # seconds a connection: a gloo group connects every rank with every other
PICKLE_BYTES = 200e6  # of objects, a second


@dataclass(frozen=True)
class Call:
    """A collective: its bytes on one rank (those that arrive, of a gather), on which transport."""

    name: str
    num_bytes: int
    transport: str = "nccl"  # or gloo
    of_object: bool = False

    def seconds(self, ranks: int) -> float:
        """By the model, [est]: all-reduces go up and down a tree of nodes, all else around a ring of ranks or nodes."""
        nodes, local = math.ceil(ranks / GPUS_PER_NODE), min(ranks, GPUS_PER_NODE)
        bandwidth, hop = (NVLINK_BYTES, NVLINK_HOP) if nodes == 1 else (NETWORK_BYTES, NETWORK_HOP)
        within = (local - 1) * NVLINK_HOP
        if self.transport == "gloo":
            return 2 * (ranks - 1) * TCP_HOP + 2 * self.num_bytes / TCP_BYTES
        if self.name == "new group":
            return ranks * TCP_CONNECT
        if "gather" in self.name:
            seconds = (ranks - 1) * hop + self.num_bytes / bandwidth
        elif "broadcast" in self.name:
            seconds = within + (nodes - 1) * NETWORK_HOP + self.num_bytes / bandwidth
        else:
            seconds = 2 * (within + math.log2(nodes) * NETWORK_HOP) + 2 * self.num_bytes / bandwidth
        return seconds + (self.num_bytes / PICKLE_BYTES if self.of_object else 0)


@dataclass
class Counts:
    """What a phase did."""

    calls: list[Call] = field(default_factory=list)
    host_waits: int = 0


class Recorder(TorchDispatchMode):
    """Records collectives and reads by phase. `host` and what is computed from it alone may be read."""

    READS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::masked_select", "aten::equal")

    def __init__(self) -> None:
        super().__init__()
        self.phases: dict[str, Counts] = {}
        self.phase = "start"
        self.host: dict[int, torch.Tensor] = {}  # by id; kept, so that no other tensor gets it
        self.updates = 0
        self.side_groups: list[Any] = []
        self.transport, self.of_object = "nccl", False

    @property
    def counts(self) -> Counts:
        return self.phases.setdefault(self.phase, Counts())

    def record(self, name: str, tensors: Any) -> None:
        num_bytes = sum(leaf.nbytes for leaf in tree_leaves(tensors) if isinstance(leaf, torch.Tensor))
        self.counts.calls.append(Call(name, num_bytes, self.transport, self.of_object))

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            self.record(function._schema.name.removeprefix("c10d::").strip("_"), args[0])
            return function(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_host = bool(given) and all(id(tensor) in self.host for tensor in given)
        if function._schema.name in self.READS and not on_host:
            self.counts.host_waits += 1
        result = function(*args, **(kwargs or {}))
        if on_host:
            self.is_in_host_memory(*tree_leaves(result))
        return result

    def is_in_host_memory(self, *values: Any) -> None:
        """What may be read."""
        self.host |= {id(value): value for value in values if isinstance(value, torch.Tensor)}


def recording_ddp(recorder: Recorder) -> type[DistributedDataParallel]:
    """DDP whose reductions are recorded: its C++ code cannot pass the fake group's answers through a dispatch mode."""

    class Recording(DistributedDataParallel):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.register_comm_hook(None, hook)

    def hook(_: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        recorder.record("allreduce gradients", bucket.buffer())
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    return Recording


class Loader:
    """The same batch again and again; each one that is asked for begins a phase."""

    def __init__(self, recorder: Recorder, batch: Batch) -> None:
        self.recorder, self.batch = recorder, batch
        self.sampler = mock.Mock(state_dict=lambda batches: {"batches": batches})

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Batch]:
        for step in range(1, STEPS + 1):
            self.recorder.phase = PHASES.get(step, "other")
            yield self.batch


@contextlib.contextmanager
def recorded(recorder: Recorder, loader: Loader) -> Iterator[None]:
    """The entry script with this loader, and everything that the dispatcher does not see."""
    all_reduce, new_group, init = dist.all_reduce, dist.new_group, ddp.Backend.__init__

    def reduced(*args: Any, **kwargs: Any) -> Any:
        recorder.transport = "gloo" if kwargs.get("group") in recorder.side_groups else "nccl"
        try:
            return all_reduce(*args, **kwargs)
        finally:
            recorder.transport = "nccl"

    def grouped(*args: Any, **kwargs: Any) -> Any:
        recorder.record("new group", ())
        recorder.side_groups.append(new_group(backend="fake"))
        return recorder.side_groups[-1]

    def ahead(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.runs_ahead = True

    def of_objects(function: Any) -> Any:
        def marked(*args: Any, **kwargs: Any) -> Any:
            recorder.of_object = True
            try:
                return function(*args, **kwargs)
            finally:
                recorder.of_object = False

        return marked

    patches = [
        mock.patch.object(dist, "all_reduce", reduced),
        mock.patch.object(dist, "new_group", grouped),
        mock.patch.object(ddp, "DistributedDataParallel", recording_ddp(recorder)),
        mock.patch.object(ddp.Backend, "__init__", ahead),
        mock.patch.object(script, "build_train_loader", lambda *_, **__: loader),
        *reads_counted(recorder),
        *(
            mock.patch.object(dist, name, of_objects(getattr(dist, name)))
            for name in ("all_gather_object", "broadcast_object_list", "gather_object")
        ),
    ]
    if hasattr(checkpoint, "gather_to_main"):  # not in older versions of the engine
        patches.append(mock.patch.object(checkpoint, "gather_to_main", of_objects(checkpoint.gather_to_main)))
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def reads_counted(recorder: Recorder) -> list[Any]:
    """Patches under which a read of the newest update counts as a host wait, and what is read is host memory."""
    try:
        from engine.distributed.readout import Readout
    except ImportError:  # an older version of the engine
        return []
    start, read, step = Readout.__init__, Readout.read, ddp.Backend.step

    def started(self: Any, *args: Any) -> None:
        start(self, *args)
        self.born = recorder.updates

    def was_read(self: Any) -> Any:
        recorder.counts.host_waits += self.born == recorder.updates
        values = read(self)
        recorder.is_in_host_memory(*values.values())
        return values

    def stepped(self: Any) -> Any:
        recorder.updates += 1
        return step(self)

    return [
        mock.patch.object(Readout, "__init__", started),
        mock.patch.object(Readout, "read", was_read),
        mock.patch.object(ddp.Backend, "step", stepped),
    ]


def count(ranks: int, cell: Cell, flags: Sequence[str]) -> dict[str, Counts]:
    """Run the entry script, and run it again to resume, as rank 0 of so many; what it did, by phase."""
    recorder = Recorder()
    batch = common.synthetic_batch(cell, 1, torch.device("cpu"))
    loader = Loader(recorder, Batch(batch.clip, index=torch.tensor([0]), mask=batch.mask))
    recorder.is_in_host_memory(batch.mask)
    dist.init_process_group("fake", store=dist.HashStore(), rank=0, world_size=ranks)
    try:
        with tempfile.TemporaryDirectory() as folder, recorded(recorder, loader), recorder:
            for epochs, phase in ((1, "start"), (2, "resume")):
                recorder.phase = phase
                with contextlib.suppress(StopIteration):
                    argv = [*command(Path(folder), cell, epochs), *flags]
                    script.main(parse(script.PretrainingConfig, argv), World(0, ranks, 0, torch.device("cpu")))
                loader.__class__ = Stop  # the resumed run ends with its first batch
    finally:
        dist.destroy_process_group()
    del recorder.phases["other"]
    return recorder.phases


class Stop(Loader):
    """Ends the run."""

    def __iter__(self) -> Iterator[Batch]:
        raise StopIteration


def command(folder: Path, cell: Cell, epochs: int) -> list[str]:
    """The command line of a run over a list of files that nobody opens."""
    videos = folder / "list.csv"
    for number in range(STEPS):
        (folder / f"{number}.mp4").touch()
    videos.write_text("".join(f"{folder}/{number}.mp4\n" for number in range(STEPS)))
    options = {
        "data_path": videos,
        "output_dir": folder / "run",
        "model": cell.model_name,
        "input_size": cell.img_size,
        "num_frames": cell.num_frames,
        "batch_size": 1,
        "epochs": epochs,
        "warmup_epochs": 0,
        "print_freq": LOG_EVERY,
        "save_ckpt_steps": SAVE_EVERY,
        "save_ckpt_freq": 1,
        "stall_timeout": 0,
        "device": "cpu",
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def rows_of(ranks: int, phases: dict[str, Counts]) -> list[dict[str, Any]]:
    """A row a phase: numbers of collectives, bytes of one rank, and the model's milliseconds."""
    rows = []
    for phase in ("start", "update", "log step", "save", "end of epoch", "resume"):
        counts = phases[phase]
        gradients = [call for call in counts.calls if "gradients" in call.name]
        others = [call for call in counts.calls if "gradients" not in call.name]
        gloo = [call for call in others if call.transport == "gloo"]
        rows.append(
            {
                "ranks": ranks,
                "phase": phase,
                "collectives": len(others),
                "of objects": sum(call.of_object for call in others),
                "over gloo": len(gloo),
                "host waits": counts.host_waits,
                "KB": sum(call.num_bytes for call in others) / 1e3,
                "gradients, MB": sum(call.num_bytes for call in gradients) / 1e6,
                "ms [est]": 1e3 * sum(call.seconds(ranks) for call in others),
                "of these gloo": 1e3 * sum(call.seconds(ranks) for call in gloo),
                "gradients, ms [est]": 1e3 * sum(call.seconds(ranks) for call in gradients),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 128, 1024])
    parser.add_argument("--size", default="base", help="of the model")
    parser.add_argument("--flags", default="", help="more flags of run_sigma_pretraining.py, in one word")
    parser.add_argument("--quick", action="store_true", help="a tiny model: the same collectives, other bytes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    options = parser.parse_args(arguments)
    cell = Cell("mlp", "mini" if options.quick else options.size, options.quick)
    about = common.facts(torch.device("cpu")) | {"model": cell.model_name, "flags": options.flags}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    rows: list[dict[str, Any]] = []
    for ranks in options.ranks:
        found = rows_of(ranks, count(ranks, cell, options.flags.split()))
        print(common.markdown(found), flush=True)
        rows += found
        common.write_json(about, rows, options.json)


if __name__ == "__main__":
    main()
