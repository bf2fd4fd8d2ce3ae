"""DDP, or one process, behind a small protocol: autocast, accumulation, and a step that never uses bad gradients."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine.distributed import World
from engine.errors import ConfigError, NonFiniteError

MIN_SCALE = 2.0**-20  # of fp16's loss scaler, which begins at 2^16
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


class Backend:
    """Owns the wrapped model, the optimizer and the loss scaler.

    An update is `update_freq` calls of `backward`, then one of `step`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        amp: str,
        clip_grad: float | None = None,
    ) -> None:
        self.module = model
        self.optimizer = optimizer
        self.device = world.device
        self.amp = check_amp(amp, world.device)
        self.clip_grad = clip_grad
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.updates_left_out = torch.zeros((), device=world.device)
        self.last_norm = torch.zeros((), device=world.device)
        self.last_finite = torch.ones((), dtype=torch.bool, device=world.device)
        self.model = model
        if world.size > 1:
            # The inputs are on their device already (the mask stays on the host): no device_ids, which would move them.
            self.model = DistributedDataParallel(model, gradient_as_bucket_view=True)
            # Buffers are constant tables. Not as the argument, which torch 2.13 deprecates for one that 2.12 lacks.
            self.model.broadcast_buffers = False

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
        self.scaler.scale(loss / update_freq).backward()

    def step(self) -> torch.Tensor:
        """Clip, update, clear the gradients. Returns the gradient norm before clipping, on the device.

        Ranks share their gradients, so they see the same norm and decide alike. If it is not finite the optimizer
        leaves the weights and its state alone, decided on the device, without waiting for it; `check_finite` reports
        it. (With fp16 the scaler does the same and lowers its scale: expected now and then.)
        """
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad, norm)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            # Fused optimizers skip the update where this tensor is 1: the protocol between torch's scaler and them.
            found_inf = (~torch.isfinite(norm)).float()
            self.updates_left_out += found_inf
            self.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last_norm = norm
        self.last_finite = torch.isfinite(norm)
        return norm

    def training_state(self) -> dict[str, Any]:
        """`model`, `optimizer` and `scaler`: plain state dicts in the layout of one process, whatever the back end.

        Every rank must call this; only the main process's result is complete. Tensors may be the live ones.
        """
        return {
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_training_state(self, content: Mapping[str, Any]) -> None:
        """Put back, in place, what `training_state` gave. Every rank must call this.

        What was given on this command line stands in the optimizer's fresh groups; `content` gives the moments only.

        Raises:
            RuntimeError, ValueError, KeyError, TypeError, AttributeError: it does not fit.
        """
        self.module.load_state_dict(content["model"], strict=True)
        groups = self.optimizer.state_dict()["param_groups"]
        saved = content["optimizer"]
        if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
            raise ValueError("the parameters are grouped in another way")
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
        self.scaler.load_state_dict(content["scaler"])

    def left_out_last(self) -> bool:
        """True if the last update was left out because its gradient was not finite.

        Waits for the device where training goes on after such an update (fp16). Elsewhere on a GPU it does not look:
        `check_finite` stops the run before anything is saved.
        """
        looks = self.scaler.is_enabled() or self.device.type == "cpu"
        return looks and not bool(torch.isfinite(self.last_norm))

    def check_finite(self, step: int) -> None:
        """Raise NonFiniteError if any gradient norm so far was not finite. Waits for the device.

        With fp16 the scaler leaves such updates out and halves its scale, as it should now and then; only a scale that
        has come down to nothing says that the loss itself is not finite.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < MIN_SCALE:
            raise NonFiniteError(f"step {step}: the loss stays infinite or NaN in fp16; use --amp bf16 or none")
        if number := int(self.updates_left_out):
            raise NonFiniteError(
                f"step {step}: the gradient is not finite ({number} updates were left out, the weights were not "
                "touched by them). Try a lower --lr, a longer --warmup_epochs, --clip_grad 1, or --amp none"
            )
