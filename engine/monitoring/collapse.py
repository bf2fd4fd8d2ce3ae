"""Detect representation collapse: features that no longer distinguish tokens while the loss looks converged.

Letters: B clips, M masked tokens, P embedding width, S = B * M tokens of all ranks, K prototypes.
"""

import logging
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from ..errors import CollapseError

logger = logging.getLogger(__name__)

CHANCE_LOSS_RATIO = 0.98  # of ln K: a cross-entropy above it is no better than chance
MIN_USED_RATIO = 0.1  # of the prototypes that could be used
MAX_MEAN_COSINE = 0.95  # mean cosine similarity between features
STEPS_TO_STOP = 3  # log steps in a row with the same warning that end a run
GUESSING = "loss is no better than guessing"  # the loss of one small batch can be, by chance: told with STEPS_TO_STOP
STEPS_WITHOUT_INFORMATION = 60  # log steps in a row; small runs that learned knew something after 48 at the latest


def count_codes(codes: torch.Tensor, num_prototypes: int) -> torch.Tensor:
    """(K,) float32: tokens of this rank by prototype, of codes of any shape, int64. Summed over ranks they are exact
    up to 2^24 tokens.
    """
    counts_K = torch.zeros(num_prototypes, device=codes.device)
    return counts_K.scatter_add_(0, codes.flatten(), torch.ones_like(codes, dtype=torch.float32).flatten())


def code_statistics(counts_K: torch.Tensor) -> dict[str, float]:
    """Usage statistics of the prototypes.

    Args:
        counts_K: (K,) from `count_codes`, summed over ranks.

    Returns:
        `entropy` of the mean assignment in nats, `perplexity` (its exponential), `prototypes_used`, and
        `num_usable`: the minimum of the numbers of prototypes and tokens.
    """
    share_K = counts_K / counts_K.sum()
    entropy = float(torch.special.entr(share_K).sum())
    return {
        "entropy": entropy,
        "perplexity": math.exp(entropy),
        "prototypes_used": int((counts_K > 0).sum()),
        "num_usable": min(len(counts_K), int(counts_K.sum())),
    }


def sum_of_directions(features_BMP: torch.Tensor) -> torch.Tensor:
    """(P + 1,): the sum of the tokens' unit vectors of this rank, and the number of tokens."""
    unit_SP = F.normalize(features_BMP.detach().float().flatten(0, 1), dim=-1)
    return torch.cat((unit_SP.sum(dim=0), unit_SP.new_full((1,), len(unit_SP))))


def mean_cosine(total: torch.Tensor) -> float:
    """Mean cosine similarity over all pairs of different tokens; 1 if all are parallel.

    The sum over pairs is |sum of unit vectors|^2 minus S, for the pairs of a token with itself.

    Args:
        total: (P + 1,) from `sum_of_directions`, summed over ranks.
    """
    *sums, number = total.tolist()
    return (math.fsum(value * value for value in sums) - number) / max(number * (number - 1), 1)


def information(losses: Mapping[str, float], statistics: Mapping[str, float]) -> dict[str, float]:
    """What each branch knows of the codes that it predicts, in nats: their entropy minus the cross-entropy.

    A lower bound of the mutual information (Barber and Agakov, "The IM algorithm", 2003, equation 3). Unlike the loss
    it can be compared over a run: codes that use more prototypes are harder to predict. Below zero: a prediction that
    is the same for all tokens, the shares of the prototypes, would have a smaller loss.

    Args:
        losses: cross-entropy of the branches "video" and "target" in nats.
        statistics: `entropy_video` and `entropy_target` of their codes.
    """
    return {
        "information_video": statistics["entropy_target"] - losses["video"],
        "information_target": statistics["entropy_video"] - losses["target"],
    }


