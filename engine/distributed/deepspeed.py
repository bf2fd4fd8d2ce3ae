"""DeepSpeed's ZeRO behind the protocol of the back ends. DeepSpeed is imported when it is asked for, not before.

Stage 0 keeps everything whole on every rank, as DDP does; stage 1 shards the optimizer's state out over the ranks, 2
the gradients too, and 3 the weights too. Weights, gradients and sums over ranks are float32 and forward passes run
under torch's autocast, all as with DDP: so the losses are the same, and so are the checkpoints.
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
    """The module `deepspeed`, ready for this process.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("DS_ACCELERATOR", world.device.type)  # or it takes a GPU where --device cpu is asked for
    # srun does not set it, and DeepSpeed takes it for the number of the GPU.
    os.environ["LOCAL_RANK"] = str(world.local_rank if world.device.index is None else world.device.index)
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            f"--enable_deepspeed: {error}. Install it with `pip install deepspeed`, or leave the flag out: DDP gives "
            "the same results"
        ) from error
    # torch 2.13 says this of functions that DeepSpeed calls, on every rank.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # An operation that only inference on a CPU uses; to compile it takes a minute, a compiler and ninja.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():  # a single process; else DeepSpeed looks for MPI to find the others
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed


def deepspeed_config(*, stage: int, amp: str, clip_grad: float | None) -> dict[str, Any]:
    """DeepSpeed's configuration of a run; the optimizer, batches and accumulation stay the project's own."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # only for DeepSpeed's own report of speed, which is not printed
        "gradient_accumulation_steps": 1,  # the loop says which backward pass is the last
        "gradient_clipping": clip_grad or 0.0,
        "zero_allow_untested_optimizer": True,  # torch's own SGD, which is tested here
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": 50_000_000,  # values; DeepSpeed's ten times as many take 2 GB and more
            "allgather_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 10_000,  # values: norms and biases stay whole, matrices do not
        },
        # As DDP's autocast: no list of modules whose gradients would be summed over the ranks in low precision.
        "torch_autocast": {"enabled": amp == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []},
    }


def zero3_init(*, world: World) -> AbstractContextManager[Any]:
    """Around the making of a model for stage 3: of each layer every rank keeps its shard only."""
    config = deepspeed_config(stage=3, amp="none", clip_grad=None)
    return load_deepspeed(world).zero.Init(config_dict_or_path=config)


class DeepSpeedBackend(Backend):
    """`Backend` with DeepSpeed's engine in the place of DDP.

    In stages 1 to 3 DeepSpeed waits for the device once in every step, to see whether the gradient norm is finite.
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
                self.deepspeed.zero.Init(module=model, config_dict_or_path=config)  # from where it is, layer by layer
            model.to(self.device)  # what is left of it: buffers
        self.engine = self.deepspeed.initialize(
            model=model, optimizer=self.optimizer, config=config, dist_init_required=False
        )[0]
        if self.stage > 0:
            self._init_optimizer_state()
        return self.engine

    def _init_optimizer_state(self) -> None:
        """The optimizer's state over this rank's shard of the parameters, which it would make in its first step."""
        sharded = self.engine.optimizer
        shards = sharded.fp32_partitioned_groups_flat if self.stage == 3 else sharded.single_partition_of_fp32_groups
        self.optimizer.state.clear()  # SGD's, over the parameters as they were
        for shard in shards:
            names = ("exp_avg", "exp_avg_sq") if isinstance(self.optimizer, torch.optim.AdamW) else ("momentum_buffer",)
            state = {name: torch.zeros_like(shard, requires_grad=False) for name in names}
            if "exp_avg" in names:
                state["step"] = torch.zeros((), dtype=torch.float32, device=shard.device)
            self.optimizer.state[shard] = state
        self._state_names = names
        if self.stage < 3:
            sharded._lazy_init_hp_params_optimizer_state()  # so that they can be read and set before the first step

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """As DDP's: tells the engine which backward pass is the last."""
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: torch.Tensor, *, update_freq: int) -> None:
        """Add the gradient of loss / update_freq."""
        self._num_nonfinite_losses += ~torch.isfinite(loss.detach())
        self.engine.backward(loss / update_freq, scale_wrt_gas=False)

    def step(self) -> torch.Tensor:
        """Clip, update, clear the gradients. Returns the norm of the whole gradient before clipping, on the device."""
        nonfinite_loss = self._any_nonfinite_loss()
        if self.stage == 0:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            self._decide_skip(nonfinite_loss, norm)
            self._set_found_inf(self._skip_update)
            self.engine.step()
            return norm
        self._set_found_inf(self._must_skip(nonfinite_loss))
        self._refresh_master_weights()
        self.engine.step()  # leaves the update out by itself where the norm is not finite, on all ranks alike
        norm = torch.as_tensor(self.engine.get_global_grad_norm(), dtype=torch.float32, device=self.device)
        self._decide_skip(nonfinite_loss, norm)
        return norm

    def _refresh_master_weights(self) -> None:
        """Start the update from the weights as the forward pass left them: ZeRO updates a copy of its own."""
        if self.stage == 3:
            for name in getattr(self.module, "unit_rows", set)():
                parameter = self.module.get_parameter(name)
                with self.deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                    parameter.copy_(F.normalize(parameter, dim=-1))
        self.engine.optimizer.refresh_fp32_params()

    def model_state(self) -> dict[str, Any]:
        """The weights and buffers, whole and in float32. Every rank must call it; the main process has the result."""
        state = super().model_state()
        if self.stage < 3:
            return state
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            with self.deepspeed.zero.GatheredParameters([parameter]):
                if self.world.is_main:
                    state[name] = parameter.detach().to("cpu", copy=True)
        return state if self.world.is_main else {}

    def training_state(self) -> dict[str, Any]:
        """As of `Backend`; on other ranks than the main one it is empty where the state is shared out."""
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
        """The optimizer's state by the parameters' numbers, in host memory; one parameter at a time is made whole."""
        moments: dict[int, dict[str, torch.Tensor]] = {}
        shard = next(iter(self.optimizer.state.values()))  # each has the same number of steps
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
            raise RuntimeError(f"missing, unexpected or of another shape: {', '.join(wrong)}")
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
            if "step" in state:  # the same for all
                for shard in self.optimizer.state.values():
                    shard["step"].copy_(state["step"])

    def _set_optimizer_state(self, parameter: Any, name: str, whole: torch.Tensor) -> None:
        if self.stage < 3:
            self.deepspeed.utils.safe_set_full_optimizer_state(parameter, whole, name)
            return
        # This rank's shard of it. DeepSpeed's function for whole ones fails where the ranks' shards are not equal.
        size = parameter.ds_tensor.numel()
        filled = F.pad(whole.flatten(), (0, size * self.world.size - whole.numel()))
        shard = filled.narrow(0, size * self.world.rank, size)
        self.deepspeed.utils.safe_set_local_optimizer_state(parameter, shard, name)
