"""The training step: this project, the released code and Hugging Face's model, alternating in one process.

python bench/step.py [--tasks dino mlp pixel finetune] [--sizes small base] [--amp none bf16] [--baseline] [--hf]
                     [--compile] [--no_compile] [--batch B] [--rounds R] [--device cpu] [--json FILE] [--rows FILE]
                     [--quick]

Clips are random numbers on the device; the image teacher has random weights. Times are medians: CPU seconds of one
thread on a CPU, seconds of the stream on a GPU. "% of GEMM peak" compares the step's FLOP/s with those of large matrix
multiplications in the same run and dtype, "MFU, %" with the GPU's data sheet (device_peaks.py); only the FLOPs that the
step needs are counted (bench/common.py).

--compile: with compiled blocks; --no_compile: without, as when neither is given; both: both. What training does by
default plays no part here. An implementation or a cell that fails, for want of memory or otherwise, has a row that says
so, and the others are measured.

--baseline: bench/released.py. On a CPU it is in float32 whatever --amp says, because the released code's autocast is
for GPUs; on a GPU it has the autocast of --amp, without fp16's loss scaler. If it runs out of memory, its batch is
halved; compare clips per second.
--hf: transformers' VideoMAEForPreTraining, for pixels: with both attention implementations and default AdamW.
"""

import argparse
import copy
import functools
import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common, released
from bench.common import Cell, Clock
from bench.ours import DROP_PATH, OurStep, build_model, one_process, teacher_network
from engine.monitoring.device_peaks import device_peak_flops
from engine.optim import parameter_groups
from models.vit import VARIANTS

HF_ATTENTION = ("eager", "sdpa")
CROWDED = 0.6  # of a GPU's memory
Failures = dict[str, str]  # by implementation


@dataclass(frozen=True)
class Comparison:
    """What is compared in a cell, and how often."""

    amp: tuple[str, ...]
    clips: int
    rounds: int
    warm_up: int
    baseline: bool = False
    hf: bool = False
    compiled: tuple[bool, ...] = (False,)


def released_step(cell: Cell, device: torch.device, amp: str, drop_path: float = DROP_PATH) -> released.ReleasedStep:
    """The baseline, with the initial weights of our model."""
    ours = build_model(cell)
    model: torch.nn.Module
    if cell.task == "finetune":
        model = released.Classification(cell, common.NUM_CLASSES, drop_path)
    else:
        prototypes = None if ours.prototypes is None else ours.prototypes.data
        out_dim = ours.decoder.head.out_features
        model = released.Pretraining(cell, copy.deepcopy(ours.head), prototypes, out_dim)
    model.load_state_dict(ours.state_dict())
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.75 if cell.task == "finetune" else 1.0)
    optimizer = torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.95))
    teacher = teacher_network(cell).to(device) if cell.task == "dino" else None
    amp = amp if device.type == "cuda" else "none"
    return released.ReleasedStep(cell, model.train(), optimizer, device=device, amp=amp, teacher=teacher)


