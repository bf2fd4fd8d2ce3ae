"""The training backend with DeepSpeed ZeRO. DeepSpeed is imported only if `--enable_deepspeed` is given.

Stage 0 replicates everything on every rank, as DDP does; stage 1 shards the optimizer states, stage 2 also the
gradients, stage 3 also the parameters. As with DDP, weights, gradients and reductions are float32 and forward passes
run under torch's autocast: the losses are the same, and so are the checkpoints.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ..errors import ConfigError
from .ddp import Backend
from .world import World

logger = logging.getLogger(__name__)

STAGES = (0, 1, 2, 3)
DEFAULT_STAGE = 1


def load_deepspeed(world: World) -> Any:
    """Import `deepspeed` and initialize it for this process.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("DS_ACCELERATOR", world.device.type)  # otherwise it uses a GPU despite --device cpu
    # srun does not set LOCAL_RANK, which DeepSpeed uses as the index of the GPU.
    os.environ["LOCAL_RANK"] = str(world.local_rank if world.device.index is None else world.device.index)
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            f"--enable_deepspeed: {error}. Install it with `pip install deepspeed`, or leave the flag out: DDP gives "
            "the same results"
        ) from error
    # torch 2.13 warns about functions that DeepSpeed calls, on every rank.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # An op that only CPU inference uses; compiling it takes a minute, a compiler and ninja.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():  # a single process; otherwise DeepSpeed looks for MPI
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed


