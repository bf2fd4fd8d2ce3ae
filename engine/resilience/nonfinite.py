"""NaN and Inf losses and gradients: stop, skip or roll back (`--on_nonfinite`), with a report of the batches.

The backend skips such an update on all ranks, decided on the device. Here the host checks for skipped updates and
applies the policy.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..distributed.collectives import gather_objects
from ..distributed.world import World
from ..errors import NonFiniteError

logger = logging.getLogger(__name__)

POLICIES = ("stop", "skip", "rollback")
_REMEDY = "Try a lower --lr, a longer --warmup_epochs, --clip_grad 1, or --amp none"


class RollbackRequested(Exception):
    """Training has to return to the last checkpoint and skip the bad updates. Raised on all ranks."""


@dataclass
class _UpdateRecord:
    """An update that the host has not checked yet: scalar tensors on the device, the rest in host memory."""

    step: int
    epoch: int
    lr: float
    is_finite: torch.Tensor
    grad_norm: torch.Tensor
    indices: list[torch.Tensor] = field(default_factory=list)
    outputs: list[dict[str, torch.Tensor]] = field(default_factory=list)


class NonFiniteGuard:
    """Records updates, and applies the policy to those that the backend skipped.

    Args:
        policy: `stop`: end the run; `skip`: continue; `rollback`: return to the last checkpoint, and skip these updates
            when they come again.
        limit: maximum number of skipped updates in this process, for `skip` and `rollback`.
        output_dir: every rank writes `nonfinite-stepS-rankR.json` there; "": no reports.
        paths: paths of the videos, by the index in a batch.
        weights: whether those of this rank are finite; None: unknown.
    """

    def __init__(
        self,
        policy: str,
        *,
        limit: int,
        output_dir: str,
        world: World,
        paths: Sequence[Any],
        weights: Callable[[], bool] | None = None,
    ) -> None:
        self.policy = policy
        self.limit = limit
        self.folder = Path(output_dir) if output_dir else None
        self.world = world
        self.paths = paths
        self.skipped_steps: set[int] = set()  # steps to skip after a rollback
        self.num_skipped = 0
        self.in_a_row = 0  # updates that were not finite since the last one that was
        self._weights = weights
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
        """Record an update; does not synchronize with the device.

        Args:
            is_finite: bool scalar, the same on all ranks; False if the update was skipped.
            indices: video indices of each batch, in host memory.
            outputs: scalars of each batch.
        """
        self._pending.append(_UpdateRecord(step, epoch, lr, is_finite, grad_norm, indices, outputs))

    def check(self) -> None:
        """Check the updates since the last call. Synchronizes with the device; every rank must call it.

        Raises:
            NonFiniteError: on all ranks, for `stop` or beyond the limit.
            RollbackRequested: on all ranks, for `rollback`.
        """
        if self._pending:
            self.apply(self.flags().tolist())

    def flags(self) -> torch.Tensor:
        """(number of updates since the last check,) bool on the device, for `apply`. Does not synchronize with it."""
        return torch.stack([update.is_finite for update in self._pending]) if self._pending else torch.ones(0)

    def apply(self, flags: Sequence[float]) -> None:
        """`check` of the oldest updates, whose `flags` have been read: one for each. Every rank must call it."""
        updates, self._pending = self._pending[: len(flags)], self._pending[len(flags) :]
        bad = [update for update, is_finite in zip(updates, flags, strict=True) if not is_finite]
        for is_finite in flags:
            self.in_a_row = 0 if is_finite else self.in_a_row + 1
        if bad:
            self._apply_policy(bad)

    def check_end(self) -> None:
        """At the end of training. Raises NonFiniteError if no update with the last weights was finite.

        One bad update at the end may be its videos' fault; of several in a row the weights are the cause, finite as
        they may be.
        """
        if self.in_a_row > 1:
            raise NonFiniteError(
                f"the last {self.in_a_row} updates were not finite: the weights before them are not usable, and are "
                f"not saved as a result. {_REMEDY}"
            )

    def _apply_policy(self, bad: list[_UpdateRecord]) -> None:
        if self.policy == "stop":
            bad = bad[:1]  # the later ones were skipped only because of it
        nonfinite_loss = [self._write_report(update) for update in bad]
        ranks = [rank for rank, found in enumerate(gather_objects(any(nonfinite_loss))) if found]
        steps = ", ".join(str(update.step + 1) for update in bad)
        whose = f"of rank {', '.join(map(str, ranks))} is" if ranks else "is finite, the gradient"
        reports = f" Their videos and losses are in {self.folder}/nonfinite-step*.json." if self.folder else ""
        broken = self._weights is not None and not self._weights()
        weights = (
            "an earlier update has made the weights themselves NaN or Inf" if broken else "the weights are unchanged"
        )
        message = f"step {steps}: the loss {whose} not finite; {weights}.{reports}"
        self.num_skipped += len(bad)
        if self.policy == "stop" or (self.policy == "skip" and any(gather_objects(broken))):
            raise NonFiniteError(f"{message} {_REMEDY}")
        if self.num_skipped > self.limit:
            raise NonFiniteError(
                f"{message} These are {self.num_skipped}, and --nonfinite_limit is {self.limit}. {_REMEDY}"
            )
        logger.warning("%s --on_nonfinite %s: %d of %d", message, self.policy, self.num_skipped, self.limit)
        if self.policy == "rollback":
            self.skipped_steps |= {update.step for update in bad}
            self._pending = []  # updates after those are done again, and checked then
            raise RollbackRequested(message)

    def _write_report(self, update: _UpdateRecord) -> bool:
        """Write the report of an update; returns whether a loss of this rank was NaN or Inf."""
        outputs = [{name: float(value) for name, value in part.items()} for part in update.outputs]
        if self.folder is not None:
            step = update.step + 1  # as in log.txt
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
            except OSError as error:  # not raised: the other ranks wait for this one
                logger.warning("%s: could not be written (%s)", file, error.strerror)
        return not all(math.isfinite(part["loss"]) for part in outputs)


def _json_number(value: float) -> float | str:
    """JSON has no NaN and Infinity."""
    return value if math.isfinite(value) else str(value)