def hf_step(cell: Cell, batch: Any, device: torch.device, amp: str, attention: str) -> Callable[[Clock], None]:
    """A step of transformers' model of the same size, with pixels normalised per tubelet as targets."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    sizes = VARIANTS[cell.size]
    config = VideoMAEConfig(
        image_size=cell.img_size,
        patch_size=cell.tubelet[1],
        num_frames=cell.num_frames,
        tubelet_size=cell.tubelet[0],
        hidden_size=sizes.embed_dim,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.num_heads,
        intermediate_size=4 * sizes.embed_dim,
        decoder_hidden_size=sizes.decoder_embed_dim,
        decoder_num_attention_heads=sizes.decoder_num_heads,
        decoder_num_hidden_layers=4,
        decoder_intermediate_size=4 * sizes.decoder_embed_dim,
        attn_implementation=attention,
    )
    model = VideoMAEForPreTraining(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    clip, mask = batch.clip.transpose(1, 2), batch.mask.to(device)

    def step(clock: Clock) -> None:
        with common.autocast(device, amp):
            loss = model(clip, bool_masked_pos=mask).loss
        clock.mark("forward")
        optimizer.zero_grad()
        loss.backward()
        clock.mark("backward")
        optimizer.step()
        clock.mark("optimizer")

    return step


class Measured:
    """One implementation of the step, warmed up; its memory is measured apart from what the others hold."""

    def __init__(self, make: Callable[[], Callable[[], Clock]], device: torch.device, clips: int, warm_up: int) -> None:
        self.device, self.clips, self.peak = device, clips, 0
        before = self._allocated()
        self.run = make()
        for _ in range(warm_up):
            self.run()
        self.own = self._allocated() - before

    def __call__(self) -> dict[str, float]:
        if self.device.type == "cuda":
            self._make_room()
        others = self._allocated() - self.own
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        stages = self.run().stages()
        if self.device.type == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated() - others)
        return stages

    def _make_room(self) -> None:
        """Where the memory that all keep for their next step fills the GPU, give it back, and let a step take it anew.

        Else the timed step would do so, in the middle.
        """
        if torch.cuda.memory_reserved() > CROWDED * torch.cuda.get_device_properties(self.device).total_memory:
            torch.cuda.empty_cache()
            self.run()

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0


def implementations_of(
    cell: Cell, comparison: Comparison, device: torch.device
) -> tuple[dict[str, Measured], Failures]:
    """Everything that is compared in a cell, by name. All train on one batch: its memory is nobody's own."""
    batch = common.synthetic_batch(cell, comparison.clips, device)
    steps: dict[str, Callable[[], Callable[[], Clock]]] = {}
    for amp in comparison.amp:
        if comparison.hf and cell.task == "pixel":
            for attention in HF_ATTENTION:
                steps[f"transformers, {attention}, {amp}"] = functools.partial(
                    timed_hf, cell, batch, device, amp, attention
                )
        for compiled in comparison.compiled:
            steps[f"ours{', compiled' if compiled else ''}, {amp}"] = functools.partial(
                timed_ours, cell, batch, device, amp, compiled
            )
    makers = {
        name: functools.partial(Measured, step, device, comparison.clips, comparison.warm_up)
        for name, step in steps.items()
    }
    if comparison.baseline:
        makers = {"released": functools.partial(largest_baseline, cell, batch, comparison, device), **makers}
    found: dict[str, Measured] = {}
    failures: Failures = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except RuntimeError as error:  # memory, a compiler, a kernel
            failures[name] = failure(error)
    return found, failures


def failure(error: Exception) -> str:
    """What a row says about it."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def largest_baseline(cell: Cell, batch: Any, comparison: Comparison, device: torch.device) -> Measured:
    """The released code on the batch, halved until it fits into the GPU's memory."""
    clips, amp = comparison.clips, comparison.amp[-1]
    while True:
        part = SimpleNamespace(**{name: values[:clips] for name, values in vars(batch).items()})  # a view
        make = functools.partial(timed_baseline, cell, part, device, amp)
        try:
            return Measured(make, device, clips, comparison.warm_up)
        except torch.OutOfMemoryError:
            if clips == 1:
                raise
            clips //= 2
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def timed_ours(cell: Cell, batch: Any, device: torch.device, amp: str, compiled: bool) -> Callable[[], Clock]:
    step = OurStep(cell, world=one_process(device), amp=amp, compiled=compiled)

    def run() -> Clock:
        step(batch)
        return step.clock

    return run


def timed_baseline(cell: Cell, batch: Any, device: torch.device, amp: str) -> Callable[[], Clock]:
    step, clock = released_step(cell, device, amp), Clock(device)

    def run() -> Clock:
        clock.start()
        step(batch, clock)
        return clock

    return run


def timed_hf(cell: Cell, batch: Any, device: torch.device, amp: str, attention: str) -> Callable[[], Clock]:
    step, clock = hf_step(cell, batch, device, amp, attention), Clock(device)

    def run() -> Clock:
        clock.start()
        step(clock)
        return clock

    return run


