"""Model FLOPs utilization (MFU): peak FLOP/s of GPUs, and FLOP/s achieved by training."""

import re
from dataclasses import dataclass

import torch

from ..distributed.world import World

TERA = 1e12
# Peak TFLOP/s by torch.cuda.get_device_name(), for fp16, bf16 (None: not supported in hardware) and fp32. Dense GEMM
# with fp32 accumulation; fp32 without TF32 and tensor cores, as with `--amp none`.
# Sources: NVIDIA's data sheets of V100, T4, A100, A40, A10, RTX A6000, RTX A5000, RTX 6000 Ada, L4, L40, L40S, H100
# (SXM, NVL), H200 (SXM, NVL) and HGX B200; its white papers of GA102 (RTX 3090), Ada (RTX 4090) and H100 (PCIe).
# Numbers given "with sparsity" are halved.
PEAK_TFLOPS: tuple[tuple[str, float, float | None, float], ...] = (
    (r"Tesla V100-SXM2-\d+GB", 125, None, 15.7),
    (r"Tesla V100-PCIE-\d+GB", 112, None, 14),
    (r"(Tesla|NVIDIA) T4", 65, None, 8.1),
    (r"(NVIDIA )?A100-(SXM4|PCIE)-\d+GB|NVIDIA A100 80GB PCIe", 312, 312, 19.5),
    (r"NVIDIA A40", 149.7, 149.7, 37.4),
    (r"NVIDIA A10", 125, 125, 31.2),
    (r"(NVIDIA )?RTX A6000", 154.8, 154.8, 38.7),
    (r"(NVIDIA )?RTX A5000", 111.1, 111.1, 27.8),
    (r"(NVIDIA )?GeForce RTX 3090", 71.2, 71.2, 35.6),
    (r"NVIDIA GeForce RTX 4090", 165.2, 165.2, 82.6),
    (r"NVIDIA RTX 6000 Ada Generation", 364.2, 364.2, 91.1),
    (r"NVIDIA L4", 121, 121, 30.3),
    (r"NVIDIA L40", 181, 181, 90.5),
    (r"NVIDIA L40S", 362, 362, 91.6),
    (r"NVIDIA H100 PCIe", 756, 756, 51),
    (r"NVIDIA H100 NVL|NVIDIA H200 NVL", 835.5, 835.5, 60),
    (r"NVIDIA H100 80GB HBM3|NVIDIA GH200 \d+GB|NVIDIA H200", 989.4, 989.4, 66.9),
    (r"NVIDIA B200", 2250, 2250, 75),
)


def device_peak_flops(device_name: str, amp: str) -> float | None:
    """Peak FLOP/s of a device; None if it is not in the table, such as a CPU or a MIG slice."""
    for pattern, fp16, bf16, fp32 in PEAK_TFLOPS:
        if re.fullmatch(pattern, device_name):
            tera = {"fp16": fp16, "bf16": bf16, "none": fp32}[amp]
            return None if tera is None else tera * TERA
    return None


@dataclass(frozen=True)
class ModelFlops:
    """Converts clips per second into achieved FLOP/s and MFU.

    Attributes:
        flops_per_clip: FLOPs of the forward and backward pass.
        num_devices: data-parallel devices.
        peak_flops: peak FLOP/s of one device, None if unknown.
    """

    flops_per_clip: float
    num_devices: int
    peak_flops: float | None

    def throughput(self, clips_per_second: float) -> dict[str, float]:
        """`tflops`: achieved TFLOP/s per device; `mfu`: fraction of peak FLOP/s (0 to 1), if the peak is known."""
        achieved = self.flops_per_clip * clips_per_second / self.num_devices
        return {"tflops": achieved / TERA} | ({} if self.peak_flops is None else {"mfu": achieved / self.peak_flops})


def model_flops(flops_per_clip: float, *, world: World, amp: str) -> ModelFlops:
    """`ModelFlops` on the devices of this run, which are assumed to be identical."""
    name = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
    return ModelFlops(flops_per_clip, world.size, device_peak_flops(name, amp))
