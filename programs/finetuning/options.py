"""The options of run_class_finetuning.py, and what they allow of each other."""

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import Any

from datasets.catalogue import get_dataset_spec
from datasets.class_balance import BalanceConfig
from datasets.classification import SHORT_SIDE, ViewConfig
from datasets.lists.splits import LabelledListConfig
from datasets.loading.loaders import LoaderConfig
from datasets.sampling import ClipConfig
from datasets.transforms.mixup import MixupConfig
from datasets.transforms.presets import AugmentConfig
from engine.checkpointing.checkpoint import CheckpointConfig
from engine.config import TrainingConfig
from engine.finetuning import FinetuneConfig
from engine.optim import OptimConfig
from engine.released_flags import FINETUNING_FLAGS
from models.classifier import HeadConfig
from models.registry import MODEL_HELP, input_size_for
from models.vit import EncoderConfig
from sigma_video.options import OptionError, group, option


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig(TrainingConfig):
    """Fine-tune, linearly probe or test a video classifier. FINETUNE.md explains the flags."""

    released = FINETUNING_FLAGS

    optim: OptimConfig = group(
        "optimization", batch_size=64, epochs=30, lr=1e-3, min_lr=1e-6, warmup_epochs=5, opt_betas=(0.9, 0.999)
    )
    checkpoint: CheckpointConfig = group("checkpoints", save_ckpt_freq=100)
    task: FinetuneConfig = group("task")
    model: str = option("vit_base_patch16_224", MODEL_HELP, metavar="NAME")
    encoder: EncoderConfig = group("encoder", drop_path=0.1)
    head: HeadConfig = group("head")
    lists: LabelledListConfig = group("lists")
    clip: ClipConfig = group("clip", num_sample=2, input_size=None)  # None: see `completed`
    views: ViewConfig = group("views", short_side_size=None)
    augmentation: AugmentConfig = group("augmentation")
    mixing: MixupConfig = group("mixing")
    balance: BalanceConfig = group("classes of unequal size")
    loader: LoaderConfig = group("loading")

    def __post_init__(self) -> None:
        self.views.check_size(self.clip.input_size)
        self.check_task()
        if self.run.memory_plan is not None and self.task.eval:
            raise OptionError("--memory_plan is for training, and --eval only tests: leave one of them out")
        if not self.task.eval:
            self.mixing_of_task().check_batch(self.optim.batch_size, self.clip.num_sample)
        if self.task.lora_rank and not self.task.eval:
            self.check_lora()
        self.task.check_run(zero_stage=self.run.zero_stage, weights=self.start.finetune or self.checkpoint.resume)

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of all flags, with the sizes that the model's name says."""
        size = input_size_for(values["model"], values["input_size"], classifies=True)
        return {**values, "input_size": size, "short_side_size": values["short_side_size"] or max(size, SHORT_SIDE)}

    def ignored(self) -> dict[str, str]:
        found = super().ignored()
        if (self.views.sampling or get_dataset_spec(self.lists.data_set).sampler) == "uniform":
            found["sampling_rate"] = "uniform sampling takes its frames from the whole video"
        return found

    @property
    def trains(self) -> bool:
        return not self.task.eval

    def check_task(self) -> None:
        """Raise OptionError for options that do not fit the task."""
        task, flag = self.task, self.balance.flag
        if flag and not task.kind.has_classes:
            raise OptionError(f"{flag} needs one class for every video, which --task {task.task} has not: leave it out")
        if task.kind.labels == "value" and self.lists.nb_classes is not None:
            raise OptionError(
                f"--nb_classes {self.lists.nb_classes}: --task {task.task} has one number a video and no classes: "
                "leave it out"
            )
        if self.views.view_pooling == "max" and task.task != "multilabel":
            raise OptionError(
                f"--view_pooling max is for --task multilabel; --task {task.task} takes the mean over views: leave it "
                "out"
            )
        if task.test_best and not self.run.output_dir:
            raise OptionError("--test_best tests checkpoint-best.pth in --output_dir: give one")
        if task.test_best and task.eval and self.checkpoint.resume:
            raise OptionError("--test_best and --resume both name the weights that --eval tests: give one of them")
        if task.test_best and self.run.stage == 3:
            raise OptionError("--test_best is not for --zero_stage 3: choose stage 2, or test the file with --eval")
        starts = self.start.finetune or self.checkpoint.resume or task.eval
        if task.freeze_blocks and not starts:
            raise OptionError(
                f"--freeze_blocks {task.freeze_blocks} without --finetune would keep random weights: give the weights "
                "to start from"
            )

    def check_lora(self) -> None:
        """Raise OptionError for what adapters cannot be trained with."""
        rank = self.task.lora_rank
        if not (self.start.finetune or self.checkpoint.resume):
            raise OptionError(
                f"--lora_rank {rank} without --finetune would adapt random weights: give the weights to start from"
            )
        if self.run.enable_deepspeed:
            raise OptionError(f"--lora_rank {rank} is not for --enable_deepspeed: leave one of them out")
        if importlib.util.find_spec("peft") is None:
            raise OptionError(
                f"--lora_rank {rank}: peft is not installed: install the extra `lora` (INSTALL.md), or `pip install "
                "peft`, or leave the flag out"
            )

    def mixing_of_task(self) -> MixupConfig:
        """How clips are mixed, with what is left to the task."""
        return self.mixing.for_task(self.task.task, has_classes=self.task.kind.has_classes)

    def resolved(self) -> "FinetuningConfig":
        """The options with what they leave to data set and task, without the back end of a run that does not train."""
        clip, views = self.views.for_data_set(self.clip, get_dataset_spec(self.lists.data_set))
        run = dataclasses.replace(self.run, enable_deepspeed=False, zero_stage=None) if self.task.eval else self.run
        return dataclasses.replace(self, clip=clip, views=views, run=run, mixing=self.mixing_of_task())
