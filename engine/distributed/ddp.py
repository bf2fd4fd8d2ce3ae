"""The protocol of the back ends, and DDP: autocast, accumulation, a step that never uses bad gradients, the state."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError, NonFiniteError
from .world import World, all_reduce_sum

MIN_LOSS_SCALE = 2.0**-20  # of fp16's loss scaler, which begins at 2^16
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "none": torch.float32}


def autocast(device: torch.device, amp: str) -> AbstractContextManager[Any]:
    """Low precision for a forward pass, if `--amp` asks for it."""
    return torch.autocast(device.type, dtype=AMP_DTYPES[amp], enabled=amp != "none")


def check_amp(amp: str, device: torch.device) -> str:
    """`amp` as given. Raises ConfigError where the device cannot train in it."""
    if amp not in AMP_DTYPES:
        raise ConfigError(f"--amp {amp}: choose from {', '.join(AMP_DTYPES)}")
    if amp == "fp16" and device.type == "cpu":
        raise ConfigError("--amp fp16 needs a GPU: use --amp none (or bf16) on a CPU")
    return amp


def set_matmul_precision(device: torch.device, amp: str) -> None:
    """Have a GPU multiply float32 matrices as TF32, unless `--amp none` asks for all of float32.

    Under autocast the objective alone still multiplies in float32, at a small part of what the tensor cores can do.
    TF32 has fp16's 10 bits of mantissa, more than the bf16 of its inputs, float32's range, and sums in float32. It is
    as reproducible. On a CPU the same setting would use bf16, so it is left alone there.
    """
    torch.set_float32_matmul_precision("high" if device.type == "cuda" and amp != "none" else "highest")


class Backend:
    """Owns the wrapped model, the optimizer and the loss scaler. This one is DDP, or a single process.

    An update is `update_freq` calls of `backward`, then one of `step`. One whose loss or gradient is not finite, on any
    rank, is left out: decided on the device, alike on every rank, before the optimizer moves. With `stop_on_nonfinite`
    every later one is left out too, so that the weights stay as they were before the first until `check_finite`, which
    waits for the device, is called and stops the run; without it each is decided by itself. The updates that fp16's
    scaler leaves out to find its scale are expected now and then: they are counted apart, and stop nothing.

    Attributes:
        model: called in a forward pass.
        module: the model itself.
        optimizer: whose `param_groups` the schedule writes to.
        last_update_finite: () bool on the device: False if the last update's loss, or outside fp16 its
            gradient, was NaN or Inf.
        num_skipped_updates: () int64 on the device: how many were left out for that.
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
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.last_update_finite = torch.ones((), dtype=torch.bool, device=world.device)
        self.num_skipped_updates = torch.zeros((), dtype=torch.int64, device=world.device)
        self._num_scaler_skips = torch.zeros_like(self.num_skipped_updates)
        self._skip_update = torch.zeros_like(self.last_update_finite)
        self._num_nonfinite_losses = torch.zeros((), device=world.device)  # of this rank, since the last step
        self.model = self._wrap(model)

    def _wrap(self, model: nn.Module) -> nn.Module:
        if self.world.size == 1:
            return model
        # The inputs are on their device already (the mask stays on the host): no device_ids, which would move them.
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        # Buffers are constant tables. Not as the argument, which torch 2.13 deprecates for one that 2.12 lacks.
        wrapped.broadcast_buffers = False
        return wrapped

    def autocast(self) -> AbstractContextManager[Any]:
        """Around the model's forward pass."""
        return autocast(self.device, self.amp)

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around a forward and backward pass: ranks exchange gradients only in the last one before a step."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def backward(self, loss: torch.Tensor, *, update_freq: int) -> None:
        """Add the gradient of loss / update_freq."""
        self._num_nonfinite_losses += ~torch.isfinite(loss.detach())
        self.scaler.scale(loss / update_freq).backward()

    def step(self) -> torch.Tensor:
        """Clip, update, clear the gradients. Returns the gradient norm before clipping, on the device."""
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

    def _any_nonfinite_loss(self) -> torch.Tensor:
        """() bool: whether a loss since the last step was not finite, on any rank."""
        bad = all_reduce_sum(self._num_nonfinite_losses) if self.world.size > 1 else self._num_nonfinite_losses
        self._num_nonfinite_losses = torch.zeros_like(bad)
        return bad > 0

    def _must_skip(self, nonfinite_loss: torch.Tensor) -> torch.Tensor:
        """() bool: whether an update is left out whatever its gradient is."""
        return nonfinite_loss | (self.num_skipped_updates > 0) if self.stop_on_nonfinite else nonfinite_loss

    def _decide_skip(self, nonfinite_loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Note what is to become of an update, and count it. Ranks share loss flag and norm, so they decide alike."""
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
        # Fused optimizers skip the update where this tensor is 1: the protocol between torch's scaler and them.
        self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]

    def pop_scaler_skips(self) -> int:
        """Updates that fp16's scaler left out to find its scale, since this was asked last. Waits for the device."""
        if not self.scaler.is_enabled():
            return 0
        number = int(self._num_scaler_skips)
        self._num_scaler_skips.zero_()
        return number

    def last_update_skipped(self) -> bool:
        """True if the last update was left out.

        Waits for the device where training goes on after such an update. Elsewhere on a GPU it does not look:
        `check_finite` stops the run before anything is saved.
        """
        goes_on = self.scaler.is_enabled() or not self.stop_on_nonfinite
        return (goes_on or self.device.type == "cpu") and bool(self._skip_update)

    def check_finite(self, step: int) -> None:
        """Raise NonFiniteError if the run has to stop for a loss or gradient so far. Waits for the device.

        With fp16 the scaler leaves such updates out and halves its scale, as it should now and then; only a scale that
        has come down to nothing says that the loss itself is not finite.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < MIN_LOSS_SCALE:
            raise NonFiniteError(f"step {step}: the loss stays infinite or NaN in fp16; use --amp bf16 or none")
        if self.stop_on_nonfinite and (number := int(self.num_skipped_updates)):
            raise NonFiniteError(
                f"step {step}: the loss or its gradient is not finite ({number} updates were left out, the weights "
                "were not touched by them). Try a lower --lr, a longer --warmup_epochs, --clip_grad 1, or --amp none"
            )

    def model_state(self) -> dict[str, Any]:
        """The weights and buffers, whole and in float32. Every rank must call it; the main process has the result."""
        return self.module.state_dict()

    def training_state(self) -> dict[str, Any]:
        """`model`, `optimizer` and `scaler`: what they would be in a single process, whichever back end trains.

        Every rank must call it; only the main process is sure to have the result, tensors of which may be those that
        are trained.
        """
        return {
            "model": self.model_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler_state(),
        }

    def _scaler_state(self) -> dict[str, Any]:
        """The scaler's, and what it left out since `pop_scaler_skips`: the schedule is going to hear of that."""
        if not self.scaler.is_enabled():
            return {}
        return {**self.scaler.state_dict(), "skipped": int(self._num_scaler_skips)}

    def load_training_state(self, content: Mapping[str, Any]) -> None:
        """Put back, in place, what `training_state` gave, of any back end and number of ranks. Every rank must call it.

        Of the optimizer only the moments are taken: learning rates and decay are those of this run's command line.
        Updates that were left out are forgotten. Tensors of `content` may become part of the state.

        Raises:
            RuntimeError, ValueError, KeyError or TypeError: it is of another model, optimizer or precision.
        """
        groups = self._param_groups()
        if [group["params"] for group in content["optimizer"]["param_groups"]] != [g["params"] for g in groups]:
            raise ValueError("the parameters are grouped in another way")
        self._load_model(content["model"])
        self._load_optimizer_state(content["optimizer"], groups)
        self.scaler.load_state_dict(content["scaler"])
        self._num_scaler_skips.fill_(content["scaler"].get("skipped", 0))
        self.num_skipped_updates.zero_()

    def _param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups as in its `state_dict`, parameters as their numbers."""
        return self.optimizer.state_dict()["param_groups"]

    def _load_model(self, state: Mapping[str, torch.Tensor]) -> None:
        self.module.load_state_dict(state, strict=True)

    def _load_optimizer_state(self, saved: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
