"""A small kernel that shows whether Triton can compile and launch at all."""

import torch
import triton
import triton.language as tl


@triton.jit
def _probe_kernel(values, total, BLOCK: tl.constexpr):
    value = tl.load(values + tl.arange(0, BLOCK)).to(tl.float32)
    tl.store(total, tl.sum(tl.exp2(value), axis=0))


def probe(device: torch.device) -> None:
    """Compile the kernel, launch it and read its result. Raises what Triton raises, or RuntimeError."""
    total = torch.zeros(1, device=device)
    if device.type == "cuda":
        with torch.cuda.device(device):  # the launch is on the current device
            _probe_kernel[(1,)](torch.ones(256, dtype=torch.float16, device=device), total, BLOCK=256)
    else:
        _probe_kernel[(1,)](torch.ones(256, dtype=torch.float16, device=device), total, BLOCK=256)
    if total.item() != 512:
        raise RuntimeError(f"a Triton kernel computed {total.item()} instead of 512")
