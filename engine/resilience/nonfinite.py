"""Losses and gradients that are not finite: no rank's optimizer moves by them; what led there is written down.

The back end leaves such an update out on all ranks, decided on the device. Here the host hears of it, when it looks,
and does what `--on_nonfinite` says.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..distributed.world import World, gather_objects
from ..errors import NonFiniteError

logger = logging.getLogger(__name__)

POLICIES = ("stop", "skip", "rollback")
_REMEDY = "Try a lower --lr, a longer --warmup_epochs, --clip_grad 1, or --amp none"


class RollbackRequested(Exception):
    """Training is to go on from the last checkpoint, without the bad updates. Raised on all ranks."""


@dataclass
class _UpdateRecord:
    """What is kept of an update until the host looks: tensors of one number on the device, the rest in host memory."""

    step: int
    epoch: int
    lr: float
    is_finite: torch.Tensor
    grad_norm: torch.Tensor
    indices: list[torch.Tensor] = field(default_factory=list)
    outputs: list[dict[str, torch.Tensor]] = field(default_factory=list)


class NonFiniteGuard:
    """Remembers the updates since it looked last, and acts on those that were left out.

    Args:
        policy: `stop`: end the run; `skip`: go on without them; `rollback`: go on from the last checkpoint and pass
            them over when they come again.
        limit: of updates left out in this run of the program, under `skip` and `rollback`.
        output_dir: gets `nonfinite-stepS-rankR.json` from every rank; "": nowhere.
        paths: of the list's videos; batches hold positions in it.
    """

    def __init__(self, policy: str, *, limit: int, output_dir: str, world: World, paths: Sequence[Any]) -> None:
        self.policy = policy
        self.limit = limit
        self.folder = Path(output_dir) if output_dir else None
        self.world = world
        self.paths = paths
        self.skipped_steps: set[int] = set()  # steps whose batches are not trained on, after a rollback
        self.num_skipped = 0
        self._pending: list[_UpdateRecord] = []

    def record(
        self,
        step: int,
        *,
        epoch: int,
        lr: float,
        is_finite: torch.Tensor,
        grad_norm: torch.Tensor,
        indices: list[torch.Tensor],
        outputs: list[dict[str, torch.Tensor]],
    ) -> None:
        """Keep an update in mind; does not wait for the device.

        Args:
            is_finite: bool scalar, the same on all ranks: whether the update took place.
            indices: of each batch's videos in the list, in host memory.
            outputs: scalars of each batch.
        """
        self._pending.append(_UpdateRecord(step, epoch, lr, is_finite, grad_norm, indices, outputs))

    def check(self) -> None:
        """Act on the updates since the last look. Waits for the device; every rank must call it.

        Raises:
            NonFiniteError: the policy is to stop, or the limit is passed. On all ranks.
            RollbackRequested: the policy is to roll back. On all ranks.
        """
        updates, self._pending = self._pending, []
        if not updates:
            return
        finite = torch.stack([update.is_finite for update in updates]).tolist()
        bad = [update for update, ok in zip(updates, finite, strict=True) if not ok]
        if bad:
            self._apply_policy(bad)

    def _apply_policy(self, bad: list[_UpdateRecord]) -> None:
        if self.policy == "stop":
            bad = bad[:1]  # those behind it were left out because of it
        own = [self._write_report(update) for update in bad]
        ranks = [rank for rank, lost in enumerate(gather_objects(any(own))) if lost]
        steps = ", ".join(str(update.step + 1) for update in bad)
        whose = f"of rank {', '.join(map(str, ranks))} is" if ranks else "is finite, the gradient"
        written = f" Their videos and losses are in {self.folder}/nonfinite-step*.json." if self.folder else ""
        message = f"step {steps}: the loss {whose} not finite; the weights were not touched.{written}"
        self.num_skipped += len(bad)
        if self.policy == "stop":
            raise NonFiniteError(f"{message} {_REMEDY}")
        if self.num_skipped > self.limit:
            raise NonFiniteError(
                f"{message} These are {self.num_skipped}, and --nonfinite_limit is {self.limit}. {_REMEDY}"
            )
        logger.warning("%s --on_nonfinite %s: %d of %d", message, self.policy, self.num_skipped, self.limit)
        if self.policy == "rollback":
            self.skipped_steps |= {update.step for update in bad}
            raise RollbackRequested(message)

    def _write_report(self, update: _UpdateRecord) -> bool:
        """Write down an update; whether one of this rank's losses was not finite."""
        outputs = [{name: float(value) for name, value in part.items()} for part in update.outputs]
        if self.folder is not None:
            step = update.step + 1  # as log.txt counts
            record: Mapping[str, Any] = {
                "step": step,
                "epoch": update.epoch,
                "rank": self.world.rank,
                "lr": update.lr,
                "grad_norm": _json_number(float(update.grad_norm)),
                "batches": [
                    {
                        **{name: _json_number(value) for name, value in part.items()},
                        "videos": {int(i): str(self.paths[int(i)]) for i in index},
                    }
                    for part, index in zip(outputs, update.indices, strict=True)
                ],
            }
            file = self.folder / f"nonfinite-step{step}-rank{self.world.rank}.json"
            try:
                file.write_text(json.dumps(record, indent=1) + "\n")
            except OSError as error:  # the other ranks wait for this one's answer
                logger.warning("%s: could not be written (%s)", file, error.strerror)
        return not all(math.isfinite(part["loss"]) for part in outputs)


def _json_number(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)
