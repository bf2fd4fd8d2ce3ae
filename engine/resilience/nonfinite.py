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


class RollBack(Exception):
    """Training is to go on from the last checkpoint, without the bad updates. Raised on all ranks."""


@dataclass
class _Update:
    """What is kept of an update until the host looks: tensors of one number on the device, the rest in host memory."""

    step: int
    epoch: int
    lr: float
    finite: torch.Tensor
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
        self.passed_over: set[int] = set()  # steps whose batches are not trained on, after a rollback
        self.number = 0
        self._updates: list[_Update] = []

    def remember(
        self,
        step: int,
        *,
        epoch: int,
        lr: float,
        finite: torch.Tensor,
        grad_norm: torch.Tensor,
        indices: list[torch.Tensor],
        outputs: list[dict[str, torch.Tensor]],
    ) -> None:
        """Keep an update in mind; does not wait for the device.

        Args:
            finite: bool scalar, the same on all ranks: whether the update took place.
            indices: of each batch's videos in the list, in host memory.
            outputs: scalars of each batch.
        """
        self._updates.append(_Update(step, epoch, lr, finite, grad_norm, indices, outputs))

    def look(self) -> None:
        """Act on the updates since the last look. Waits for the device; every rank must call it.

        Raises:
            NonFiniteError: the policy is to stop, or the limit is passed. On all ranks.
            RollBack: the policy is to roll back. On all ranks.
        """
        updates, self._updates = self._updates, []
        if not updates:
            return
        finite = torch.stack([update.finite for update in updates]).tolist()
        bad = [update for update, ok in zip(updates, finite, strict=True) if not ok]
        if bad:
            self._act(bad)

    def _act(self, bad: list[_Update]) -> None:
        if self.policy == "stop":
            bad = bad[:1]  # those behind it were left out because of it
        own = [self._write(update) for update in bad]
        ranks = [rank for rank, lost in enumerate(gather_objects(any(own))) if lost]
        steps = ", ".join(str(update.step + 1) for update in bad)
        whose = f"of rank {', '.join(map(str, ranks))} is" if ranks else "is finite, the gradient"
        written = f" Their videos and losses are in {self.folder}/nonfinite-step*.json." if self.folder else ""
        said = f"step {steps}: the loss {whose} not finite; the weights were not touched.{written}"
        self.number += len(bad)
        if self.policy == "stop":
            raise NonFiniteError(f"{said} {_REMEDY}")
        if self.number > self.limit:
            raise NonFiniteError(f"{said} These are {self.number}, and --nonfinite_limit is {self.limit}. {_REMEDY}")
        logger.warning("%s --on_nonfinite %s: %d of %d", said, self.policy, self.number, self.limit)
        if self.policy == "rollback":
            self.passed_over |= {update.step for update in bad}
            raise RollBack(said)

    def _write(self, update: _Update) -> bool:
        """Write down an update; whether one of this rank's losses was not finite."""
        outputs = [{name: float(value) for name, value in part.items()} for part in update.outputs]
        if self.folder is not None:
            step = update.step + 1  # as log.txt counts
            record: Mapping[str, Any] = {
                "step": step,
                "epoch": update.epoch,
                "rank": self.world.rank,
                "lr": update.lr,
                "grad_norm": _plain(float(update.grad_norm)),
                "batches": [
                    {
                        **{name: _plain(value) for name, value in part.items()},
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


def _plain(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)
