"""Use of the devices: which peak belongs to a device, and what is made of clips per second."""

import pytest
import torch

from engine.distributed.world import World
from engine.monitoring.device_peaks import PEAK_TFLOPS, TERA, ModelFlops, device_peak_flops, model_flops
from engine.monitoring.metrics import Meter


@pytest.mark.parametrize(
    ("name", "fp16", "bf16", "fp32"),
    [
        ("Tesla V100-SXM2-32GB", 125, None, 15.7),
        ("Tesla V100-PCIE-16GB", 112, None, 14),
        ("NVIDIA A100-SXM4-80GB", 312, 312, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 312, 19.5),
        ("NVIDIA RTX A6000", 154.8, 154.8, 38.7),
        ("NVIDIA GeForce RTX 4090", 165.2, 165.2, 82.6),
        ("NVIDIA L40S", 362, 362, 91.6),
        ("NVIDIA H100 80GB HBM3", 989.4, 989.4, 66.9),
        ("NVIDIA H100 PCIe", 756, 756, 51),
        ("NVIDIA H200", 989.4, 989.4, 66.9),
        ("NVIDIA B200", 2250, 2250, 75),
    ],
)
def test_known_devices(name, fp16, bf16, fp32):
    for amp, tera in (("fp16", fp16), ("bf16", bf16), ("none", fp32)):
        assert device_peak_flops(name, amp) == (None if tera is None else tera * TERA)


@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        "",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
    ],
)
def test_unknown_devices_have_no_peak(name):
    """A name that only begins like a known one is another device, or a part of it."""
    assert all(device_peak_flops(name, amp) is None for amp in ("fp16", "bf16", "none"))


def test_rows_of_the_table():
    """Half precision is at least twice as fast as single; where there is bf16 it is as fast as fp16."""
    assert all(fp16 >= 2 * fp32 and bf16 in (None, fp16) for _, fp16, bf16, fp32 in PEAK_TFLOPS)


def test_rates():
    """Worked out by hand: SIGMA-DINO ViT-B, 506.8 GFLOP a clip, at 779 clips/s for a GPU."""
    flops = ModelFlops(506.8e9, num_devices=8, peak_flops=790 * TERA)
    rates = flops.throughput(8 * 779.0)
    assert rates["mfu"] == pytest.approx(0.50, abs=0.001)
    assert rates["tflops"] == pytest.approx(394.8, abs=0.1)
    assert ModelFlops(506.8e9, num_devices=8, peak_flops=None).throughput(8 * 779.0) == {"tflops": rates["tflops"]}


def test_a_cpu_has_no_utilisation(caplog):
    flops = model_flops(2e12, world=World(0, 2, 0, torch.device("cpu")), amp="none")
    assert flops == ModelFlops(2e12, 2, None)
    for known in (flops, ModelFlops(2e12, 2, 1e15)):
        caplog.clear()
        with caplog.at_level("INFO"):
            m = Meter(prefix="train", log_every=1, total_steps=2, clips_per_step=8, flops=known)
            m.add_step({"loss": torch.tensor(1.0)})
            record = m.report(m.end_interval(), {"loss": 1.0}, step=0, epoch=0, lr=0.1, settings={}, diagnostics={})
        assert record["train/tflops"] == pytest.approx(record["train/clips_per_second"] * 2 / 2)
        assert ("train/mfu" in record) == ("MFU" in caplog.text) == (known is not flops)
