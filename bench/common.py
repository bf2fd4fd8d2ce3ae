"""Shared by the benchmarks of the training step: cells, synthetic batches, clocks, reports.

Nothing here needs a video decoder.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

TASKS = ("dino", "mlp", "pixel", "finetune")
NUM_CLASSES = 400
NUM_PROTOTYPES = 3000
MASK_RATIO = 0.9


@dataclass(frozen=True)
class Cell:
    """One row of the tables: task and model size. `quick` is a smoke test with clips of 4 x 32 x 32."""

    task: str
    size: str
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.task} ViT-{self.size}"

    @property
    def model_name(self) -> str:
        kind = "vit" if self.task == "finetune" else "pretrain_videomae"
        return f"{kind}_{self.size}_patch{self.tubelet[1]}_{self.img_size}"

    @property
    def img_size(self) -> int:
        return 32 if self.quick else 224

    @property
    def num_frames(self) -> int:
        return 4 if self.quick else 16

    @property
    def tubelet(self) -> tuple[int, int, int]:
        return (2, 8, 8) if self.quick else (2, 16, 16)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens in time, height and width."""
        side = self.img_size // self.tubelet[1]
        return self.num_frames // self.tubelet[0], side, side

    @property
    def num_masked(self) -> int:
        """M, of a tube mask."""
        slots, height, width = self.grid
        return slots * int(MASK_RATIO * height * width)

    @property
    def teacher(self) -> str:
        return "dino_s" if self.quick else "dino_b"


