"""The Triton kernels compiled ahead of time: what a GPU would run, without one.

python bench/kernels.py [--capability 80 90] [--prototypes 3000 ...] [--json FILE]

For each kernel: registers of a thread, spilled words, shared memory, instructions in all and in the loop over rows (of
one warp, for one row), and in that loop barriers, bytes of the widest global load and of the widest store. Needs Triton
(which comes with torch for CUDA), whose own assembler and disassembler do the rest; Python's headers and a C compiler
are not needed. Numbers of instructions are no times: a loop may be bound by memory.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # read when a kernel is defined

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench.common import facts, markdown, write_json

CAPABILITIES = (80, 90)  # A100; H100 and H200
PROTOTYPES = (3000, 1001, 16384)
TUBELET = (2, 16, 16)
BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "": 4, "64": 8, "128": 16}


@dataclass(frozen=True)
class Kernel:
    """A kernel, the types of its arguments and the constants that it is compiled for."""

    name: str
    module: str
    function: str
    arguments: Mapping[str, str]  # by name: Triton's type; pointers are aligned to 16 bytes, as torch's are
    constants: Mapping[str, Any]
    warps: int


@dataclass(frozen=True)
class Row:
    """What the disassembly says about a kernel."""

    kernel: str
    capability: int
    prototypes: int | None
    warps: int
    registers: int
    spills: int
    shared_bytes: int
    instructions: int
    loop_instructions: int | None
    loop_barriers: int | None
    load_bytes: int
    store_bytes: int


def row_kernels(prototypes: int) -> list[Kernel]:
    """The kernels over rows of float16 scores, for scores as `prototype_scores` allocates them."""
    from models.kernels.cross_entropy import loss_options
    from models.kernels.rows import empty_rows, row_options

    scores = empty_rows(torch.empty(0), 2, 4, prototypes, dtype=torch.float16)
    head = {"scores_GSK": "*fp16"}
    tail = {"num_samples": "i32", "scale": "fp32"}
    sinkhorn, loss = "models.kernels.sinkhorn", "models.kernels.cross_entropy"
    sums = {**head, "total_GPK": "*fp32", "peak_GPK": "*fp32", **tail}
    marginal = {**head, "log_u_GK": "*fp32", "marginal_GPK": "*fp32", **tail, "log2_e": "fp32"}
    code = {**head, "log_u_GK": "*fp32", "code_GS": "*i64", "num_samples": "i32", "inverse_epsilon": "fp32"}
    error = {
        "scores_SK": "*fp16",
        "code_S": "*i64",
        "loss_P": "*fp32",
        "error_SK": "*fp16",
        **tail,
        "error_scale": "fp32",
    }
    rows = [
        ("first marginals", sinkhorn, "_exponential_kernel", sums, {"WIDE": False}),
        ("first marginals, small epsilon", sinkhorn, "_exponential_kernel", sums, {"WIDE": True}),
        ("marginals", sinkhorn, "_marginal_kernel", marginal, {"ROW_MAXIMUM": False}),
        ("marginals, small epsilon", sinkhorn, "_marginal_kernel", marginal, {"ROW_MAXIMUM": True}),
        ("codes", sinkhorn, "_code_kernel", code, {}),
        ("loss", loss, "_loss_kernel", error, {"ROW_MAXIMUM": False, "WRITE_ERROR": False}),
        ("loss and error", loss, "_loss_kernel", error, {"ROW_MAXIMUM": False, "WRITE_ERROR": True}),
    ]
    kernels = []
    for name, module, function, arguments, own in rows:
        constants: dict[str, Any] = dict((loss_options if module == loss else row_options)(scores))
        warps, _ = constants.pop("num_warps"), constants.pop("enable_fp_fusion")
        kernels.append(Kernel(name, module, function, arguments, {**constants, **own}, warps))
    return kernels


def pixel_kernel(tubelet: tuple[int, int, int] = TUBELET) -> Kernel:
    """The pixel targets of contiguous clips of 16 x 224 x 224."""
    pointers = {"clip_BCTHW": "*fp32", "index_BM": "*i64", "mean_C": "*fp32", "std_C": "*fp32", "out": "*fp32"}
    strides = {f"stride_{axis}": "i32" for axis in "bcth"}
    pt, ph, pw = tubelet
    constants = {"stride_w": 1, "t": 16 // pt, "h": 224 // ph, "w": 224 // pw, "pt": pt, "ph": ph, "pw": pw}
    constants |= {"NORMALIZE": True, "BLOCK": pt * ph * pw}
    arguments = {**pointers, "num_masked": "i32", **strides}
    return Kernel("pixel targets", "models.kernels.pixels", "_pixel_kernel", arguments, constants, 4)


def compile_kernel(kernel: Kernel, capability: int) -> bytes:
    """The machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(kernel.module), kernel.function)
    place = {name: i for i, name in enumerate(function.arg_names)}
    aligned = [n for n, kind in kernel.arguments.items() if kind.startswith("*") or n.startswith("stride")]
    source = ASTSource(
        fn=function,
        signature={n: kernel.arguments.get(n, "constexpr") for n in function.arg_names},
        constexprs={(place[name],): value for name, value in kernel.constants.items()},
        attrs={(place[name],): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": kernel.warps, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return compiled.asm["cubin"]


def tool(name: str) -> Path:
    """A program of NVIDIA's that Triton brings along."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def run(name: str, *arguments: str | Path) -> str:
    command = [str(tool(name)), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def examine(kernel: Kernel, capability: int) -> Row:
    """Compile, disassemble and count."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compile_kernel(kernel, capability))
        usage = run("cuobjdump", "--dump-resource-usage", file)
        code = disassembly(run("nvdisasm", "--print-code", file))
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    loop = longest_loop(code)
    body = [word for _, word in (code if loop is None else code[loop])]
    return Row(
        kernel=kernel.name,
        capability=capability,
        prototypes=kernel.constants.get("num_prototypes"),
        warps=kernel.warps,
        registers=used["REG"],
        spills=sum(word.startswith(("LDL", "STL")) for _, word in code),
        shared_bytes=used["SHARED"],
        instructions=len(code),
        loop_instructions=None if loop is None else len(body),
        loop_barriers=None if loop is None else sum(word.startswith("BAR.SYNC") for word in body),
        load_bytes=widest(body, "LDG"),
        store_bytes=widest(body, "STG"),
    )


def disassembly(text: str) -> list[tuple[str, str]]:
    """Instructions in order, each with the label in front of it if there is one; without padding and predicates."""
    code, label = [], ""
    for line in text.splitlines():
        if found := re.match(r"\s*(\.L_\w+):", line):
            label = found[1]
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S[^;]*);", line):
            code.append((label, found[1].strip()))
            label = ""
    while code and code[-1][1].startswith(("NOP", "BRA")):  # after the end: a trap, and up to a whole line of the cache
        code.pop()
    return code


def longest_loop(code: Sequence[tuple[str, str]]) -> slice | None:
    """From the target of a backward branch to the branch."""
    at = {label: i for i, (label, _) in enumerate(code) if label}
    loops = []
    for i, (_, word) in enumerate(code):
        target = re.search(r"\.L_\w+", word) if word.startswith("BRA") else None
        if target and at.get(target[0], i + 1) <= i:
            loops.append(slice(at[target[0]], i + 1))
    return max(loops, key=lambda loop: loop.stop - loop.start, default=None)


def widest(body: Sequence[str], name: str) -> int:
    """Bytes of a thread's widest access to global memory."""
    sizes = [0]
    for word in body:
        if word.startswith(f"{name}."):
            marks = word.split()[0].split(".")
            sizes.append(max(BYTES.get(mark, 0) for mark in marks) or BYTES[""])
    return max(sizes)


def measure(kernels: Sequence[Kernel], capabilities: Sequence[int]) -> list[Row]:
    return [examine(kernel, capability) for capability in capabilities for kernel in kernels]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--capability", type=int, nargs="+", default=CAPABILITIES, help="90: Hopper; 80: A100")
    parser.add_argument("--prototypes", type=int, nargs="+", default=PROTOTYPES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("triton") is None:
        parser.error("Triton is not installed: pip install triton")
    kernels = [kernel for prototypes in options.prototypes for kernel in row_kernels(prototypes)] + [pixel_kernel()]
    rows = [asdict(row) for row in measure(kernels, options.capability)]
    about = facts(torch.device("cpu"))
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(markdown(rows))
    write_json(about, rows, options.json)


if __name__ == "__main__":
    main()