class CollapseDetector:
    """Computes statistics of one step's outputs over all ranks, and warns if they indicate collapse.

    In two parts, so that the host need not wait for the device: `sums` of this rank, and `report` on their sums over
    ranks, whenever those have arrived.

    A warning is logged when a condition becomes true, and not again while it remains true; that of a loss no better
    than guessing when it has been true at three log steps in a row.

    Args:
        num_prototypes: K; None for an objective without prototypes.
        check_cosine: False for features that are similar by nature, such as pixels, which are all positive.
        log_warnings: True on one rank only.
        stops: end the run where a warning stays.
        held_steps: steps at the start in which the target's features are random: a loss at chance is expected in them,
            although the encoder learns.
    """

    def __init__(
        self,
        num_prototypes: int | None,
        *,
        check_cosine: bool = True,
        log_warnings: bool = True,
        stops: bool = False,
        held_steps: int = 0,
    ) -> None:
        self.num_prototypes = num_prototypes
        self.check_cosine = check_cosine
        self.log_warnings = log_warnings
        self.stops = stops
        self.held_steps = held_steps
        self._in_a_row: dict[str, int] = {}
        self._without_information = 0

    def sums(self, out: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What has to be summed over ranks, by name. Does not synchronize with the device.

        Args:
            out: the model's outputs: `predicted` and `projected` (B, M, P) and, with prototypes, `video_loss`,
                `target_loss`, `codes_video` and `codes_target` (B, M).
        """
        sums = {name: sum_of_directions(out[name]) for name in ("predicted", "projected")}
        if self.num_prototypes is not None:
            for branch in ("video", "target"):
                sums[f"codes_{branch}"] = count_codes(out[f"codes_{branch}"], self.num_prototypes)
                sums[f"{branch}_loss"] = out[f"{branch}_loss"].detach()
        return sums

    def report(
        self, sums: Mapping[str, torch.Tensor], *, num_ranks: int, step: int, after_warmup: bool
    ) -> dict[str, float]:
        """Statistics by name.

        Args:
            sums: those of all ranks, float32 in host memory.
            step: number of this step, from 1 as in the log.
            after_warmup: before, a loss at chance is expected, and only targets that are all alike are warned of.

        Raises:
            CollapseError: on all ranks, with `stops`, where a warning is as true as at the log steps before.
        """
        statistics = {f"cosine_{name}": mean_cosine(sums[name]) for name in ("predicted", "projected")}
        # With prototypes the codes are the better indicator: a component common to all features does no harm in SIGMA,
        # and a run that learns may have a mean cosine of 0.99 (observed in the demo).
        compared = ("predicted", "projected") if self.num_prototypes is None and self.check_cosine else ()
        warnings = {
            f"{name} features are all alike": f"mean cosine {statistics[f'cosine_{name}']:.3f} between two tokens"
            for name in compared
            # Predictions start all alike, at the mean of the targets. Targets do not.
            if statistics[f"cosine_{name}"] > MAX_MEAN_COSINE and (after_warmup or name == "projected")
        }
        if self.num_prototypes is not None:
            statistics["ln_k"] = math.log(self.num_prototypes)
            losses = {branch: float(sums[f"{branch}_loss"]) / num_ranks for branch in ("video", "target")}
            learns = after_warmup and step > self.held_steps
            for branch, loss in losses.items():
                of_codes = self._check_codes(sums[f"codes_{branch}"], loss if learns else None, branch, statistics)
                warnings |= of_codes if after_warmup else {}
            known = information(losses, statistics)
            self._watch_information(step, known, expected=learns)
            statistics |= known
        self._in_a_row = {what: self._in_a_row.get(what, 0) + 1 for what in warnings}
        if self.log_warnings:
            self._warn(step, warnings)
        if self.stops:
            self._stop(step, warnings)
        return statistics

    def _check_codes(
        self, counts_K: torch.Tensor, loss: float | None, branch: str, statistics: dict[str, float]
    ) -> dict[str, str]:
        """Add the statistics of one branch to `statistics`; return warnings about them, and about a loss if given."""
        of_codes = code_statistics(counts_K)
        num_usable = of_codes.pop("num_usable")
        statistics |= {f"{name}_{branch}": value for name, value in of_codes.items()}
        warnings = {}
        if loss is not None and loss > CHANCE_LOSS_RATIO * statistics["ln_k"]:
            warnings[f"{branch}_{GUESSING}"] = f"{loss:.3f}, and guessing gives {statistics['ln_k']:.3f}"
        used = of_codes["prototypes_used"]
        if num_usable > 1 and used < max(MIN_USED_RATIO * num_usable, 2):
            warnings[f"few prototypes are in use by the {branch} codes"] = f"{used} of {self.num_prototypes}"
        return warnings

    def _watch_information(self, step: int, known: Mapping[str, float], *, expected: bool) -> None:
        """Warn of a run that does not begin to learn; that is no reason to end it."""
        knows_nothing = expected and max(known.values()) <= 0
        self._without_information = self._without_information + 1 if knows_nothing else 0
        if self._without_information == STEPS_WITHOUT_INFORMATION and self.log_warnings:
            logger.warning(
                "step %d: for %d log steps neither branch has known anything of the other's codes (information %s "
                "nats): the run has not begun to learn. See 'What loss to expect' in PRETRAIN.md",
                step,
                STEPS_WITHOUT_INFORMATION,
                " and ".join(f"{value:.3f}" for value in known.values()),
            )

    def _stop(self, step: int, warnings: Mapping[str, str]) -> None:
        for what, numbers in warnings.items():
            if self._in_a_row[what] >= STEPS_TO_STOP:
                raise CollapseError(
                    f"step {step}: {what} ({numbers}), at {STEPS_TO_STOP} log steps in a row: the run is ended by "
                    "--stop_when_collapsed. Its checkpoints stay; see 'What loss to expect' in PRETRAIN.md"
                )

    def _warn(self, step: int, warnings: Mapping[str, str]) -> None:
        for what, numbers in warnings.items():
            if self._in_a_row[what] == (STEPS_TO_STOP if what.endswith(GUESSING) else 1):
                logger.warning(
                    "step %d: %s (%s): the representation may have collapsed. See 'What loss to expect' in PRETRAIN.md",
                    step,
                    what,
                    numbers,
                )