def synthetic_batch(cell: Cell, clips: int, device: torch.device) -> SimpleNamespace:
    """Random clips, drawn on the device, and labels there; tube masks in host memory, as the loader leaves them."""
    generator = torch.Generator().manual_seed(0)
    slots, height, width = cell.grid
    order = torch.rand(clips, height * width, generator=generator).argsort(dim=1)
    mask = (order < cell.num_masked // slots).repeat(1, slots)
    shape = (clips, 3, cell.num_frames, cell.img_size, cell.img_size)
    drawn = generator if device.type == "cpu" else torch.Generator(device).manual_seed(0)
    return SimpleNamespace(
        clip=torch.randn(shape, generator=drawn, device=device),
        mask=mask.pin_memory() if device.type == "cuda" else mask,
        label=torch.randint(NUM_CLASSES, (clips,), generator=generator).to(device),
    )


def autocast(device: torch.device, amp: str) -> AbstractContextManager[Any]:
    """Low precision for what runs in it, unless `amp` is "none"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bf16")


def gigaflops(cell: Cell, num_prototypes: int = NUM_PROTOTYPES) -> float:
    """GFLOPs that the training step needs for one clip, however it is implemented.

    A transformer block of width d takes 24 d^2 + 4 N d for each of N tokens, a multiply-add as two operations (arXiv
    2204.02311, appendix B). Backward takes twice as much as forward, less the gradients that nothing needs.
    """
    from models.vit import VARIANTS

    sizes = VARIANTS[cell.size]
    slots, height, width = cell.grid
    tokens, masked = slots * height * width, cell.num_masked
    pixels = 3 * cell.tubelet[0] * cell.tubelet[1] ** 2

    def blocks(number: int, depth: int, dim: int) -> float:
        return number * depth * (24 * dim**2 + 4 * number * dim)

    visible = tokens if cell.task == "finetune" else tokens - masked
    encoder = 3 * blocks(visible, sizes.depth, sizes.embed_dim) + 2 * visible * 2 * pixels * sizes.embed_dim
    if cell.task == "finetune":
        return encoder / 1e9
    width_out = {"pixel": pixels, "mlp": 256}.get(cell.task, {"dino_s": 384, "dino_b": 768}[cell.teacher])
    head = masked * 2 * sizes.decoder_embed_dim * width_out
    total = encoder + 3 * (blocks(tokens, 4, sizes.decoder_embed_dim) + head)
    scores = 2 * masked * width_out * num_prototypes
    if cell.task == "dino":
        side = (cell.img_size // 16) ** 2 + 1
        dim = width_out
        total += slots * side * 12 * (24 * dim**2 + 4 * side * dim) + 4 * scores
    if cell.task == "mlp":
        layers = [pixels * 1024, 1024 * 1024, 1024 * 512, 512 * 256]
        total += masked * 2 * (3 * sum(layers) - layers[0]) + 5 * scores
    return total / 1e9


# ---- clocks ----


@dataclass
class Clock:
    """Seconds between marks: CPU time of this process, or time of the CUDA stream, without synchronising it.

    A mark ends the stage that it names.
    """

    device: torch.device
    marks: list[tuple[str, Any]] = field(default_factory=list)

    def start(self) -> None:
        self.marks = [("", self._now())]

    def mark(self, stage: str) -> None:
        if self.marks:  # not before the first start
            self.marks.append((stage, self._now()))

    def watch(self, stage: str, module: nn.Module) -> None:
        """Mark the forward passes of `module`."""
        module.register_forward_pre_hook(lambda *_: self.mark("rest"))
        module.register_forward_hook(lambda *_: self.mark(stage))

    def stages(self) -> dict[str, float]:
        """Seconds by stage since the start, and their sum as "step"."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for (_, before), (stage, after) in zip(self.marks, self.marks[1:], strict=False):
            seconds = before.elapsed_time(after) / 1000 if self.device.type == "cuda" else after - before
            found[stage] = found.get(stage, 0.0) + seconds
        return found | {"step": sum(found.values())}

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def gemm_flops(device: torch.device, amp: str) -> float:
    """FLOP/s of large square matrix multiplications (GEMM): the most that this device reaches."""
    number = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if amp == "bf16" else torch.float32
    a, b = (torch.randn(number, number, device=device, dtype=dtype) for _ in range(2))
    clock, best = Clock(device), float("inf")
    for _ in range(5):
        clock.start()
        a @ b
        clock.mark("gemm")
        best = min(best, clock.stages()["step"])
    return 2 * number**3 / best


def alternate(runs: Mapping[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of what each run measures; every round calls all of them and starts with the next one."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(runs[name]())
    return {
        name: {key: statistics.median(row.get(key, 0.0) for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }


# ---- report ----


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu_state() -> dict[str, str]:
    """Driver, clocks, power and temperature of the first GPU, by nvidia-smi; nothing without it. Changes nothing."""
    asked = ("driver_version", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(asked, answer.strip().split(", "), strict=False))


def facts(device: torch.device) -> dict[str, Any]:
    """Date, machine and versions; of a GPU also driver, clocks and power as they are at this moment."""
    packages = {}
    for package in ("torch", "timm", "transformers", "triton"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "bf16 on the CPU": torch.cpu._is_avx512_bf16_supported(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **packages,
        **({"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()} if device.type == "cuda" else {}),
        **(gpu_state() if device.type == "cuda" else {}),
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with the keys of the first row as its head."""
    if not rows:
        return "(nothing measured)"
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(shown(row.get(key)) for key in head) + " |" for row in rows]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as the tables show it."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(part)}" for key, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_json(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], json_file: Path | None) -> None:
    """Facts and rows, if a file is asked for; whatever ends the process meanwhile, the file is whole."""
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = json_file.with_name(json_file.name + ".tmp")
        unfinished.write_text(json.dumps({"facts": about, "rows": rows}, indent=1) + "\n")
        os.replace(unfinished, json_file)


def append_rows(part: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], file: Path | None) -> None:
    """Rows at the end of a file of JSON lines, if one is asked for; each names part, machine and versions."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        named = {
            key: about[key] for key in ("date", "device", "torch", "CUDA", "cuDNN", "driver_version") if key in about
        }
        with file.open("a") as lines:
            lines.writelines(json.dumps({"part": part, **row, **named}) + "\n" for row in rows)
