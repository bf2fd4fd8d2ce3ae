"""Fine-tuning, linear probing and testing: their options."""

from dataclasses import dataclass

from sigma_video.options import BETWEEN_0_AND_1, NOT_NEGATIVE, OptionError, Options, Rule, option

from .tasks.regression import LOSSES
from .tasks.table import TASKS
from .tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Options):
    """What is done with a classifier: fine-tuning, linear probing, or testing alone."""

    task: str = option(
        "classification",
        "what the lists say of a video: a class, any number of classes, a number",
        choices=tuple(TASKS),
    )
    regression_loss: str = option("mse", "of --task regression, over standardised numbers", choices=tuple(LOSSES))
    model_ema: bool = option(False, "average the weights over the updates, test both")
    model_ema_decay: float = option(0.9999, "decay of the moving average in an update", rule=BETWEEN_0_AND_1)
    model_ema_force_cpu: bool = option(False, "keep the average in host memory")
    layer_decay: float = option(
        0.75,
        "learning-rate factor from block to block",
        rule=Rule(lambda value: 0 < value <= 1, "must be above 0 and at most 1 (1: no decay)"),
    )
    linear_probing: bool = option(False, "train only fc_norm and head")
    random_encoder: bool = option(False, "let --linear_probing probe random weights, as a baseline")
    freeze_blocks: int = option(
        0, "the patch embedding and the first N blocks are not trained", rule=NOT_NEGATIVE, metavar="N"
    )
    lora_rank: int = option(
        0,
        "train low-rank adapters of this rank (LoRA), fc_norm and head in place of all weights; 0: do not",
        rule=NOT_NEGATIVE,
        metavar="RANK",
    )
    eval: bool = option(False, "only test the given weights")
    test_best: bool = option(
        False, "test the weights with the best validation, checkpoint-best.pth, in place of the last ones"
    )
    disable_eval_during_finetuning: bool = option(False, "no validation after each epoch")
    dist_eval: bool = option(False, "implied: testing is always split over the ranks")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_blocks and self.linear_probing:
            raise OptionError(
                f"--freeze_blocks {self.freeze_blocks}: --linear_probing freezes all blocks already: leave one out"
            )
        if self.lora_rank and self.linear_probing:
            raise OptionError(f"--lora_rank {self.lora_rank}: --linear_probing trains no adapters: leave one out")
        if self.regression_loss != "mse" and self.task != "regression":
            raise OptionError(f"--regression_loss {self.regression_loss} is for --task regression: give both or none")
        if self.test_best and self.disable_eval_during_finetuning and not self.eval:
            raise OptionError(
                "--test_best needs a validation after each epoch: leave out --disable_eval_during_finetuning"
            )

    def ignored(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self.model_ema:
            found |= dict.fromkeys(("model_ema_decay", "model_ema_force_cpu"), "there is no --model_ema")
        if self.linear_probing:
            why = "--linear_probing trains only fc_norm and head"
            found |= dict.fromkeys(("layer_decay", "drop", "attn_drop_rate", "drop_path", "use_checkpoint"), why)
        else:
            found["random_encoder"] = "there is no --linear_probing"
        return found

    def describe(self) -> str:
        """What is done, in words."""
        if self.eval:
            return "test only: nothing is trained"
        encoder = "random and frozen" if self.random_encoder else "frozen"
        if self.linear_probing:
            return f"linear probe: fc_norm and head are trained, the encoder is {encoder}"
        if self.lora_rank:
            return f"fine-tuning: adapters of rank {self.lora_rank} (LoRA), fc_norm and head are trained"
        if self.freeze_blocks:
            return f"fine-tuning: the patch embedding and the first {self.freeze_blocks} blocks are frozen"
        return "fine-tuning: all weights are trained"

    def check_run(self, *, zero_stage: int | None, weights: str) -> None:
        """Raise OptionError for what this task cannot be done with.

        Args:
            zero_stage: of DeepSpeed, if it trains.
            weights: the file that training starts from, '' for none.
        """
        if self.model_ema and zero_stage == 3:
            raise OptionError(
                "--model_ema averages whole weights, which no rank has in --zero_stage 3: choose stage 2, or leave it "
                "out"
            )
        if self.linear_probing and not (self.eval or weights or self.random_encoder):
            raise OptionError(
                "--linear_probing trains a head on a frozen encoder, which without weights would be random: give "
                "--finetune PATH, or --random_encoder if this baseline is meant"
            )
        if self.random_encoder and weights and not self.eval:
            raise OptionError(f"--random_encoder probes random weights, not those of {weights}: leave one of them out")

    @property
    def kind(self) -> type[Task]:
        """The class of the task."""
        return TASKS[self.task].cls

    def parts(self) -> list[str]:
        """The lists that are needed."""
        if self.eval:
            return ["test"]
        return ["train", "test"] if self.disable_eval_during_finetuning else ["train", "val", "test"]
