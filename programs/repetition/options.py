"""The options of run_repetition_counting.py, and what they allow of each other."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from datasets.loading.loaders import LoaderConfig
from engine.checkpointing.checkpoint import CheckpointConfig
from engine.config import RunConfig, TrainingConfig
from engine.optim import OptimConfig
from evaluation.repetition.anchors import NUM_OUTPUTS
from evaluation.repetition.annotations import RepetitionDataConfig
from evaluation.repetition.config import CountingConfig
from models.classifier import HeadConfig
from models.registry import MODEL_HELP, input_size_for
from models.vit import EncoderConfig
from sigma_video.options import OptionError, group, option


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig(TrainingConfig):
    """Fine-tune an encoder to count repetitions, and test it on UCFRep. docs/severe.md explains the flags."""

    essential = ("data_root", "output_dir", "model", "finetune", "eval", "batch_size", "epochs", "lr", "num_workers")

    run: RunConfig = group("run", without=("enable_deepspeed", "zero_stage", "cuda_graphs", "memory_plan"))
    optim: OptimConfig = group(
        "optimization", batch_size=32, epochs=100, lr=4e-4, min_lr=4e-4, warmup_epochs=0, opt_betas=(0.9, 0.999)
    )
    checkpoint: CheckpointConfig = group("checkpoints", save_ckpt_freq=100)
    data: RepetitionDataConfig = group("data")
    counting: CountingConfig = group("counting")
    model: str = option("vit_base_patch16_224", MODEL_HELP, metavar="NAME")
    encoder: EncoderConfig = group("encoder")
    head: HeadConfig = group("head", without=("use_mean_pooling",))
    loader: LoaderConfig = group("loading", without=("gpu_prefetch", "samples_per_epoch", "pin_mem"))

    def __post_init__(self) -> None:
        counting, steps = self.counting, self.checkpoint.save_ckpt_steps
        if not counting.eval and steps % counting.updates_per_batch:
            raise OptionError(
                f"--save_ckpt_steps {steps} has to be a multiple of --updates_per_batch {counting.updates_per_batch}: "
                "between these updates the hypotheses about a batch are in no checkpoint"
            )

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of all flags, with the size that the model's name says."""
        return {**values, "input_size": input_size_for(values["model"], values["input_size"], classifies=True)}

    @property
    def trains(self) -> bool:
        return not self.counting.eval

    @property
    def heads(self) -> HeadConfig:
        """Of the network: the mean over tokens, and the outputs of both branches."""
        return dataclasses.replace(self.head, num_classes=NUM_OUTPUTS, use_mean_pooling=True)
