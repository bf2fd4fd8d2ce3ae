"""The training backend with DDP: autocast, gradient accumulation, skipping of non-finite updates, training state."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError, NonFiniteError
from .collectives import all_reduce_sum
from .world import World

NUM_REQUESTS = 5  # kinds of requests that ranks can post, see resilience/preemption.py
MIN_LOSS_SCALE = 2.0**-20  # of the fp16 loss scaler, which starts at 2^16
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "none": torch.float32}


def autocast(device: torch.device, amp: str) -> AbstractContextManager[Any]:
    """Autocast context for a forward pass in the precision of `--amp`."""
    return torch.autocast(device.type, dtype=AMP_DTYPES[amp], enabled=amp != "none")


def check_amp(amp: str, device: torch.device) -> str:
    """Return `amp`. Raises ConfigError if the device does not support it."""
    if amp not in AMP_DTYPES:
        raise ConfigError(f"--amp {amp}: choose from {', '.join(AMP_DTYPES)}")
    if amp == "fp16" and device.type == "cpu":
        raise ConfigError("--amp fp16 needs a GPU: use --amp none (or bf16) on a CPU")
    return amp


def set_matmul_precision(device: torch.device, amp: str) -> None:
    """Use TF32 for float32 matmuls on a GPU, unless `--amp none` asks for full float32.

    Under autocast only the objective still multiplies in float32, without tensor cores. TF32 has a 10-bit mantissa as
    fp16 has, more than its bf16 inputs, the range of float32, and accumulates in float32. It is as reproducible. On a
    CPU the same setting would use bf16, so it stays off there.
    """
    torch.set_float32_matmul_precision("high" if device.type == "cuda" and amp != "none" else "highest")


class Backend:
    """Owns the wrapped model, the optimizer and the loss scaler. This class is DDP, or a single process.

    An update is `update_freq` calls of `backward`, then one of `step`. An update whose loss or gradient is NaN or Inf
    on any rank is skipped: decided on the device, identically on every rank, before the optimizer steps. With
    `stop_on_nonfinite` all later updates are skipped too, so that the weights stay as they were before the first one
    until `check_finite`, which synchronizes with the device, stops the run; without it each update is decided on its
    own. Updates that the fp16 scaler skips to find its scale are expected: they are counted apart and stop nothing.

    Attributes:
        model: wrapped by DDP; call this one in a forward pass.
        module: the model itself.
        optimizer: the schedule sets its `param_groups`.
        runs_ahead: the device works on what the host has enqueued, so that reading a value of the newest update makes
            the host wait, and then the device; on a CPU it costs nothing.
        last_update_finite: () bool on the device: False if the last update's loss, or outside fp16 its
            gradient, was NaN or Inf.
        num_skipped_updates: () int64 on the device: how many were skipped for that reason.
        requests: (NUM_REQUESTS,) float on the device: how many ranks had posted each request before the last update;
            None before the first. It travels with the flag of the loss: one all-reduce an update beside those of the
            gradients.
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
    ) -> None:
        self.module = model
        self.optimizer = optimizer
        self.world = world
        self.device = world.device
        self.amp = check_amp(amp, world.device)
        self.clip_grad = clip_grad
        self.stop_on_nonfinite = stop_on_nonfinite
        self.runs_ahead = world.device.type == "cuda"
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.last_update_finite = torch.ones((), dtype=torch.bool, device=world.device)
        self.num_skipped_updates = torch.zeros((), dtype=torch.int64, device=world.device)
        self._num_scaler_skips = torch.zeros_like(self.num_skipped_updates)
        self._skip_update = torch.zeros_like(self.last_update_finite)
        self.requests: torch.Tensor | None = None
        # Of this rank since the last step: number of losses that are NaN or Inf, then the requests.
        self._flags = torch.zeros(1 + NUM_REQUESTS, device=world.device)
        self.model = self._wrap(model)

    def _wrap(self, model: nn.Module) -> nn.Module:
        if self.world.size == 1:
            return model
        # Inputs are already on the device and the mask stays on the host: device_ids would move it.
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        # Buffers are constant tables. Set here because torch 2.13 deprecates the argument and 2.12 lacks its successor.
        wrapped.broadcast_buffers = False
        return wrapped

    def autocast(self) -> AbstractContextManager[Any]:
        """Autocast context for the model's forward pass."""
        return autocast(self.device, self.amp)

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """Context of a forward and backward pass: gradients are all-reduced only in the last one before a step."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def backward(self, loss: torch.Tensor, *, update_freq: int) -> None:
        """Accumulate the gradient of loss / update_freq."""
        self._count_if_nonfinite(loss)
        self.scaler.scale(loss / update_freq).backward()

    def step(self) -> torch.Tensor:
        """Clip gradients, step, zero gradients. Returns the gradient norm before clipping, on the device."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad, norm)
        self._decide_skip(self._any_nonfinite_loss(), norm)
        self._set_found_inf(self._skip_update)
        self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def post_request(self, number: int) -> None:
        """Let `requests` of the next update count this rank for a request, 0 to NUM_REQUESTS - 1."""
        self._flags[1 + number].fill_(1)

    def _count_if_nonfinite(self, loss: torch.Tensor) -> None:
        self._flags[0].add_(~torch.isfinite(loss.detach()))

    def _any_nonfinite_loss(self) -> torch.Tensor:
        """() bool: whether any loss since the last step was NaN or Inf on any rank. Exchanges the requests too."""
        flags = all_reduce_sum(self._flags) if self.world.size > 1 else self._flags
        self._flags = torch.zeros_like(flags)
        self.requests = flags[1:]
        return flags[0] > 0

    def _must_skip(self, nonfinite_loss: torch.Tensor) -> torch.Tensor:
        """() bool: whether the update is skipped regardless of its gradient."""
        return nonfinite_loss | (self.num_skipped_updates > 0) if self.stop_on_nonfinite else nonfinite_loss

    def _decide_skip(self, nonfinite_loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Decide whether to skip the update. Loss flag and norm are the same on all ranks, and so is the decision."""
        infinite = ~torch.isfinite(norm)
        scaling = self.scaler.is_enabled()
        bad = nonfinite_loss if scaling else nonfinite_loss | infinite
        skip = self._must_skip(bad)
        self.num_skipped_updates += skip
        if scaling:
            self._num_scaler_skips += infinite & ~skip
        self.last_update_finite = ~bad
        self._skip_update = skip | infinite

    def _set_found_inf(self, skip: torch.Tensor) -> None:
        # Fused optimizers skip the step if found_inf is 1: the interface between torch's GradScaler and them.
        self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]

    def pop_scaler_skips(self) -> int:
        """Updates skipped by the fp16 scaler since the last call. Synchronizes with the device."""
        if not self.scaler.is_enabled():
            return 0
        number = int(self._num_scaler_skips)
        self._num_scaler_skips.zero_()
        return number

    def last_update_skipped(self) -> bool:
        """True if the last update was skipped.

        Synchronizes with the device if training continues after a skipped update. Otherwise it returns False on a GPU
        without synchronizing: `check_finite` stops the run before anything is saved.
        """
        continues = self.scaler.is_enabled() or not self.stop_on_nonfinite
        return (continues or not self.runs_ahead) and bool(self._skip_update)

    def check_finite(self, step: int, *, num_skipped: int | None = None) -> None:
        """Raise NonFiniteError if a NaN or Inf loss or gradient has to stop the run.

        Args:
            num_skipped: `num_skipped_updates` after this step; None: read now, which synchronizes with the device.

        With fp16 the scaler occasionally skips an update and halves its scale, as intended; only a vanishing scale
        means that the loss itself is NaN or Inf.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < MIN_LOSS_SCALE:
            raise NonFiniteError(f"step {step}: the loss stays NaN or Inf in fp16; use --amp bf16 or none")
        number = int(self.num_skipped_updates) if num_skipped is None else num_skipped
        if self.stop_on_nonfinite and number:
            raise NonFiniteError(
                f"step {step}: the loss or its gradient is NaN or Inf ({number} updates were skipped, the weights are "
                "unchanged). Try a lower --lr, a longer --warmup_epochs, --clip_grad 1, or --amp none"
            )

    def model_state(self) -> dict[str, Any]:
        """Full weights and buffers in float32. Every rank must call it; rank 0 has the result."""
        return self.module.state_dict()

    def training_state(self) -> dict[str, Any]:
        """`model`, `optimizer` and `scaler` as in a single process, whichever backend trains.

        Every rank must call it; only rank 0 is guaranteed to have the result. Its tensors may be the live parameters.
        """
        return {
            "model": self.model_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler_state(),
        }

    def _scaler_state(self) -> dict[str, Any]:
        """State of the scaler, and the skips that `pop_scaler_skips` has not yet reported to the schedule."""
        if not self.scaler.is_enabled():
            return {}
        return {**self.scaler.state_dict(), "skipped": int(self._num_scaler_skips)}

    def load_training_state(self, content: Mapping[str, Any]) -> None:
        """Load, in place, what `training_state` returned on any backend and world size. Every rank must call it.

        Only the state of the optimizer is loaded: learning rates and weight decay come from this run's options. The
        count of skipped updates is reset. Tensors of `content` may become part of the state.

        Raises:
            RuntimeError, ValueError, KeyError or TypeError: the state is of another model, optimizer or precision.
        """
        groups = self._param_groups()
        if [group["params"] for group in content["optimizer"]["param_groups"]] != [g["params"] for g in groups]:
            raise ValueError("the parameter groups differ")
        self._load_model(content["model"])
        self._load_optimizer_state(content["optimizer"], groups)
        self.scaler.load_state_dict(content["scaler"])
        self._num_scaler_skips.fill_(content["scaler"].get("skipped", 0))
        self.num_skipped_updates.zero_()

    def _param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups as in its `state_dict`, with parameter ids."""
        return self.optimizer.state_dict()["param_groups"]

    def _load_model(self, state: Mapping[str, torch.Tensor]) -> None:
        self.module.load_state_dict(state, strict=True)

    def _load_optimizer_state(self, saved: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