def deepspeed_config(*, stage: int, amp: str, clip_grad: float | None) -> dict[str, Any]:
    """DeepSpeed configuration of a run; optimizer, batches and gradient accumulation are not DeepSpeed's."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # only used by DeepSpeed's throughput report, which is not printed
        "gradient_accumulation_steps": 1,  # `accumulating` marks the last backward pass
        "gradient_clipping": clip_grad or 0.0,
        "zero_allow_untested_optimizer": True,  # torch's own SGD, which is tested here
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": 50_000_000,  # elements; DeepSpeed's default, ten times as many, takes 2 GB and more
            "allgather_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 10_000,  # elements: norms and biases stay replicated
        },
        # As with DDP: no modules whose gradients are reduced in low precision.
        "torch_autocast": {"enabled": amp == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []},
    }


def zero3_init(*, world: World) -> AbstractContextManager[Any]:
    """Context for building a model for stage 3: every rank keeps only its shard of each layer."""
    config = deepspeed_config(stage=3, amp="none", clip_grad=None)
    return load_deepspeed(world).zero.Init(config_dict_or_path=config)


class DeepSpeedBackend(Backend):
    """`Backend` with DeepSpeed's engine instead of DDP.

    In stages 1 to 3 DeepSpeed synchronizes with the device once per step, to check whether the gradient norm is finite.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        amp: str,
        clip_grad: float | None = None,
        stop_on_nonfinite: bool = True,
        stage: int = DEFAULT_STAGE,
    ) -> None:
        if stage not in STAGES:
            raise ConfigError(f"--zero_stage {stage}: choose from {', '.join(map(str, STAGES))}")
        if amp == "fp16":
            raise ConfigError("--amp fp16 is not for --enable_deepspeed: use --amp bf16 or none, or DDP")
        self.stage = stage
        self.deepspeed = load_deepspeed(world)
        super().__init__(
            model, optimizer, world=world, amp=amp, clip_grad=clip_grad, stop_on_nonfinite=stop_on_nonfinite
        )

    def _wrap(self, model: nn.Module) -> nn.Module:
        numbers = {id(parameter): number for number, parameter in enumerate(self.parameters)}
        self._param_ids = [[numbers[id(p)] for p in group["params"]] for group in self.optimizer.param_groups]
        config = deepspeed_config(stage=self.stage, amp=self.amp, clip_grad=self.clip_grad)
        if self.stage == 3:
            if not any(hasattr(p, "ds_id") for p in model.parameters()):
                self.deepspeed.zero.Init(module=model, config_dict_or_path=config)  # in place, layer by layer
            model.to(self.device)  # moves the buffers, which are not sharded
        self.engine = self.deepspeed.initialize(
            model=model, optimizer=self.optimizer, config=config, dist_init_required=False
        )[0]
        if self.stage > 0:
            self._init_optimizer_state()
        return self.engine

    def _init_optimizer_state(self) -> None:
        """Create the optimizer state of this rank's shard, as its first step would."""
        sharded = self.engine.optimizer
        shards = sharded.fp32_partitioned_groups_flat if self.stage == 3 else sharded.single_partition_of_fp32_groups
        self.optimizer.state.clear()  # SGD's state of the unsharded parameters
        for shard in shards:
            names = ("exp_avg", "exp_avg_sq") if isinstance(self.optimizer, torch.optim.AdamW) else ("momentum_buffer",)
            state = {name: torch.zeros_like(shard, requires_grad=False) for name in names}
            if "exp_avg" in names:
                state["step"] = torch.zeros((), dtype=torch.float32, device=shard.device)
            self.optimizer.state[shard] = state
        self._state_names = names
        if self.stage < 3:
            sharded._lazy_init_hp_params_optimizer_state()  # so that it can be read and set before the first step

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """As with DDP: tells the engine which backward pass is the last."""
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: torch.Tensor, *, update_freq: int) -> None:
        """Accumulate the gradient of loss / update_freq."""
        self._count_if_nonfinite(loss)
        self.engine.backward(loss / update_freq, scale_wrt_gas=False)

    def step(self) -> torch.Tensor:
        """Clip gradients, step, zero gradients. Returns the global gradient norm before clipping, on the device."""
        nonfinite_loss = self._any_nonfinite_loss()
        if self.stage == 0:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            self._decide_skip(nonfinite_loss, norm)
            self._set_found_inf(self._skip_update)
            self.engine.step()
            return norm
        self._set_found_inf(self._must_skip(nonfinite_loss))
        self._refresh_master_weights()
        self.engine.step()  # skips the update by itself if the norm is not finite, on all ranks
        norm = torch.as_tensor(self.engine.get_global_grad_norm(), dtype=torch.float32, device=self.device)
        self._decide_skip(nonfinite_loss, norm)
        return norm

    def _refresh_master_weights(self) -> None:
        """Copy the weights into ZeRO's float32 master copy: the forward pass normalizes `unit_rows` in place."""
        if self.stage == 3:
            for name in getattr(self.module, "unit_rows", set)():
                parameter = self.module.get_parameter(name)
                with self.deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                    parameter.copy_(F.normalize(parameter, dim=-1))
        self.engine.optimizer.refresh_fp32_params()

    def model_state(self) -> dict[str, Any]:
        """Full weights and buffers in float32. Every rank must call it; rank 0 has the result."""
        state = super().model_state()
        if self.stage < 3:
            return state
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            with self.deepspeed.zero.GatheredParameters([parameter]):
                if self.world.is_main:
                    state[name] = parameter.detach().to("cpu", copy=True)
        return state if self.world.is_main else {}

    def training_state(self) -> dict[str, Any]:
        """As of `Backend`; if the states are sharded it is empty on every rank but 0."""
        if self.stage == 0:
            return super().training_state()
        model, moments = self.model_state(), self._gather_optimizer_state()
        if not self.world.is_main:
            return {}
        return {
            "model": model,
            "optimizer": {"state": moments, "param_groups": self._param_groups()},
            "scaler": self._scaler_state(),
        }

    def _gather_optimizer_state(self) -> dict[int, dict[str, torch.Tensor]]:
        """Unsharded optimizer state by parameter id, in host memory; gathers one parameter at a time."""
        moments: dict[int, dict[str, torch.Tensor]] = {}
        shard = next(iter(self.optimizer.state.values()))  # the step is the same in all shards
        for number, parameter in enumerate(self.parameters):
            moments[number] = {"step": shard["step"].to("cpu", copy=True)} if "step" in shard else {}
            for name in self._state_names:
                whole = self.deepspeed.utils.safe_get_full_optimizer_state(parameter, name)
                if self.world.is_main:
                    moments[number][name] = whole.to("cpu", copy=True)
        return moments

    def _param_groups(self) -> list[dict[str, Any]]:
        if self.stage == 0:
            return super()._param_groups()
        groups = zip(self.optimizer.param_groups, self._param_ids, strict=True)
        return [{**group, "params": list(numbers)} for group, numbers in groups]

    def _load_model(self, state: Mapping[str, torch.Tensor]) -> None:
        if self.stage < 3:
            super()._load_model(state)
        else:
            self._load_sharded_model(state)
        if self.stage > 0:
            self.engine.optimizer.refresh_fp32_params()

    def _load_sharded_model(self, state: Mapping[str, torch.Tensor]) -> None:
        own = self.module.state_dict()
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        shapes = {
            name: tuple(getattr(parameters.get(name, value), "ds_shape", value.shape)) for name, value in own.items()
        }
        wrong = sorted(shapes.keys() ^ state.keys())
        wrong += [name for name in shapes.keys() & state.keys() if shapes[name] != tuple(state[name].shape)]
        if wrong:
            raise RuntimeError(f"missing or unexpected keys, or size mismatch: {', '.join(wrong)}")
        for name, value in own.items():
            if name not in parameters:
                value.copy_(state[name])
                continue
            with self.deepspeed.zero.GatheredParameters([parameters[name]], modifier_rank=0), torch.no_grad():
                parameters[name].copy_(state[name])

    def _load_optimizer_state(self, saved: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
        if self.stage == 0:
            super()._load_optimizer_state(saved, groups)
            return
        for number, state in saved["state"].items():
            for name in self._state_names:
                self._set_optimizer_state(self.parameters[number], name, state[name].to(self.device))
            if "step" in state:  # the same for all parameters
                for shard in self.optimizer.state.values():
                    shard["step"].copy_(state["step"])

    def _set_optimizer_state(self, parameter: Any, name: str, whole: torch.Tensor) -> None:
        if self.stage < 3:
            self.deepspeed.utils.safe_set_full_optimizer_state(parameter, whole, name)
            return
        # Set this rank's shard: DeepSpeed's function for full states fails if the shards have different sizes.
        size = parameter.ds_tensor.numel()
        padded = F.pad(whole.flatten(), (0, size * self.world.size - whole.numel()))
        shard = padded.narrow(0, size * self.world.rank, size)
        self.deepspeed.utils.safe_set_local_optimizer_state(parameter, shard, name)