def rows_of(cell: Cell, comparison: Comparison, device: torch.device, gemm: dict[str, float]) -> list[dict]:
    """One row per implementation: medians over the rounds. `gemm` is FLOP/s of matrix multiplications, by dtype."""
    measured, failures = implementations_of(cell, comparison, device)
    medians = common.alternate(measured, comparison.rounds)
    base = medians.get("released")
    rows = []
    for name, stages in medians.items():
        run, step = measured[name], stages["step"]
        amp = name.rpartition(", ")[2]
        kind = amp if amp in gemm else ("none" if device.type == "cpu" else comparison.amp[-1])  # of the baseline
        peak = device_peak_flops(torch.cuda.get_device_name(device), kind) if device.type == "cuda" else None
        clips_per_second = run.clips / step
        flops = clips_per_second * common.gigaflops(cell) * 1e9
        rows.append(
            {
                "cell": cell.name,
                "implementation": name,
                "clips": run.clips,
                "s / step": step,
                "clips / s": clips_per_second,
                "speed-up": clips_per_second * base["step"] / measured["released"].clips if base else None,
                "% of GEMM peak": 100 * flops / gemm[kind],
                "MFU, %": 100 * flops / peak if peak else None,
                "GiB": run.peak / 2**30 if run.peak else None,
                "stages, s": {stage: seconds for stage, seconds in stages.items() if stage != "step"},
            }
        )
    return rows + [failed_row(cell, name, reason) for name, reason in failures.items()]


def failed_row(cell: Cell, name: str, reason: str) -> dict:
    return {"cell": cell.name, "implementation": name, "failed": reason}


def cell_rows(cell: Cell, comparison: Comparison, device: torch.device, gemm: dict[str, float]) -> list[dict]:
    """`rows_of`, or the row of a cell that failed as a whole; then the memory is free for the next one."""
    try:
        return rows_of(cell, comparison, device, gemm)
    except RuntimeError as error:
        return [failed_row(cell, "all", failure(error))]
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=common.TASKS, default=list(common.TASKS))
    parser.add_argument("--sizes", nargs="+", choices=sorted(VARIANTS), default=["base", "small"])
    parser.add_argument("--amp", nargs="+", choices=["none", "bf16"], help="default: bf16 on a GPU, none on a CPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="clips per step; default: 64 on a GPU, 2 on a CPU")
    parser.add_argument("--rounds", type=int, help="steps of each implementation; default: 10 on a GPU, 3 on a CPU")
    parser.add_argument("--baseline", action="store_true", help="also the released code")
    parser.add_argument("--hf", action="store_true", help="for pixels also transformers' model")
    parser.add_argument("--compile", action="store_true", help="our step with compiled blocks")
    parser.add_argument("--no_compile", action="store_true", help="our step without them, the default")
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny models, whose numbers mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="append each row there, as JSON lines")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    options.amp = options.amp or ["bf16" if on_gpu else "none"]
    options.batch = options.batch or (64 if on_gpu else 2)
    options.rounds = options.rounds or (10 if on_gpu else 3)
    if options.quick:
        options.sizes = ["mini"]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    about = common.facts(device)
    comparison = Comparison(
        amp=tuple(options.amp),
        clips=options.batch,
        rounds=options.rounds,
        warm_up=3 if device.type == "cuda" else 1,
        baseline=options.baseline,
        hf=options.hf,
        compiled=tuple(way for way in (False, True) if way == options.compile or (options.no_compile and not way)),
    )
    dtypes = {*options.amp, *(["none"] if device.type == "cpu" else [])}
    gemm = {amp: common.gemm_flops(device, amp) for amp in dtypes}
    about |= {f"GEMM peak, TFLOP/s, {amp}": flops / 1e12 for amp, flops in gemm.items()}
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    common.append_rows("step", about, [about], options.rows)
    rows: list[dict] = []
    for size in options.sizes:
        for task in options.tasks:
            found = cell_rows(Cell(task, size, options.quick), comparison, device, gemm)
            print(common.markdown(found), flush=True)
            rows += found
            common.append_rows("step", about, found, options.rows)
            common.write_json(about, rows, options.json)  # now: whatever happens to the next cell
    if failed := [f"{row['cell']}: {row['implementation']}: {row['failed']}" for row in rows if "failed" in row]:
        print("FAILED: " + "; ".join(failed), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
