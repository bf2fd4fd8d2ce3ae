"""Makes `tests/golden/deepspeed/`: small checkpoint folders written by the real DeepSpeed, with weights that are known.

Made with deepspeed 0.19.8, torch 2.13.0 (CPU) and Python 3.11, in about 15 s (one minute the first time: DeepSpeed
compiles an operation, so a C++ compiler and ninja must be on PATH). DeepSpeed is not in the project's environment; it
lies beside it (pydantic-core must be the version that pydantic names):

    .venv/bin/pip install --target /tmp/dslib --no-deps deepspeed==0.19.8 ninja==1.13.2 psutil==7.2.2 hjson==3.1.0 \
        msgpack==1.2.4 py-cpuinfo==9.0.0 tqdm==4.70.1 annotated-types==0.8.0 typing-inspection==0.4.5 \
        pydantic==2.14.3 pydantic-core==2.50.4
    PATH=/tmp/dslib/bin:$PATH PYTHONPATH=/tmp/dslib:.:tests DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 .venv/bin/python -m \
        torch.distributed.run --standalone --nproc_per_node 2 tests/golden/make_deepspeed.py tests/golden/deepspeed

In bfloat16 and float16 the float32 master weights are set to `filled(name, shape)` after DeepSpeed has made them of
the rounded model, so that they are not what the model's own tensors hold. The optimizer is plain SGD with a learning
rate of zero: it leaves no moments, which would only make the files larger.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from golden.weights import filled, video
from torch import nn

import sigma_video.compat  # noqa: F401
from models import create_model

EPOCH = 3
ARGS = {"model": "vit_mini_patch4_8", "num_frames": 4, "tubelet_size": 2, "input_size": 8, "opt_betas": [0.9, 0.999]}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FROZEN = "head.bias"
CASES = {  # folder -> ZeRO stage, type, further options of "zero_optimization"
    "zero0_fp32": (0, "fp32", {}),
    "zero0_bf16": (0, "bf16", {}),
    "zero1_fp32": (1, "fp32", {}),
    "zero1_bf16": (1, "bf16", {}),
    "zero2_fp32": (2, "fp32", {"round_robin_gradients": True, "parameter_alignment": True}),
    "zero2_bf16": (2, "bf16", {}),
    "zero2_fp16": (2, "fp16", {}),
    "zero3_fp32": (3, "fp32", {"sub_group_size": 500, "stage3_param_persistence_threshold": 0}),
    "zero3_bf16": (3, "bf16", {}),
}


def tiny_model() -> nn.Module:
    """A classifier, and besides: a frozen parameter, one with two names, one of an odd size, and two buffers."""
    model = create_model("vit_mini_patch4_8", num_classes=3, num_frames=4, embed_dim=8, depth=1, num_heads=2)
    model.register_parameter("odd", nn.Parameter(torch.zeros(7, 3)))  # 21 values: two ranks cannot have the same number
    model.register_buffer("running", torch.zeros(5))
    model.register_buffer("updates", torch.tensor(7))
    model.register_module("twin", nn.Linear(8, 3, bias=False))
    model.twin.weight = model.head.weight
    model.get_parameter(FROZEN).requires_grad = False
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.startswith("twin."):
                tensor.copy_(torch.from_numpy(filled(name, tuple(tensor.shape))))
    return model


def config_of(case: str) -> dict:
    stage, dtype, options = CASES[case]
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, **options},
        "bf16": {"enabled": dtype == "bf16"},
        "fp16": {"enabled": dtype == "fp16"},
        "data_types": {"buffer_dtype": dtype},  # else the position table stays float32, which LayerNorm refuses
    }
    if case == "zero1_bf16":
        config["data_types"]["grad_accum_dtype"] = "fp32"  # DeepSpeed has an optimizer of its own for this
    return config


def make(case: str, folder: Path) -> None:
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    stage, dtype, _ = CASES[case]
    model = tiny_model()
    truth = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for _, p in trained if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for _, p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config_of(case))
    rank = engine.global_rank
    engine.backward(engine(torch.from_numpy(video(rank, 1, 4, 8)).to(DTYPES[dtype])).float().square().sum())
    engine.step()
    for name, parameter in trained if stage > 0 and dtype != "fp32" else []:
        if stage < 3:
            safe_set_full_fp32_param(parameter, truth[name])
        else:  # in stage 3 that function fails for odd sizes
            padded = nn.functional.pad(truth[name].flatten(), (0, truth[name].numel() % 2))
            safe_set_local_fp32_param(parameter, padded.chunk(2)[rank])
    args = argparse.Namespace(**ARGS) if stage in (0, 2) else ARGS
    engine.save_checkpoint(str(folder / case), tag="global_step1", client_state={"epoch": EPOCH, "args": args})
    engine.destroy()
    if rank == 0:
        for script in (folder / case).glob("zero_to_*.py"):  # DeepSpeed's own converters, which it copies there
            script.unlink()


def main() -> None:
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True  # it is only slow, and the files are the same
    for case in CASES:
        make(case, Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
    time.sleep(1)  # gloo's threads end; without it the process now and then aborts


if __name__ == "__main__":
    main()
