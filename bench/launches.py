"""Operators that a training step launches and the bytes that they move, counted without a GPU.

python bench/launches.py [--tasks TASK ...] [--size SIZE] [--amp bf16] [--json FILE] [--quick]

Runs the real step on the CPU with one clip and counts the operators that torch dispatches, by stage. What only makes a
view of its input, and allocation without a value, launches nothing. Counted as one each: a fused attention and its
backward pass (on a GPU the latter is two or three kernels), and operators on lists of tensors such as the fused
optimizer (a few launches, by the number of tensors). Blocks are not compiled. Bytes are those of all inputs and outputs
of the operators, as if nothing stayed in a cache; without those of Sinkhorn and the loss.

On a GPU Sinkhorn and the loss are other code, with Triton kernels. They are counted in Triton's interpreter, forward
and backward in one process, where Triton is installed, else left out: the column `objective`.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, as some of what follows may do

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common
from bench.common import Cell
from bench.ours import OurStep, one_process
from models.kernels import support
from models.objectives import SwappedClusterPrediction
from models.vit import VARIANTS

_NO_LAUNCH = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::_unsafe_view"}
_NO_LAUNCH |= {"aten::detach", "aten::_local_scalar_dense", "aten::new_empty_strided"}


class Launches(TorchDispatchMode):
    """Counts operators and their bytes; `stage` names what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = "rest"
        self.number: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name
        if not function.is_view and name not in _NO_LAUNCH:
            self.number[self.stage] += 1
            self.operators[name] += 1
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes[self.stage] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


class _Stages:
    """In the place of a step's clock: tells the mode which stage begins."""

    def __init__(self, launches: Launches) -> None:
        self.launches = launches

    def start(self) -> None:
        self.launches.stage = "forward"

    def mark(self, stage: str) -> None:
        self.launches.stage = {"rest": "backward", "backward": "optimizer", "optimizer": "rest"}[stage]


def count(cell: Cell, amp: str, **options: Any) -> Launches:
    """The second step of a model; from then on the optimizer has its state."""
    device = torch.device("cpu")
    batch = common.synthetic_batch(cell, 1, device)  # the teacher takes clip by clip on a CPU
    step = OurStep(cell, world=one_process(device), amp=amp, **options)
    teacher = getattr(step.forward, "teacher", None)
    if teacher is not None:
        for attention in teacher.attentions:
            attention.fused_attn = True
        teacher.attentions = []  # or it would take its unfused form, which is for CPUs alone
    step(batch)
    launches = Launches()
    step.clock = _Stages(launches)  # type: ignore[assignment]
    watched = {"objective": getattr(step.model, "objective", None), "teacher": teacher}
    for stage, module in watched.items():
        if module is not None:
            module.register_forward_pre_hook(lambda *_, s=stage: setattr(launches, "stage", s))
            module.register_forward_hook(lambda *_: setattr(launches, "stage", "forward"))
    with launches:
        step(batch)
    return launches


@contextmanager
def _kernels_counted(launches: Launches) -> Iterator[None]:
    """Let the kernels run on the CPU, in Triton's interpreter, and count as one launch each."""
    from triton.runtime.interpreter import GridExecutor

    run, device_types = GridExecutor.__call__, support.DEVICE_TYPES

    def counted(*args: Any, **kwargs: Any) -> Any:
        launches.number[launches.stage] += 1
        with _disable_current_modes():  # what the interpreter itself does with tensors
            return run(*args, **kwargs)

    GridExecutor.__call__, support.DEVICE_TYPES = counted, (*device_types, "cpu")
    try:
        if not support.use_kernels(torch.device("cpu")):
            raise RuntimeError("the kernels do not run in Triton's interpreter: the warning above says why")
        yield
    finally:
        GridExecutor.__call__, support.DEVICE_TYPES = run, device_types


def objective_launches(*, projection_learns: bool) -> int:
    """Of Sinkhorn and both losses, forward and backward, as on a GPU; sizes do not change it."""
    objective, launches = SwappedClusterPrediction(), Launches()
    predicted, projected = torch.randn(2, 8, 16), torch.randn(2, 8, 16)
    prototypes = torch.randn(24, 16, requires_grad=True)
    predicted.requires_grad_()
    projected.requires_grad_(projection_learns)
    with _kernels_counted(launches):
        objective(predicted, projected, prototypes)["loss"].backward()  # gradients have their memory from here on
        launches.number.clear()
        with launches:
            objective(predicted, projected, prototypes)["loss"].backward()
    return launches.number.total()


def row_of(cell: Cell, amp: str) -> dict[str, Any]:
    """Launches of a step by stage, and its gigabytes with one clip, without the objective's."""
    launches = count(cell, amp)
    stages = {name: launches.number[name] for name in ("teacher", "forward", "backward", "optimizer")}
    if cell.task in ("dino", "mlp") and find_spec("triton") is not None:
        stages["objective"] = objective_launches(projection_learns=cell.task == "mlp")
    moved = sum(size for stage, size in launches.bytes.items() if stage != "objective")
    return {"step": cell.name, **stages, "together": sum(stages.values()), "GB": moved / 1e9}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=common.TASKS, default=list(common.TASKS))
    parser.add_argument("--size", choices=sorted(VARIANTS), help="default: base, or with --quick mini")
    parser.add_argument("--amp", choices=["none", "bf16"], default="bf16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    parser.add_argument("--quick", action="store_true", help="tiny clips; numbers of launches are the same")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    about = common.facts(torch.device("cpu")) | {"amp": options.amp, "clips": 1}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    size = options.size or ("mini" if options.quick else "base")
    rows = [row_of(Cell(task, size, options.quick), options.amp) for task in options.tasks]
    print(common.markdown(rows))
    common.write_json(about, rows, options.json)


if __name__ == "__main__":
    main()
