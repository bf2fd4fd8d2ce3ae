"""The options of run_sigma_pretraining.py, and what they allow of each other."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from datasets.lists.splits import PretrainListConfig
from datasets.loading.loaders import LoaderConfig
from datasets.masks.masks import MaskConfig
from datasets.sampling import PRETRAINING_RATE, ClipConfig
from datasets.transforms.presets import PretrainAugmentConfig
from engine.checkpointing.checkpoint import CheckpointConfig
from engine.config import TrainingConfig
from engine.optim import OptimConfig
from engine.released_flags import PRETRAINING_FLAGS
from models.decoder import DecoderConfig
from models.methods import freezes_projection, method_name, uses_prototypes
from models.objectives import ObjectiveConfig
from models.registry import MODEL_HELP, input_size_for
from models.targets import TARGETS, TargetConfig
from models.vit import EncoderConfig
from sigma_video.options import OptionError, group, option

from .online_probe import OnlineProbeConfig


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(TrainingConfig):
    """Pre-train SIGMA (default) or VideoMAE (--target_type pixel) on videos. PRETRAIN.md explains the flags."""

    released = PRETRAINING_FLAGS

    optim: OptimConfig = group(
        "optimization", batch_size=16, epochs=800, lr=1.5e-4, min_lr=1e-5, warmup_epochs=40, opt_betas=(0.9, 0.95)
    )
    checkpoint: CheckpointConfig = group("checkpoints", save_ckpt_freq=50)
    model: str = option("pretrain_videomae_base_patch16_224", MODEL_HELP, metavar="NAME")
    encoder: EncoderConfig = group("encoder", without=("drop", "attn_drop_rate"))
    decoder: DecoderConfig = group("decoder")
    targets: TargetConfig = group("targets")
    objective: ObjectiveConfig = group("objective")
    lists: PretrainListConfig = group("list")
    clip: ClipConfig = group("clip", input_size=None)  # None: see `completed`
    augmentation: PretrainAugmentConfig = group("augmentation")
    masks: MaskConfig = group("mask")
    loader: LoaderConfig = group("loading")
    probe: OnlineProbeConfig = group("probe during training")

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of all flags, with the size that the model's name says."""
        return {**values, "input_size": input_size_for(values["model"], values["input_size"], classifies=False)}

    def ignored(self) -> dict[str, str]:
        found, targets = super().ignored(), self.targets
        if not uses_prototypes(targets, self.objective):
            why = f"{method_name(targets, self.objective)} has no prototypes"
            found |= dict.fromkeys(("num_prototypes", "sinkhorn_eps", "sinkhorn_iterations"), why)
        return found

    @property
    def learns_projection(self) -> bool:
        """Whether the projection network is trained in some epoch."""
        projects = TARGETS[self.targets.target_type].projects
        return projects and not freezes_projection(self.targets, self.optim.epochs)

    def __post_init__(self) -> None:
        targets = self.targets
        if TARGETS[targets.target_type].named and not targets.teacher:
            what = {"timm": "NAME, a ViT of timm", "video": "FILE, a checkpoint"}[targets.target_type]
            raise OptionError(f"--target_type {targets.target_type} needs --teacher {what}")
        if self.decoder.decoder_depth < 1:
            raise OptionError(f"--decoder_depth {self.decoder.decoder_depth}: must be at least 1")
        mask_type = self.masks.mask_type
        if mask_type.startswith("motion") and self.clip.num_frames < 2:
            raise OptionError(f"--mask_type {mask_type}: --num_frames {self.clip.num_frames} is a clip without motion")
        if mask_type == "motion_vectors" and self.loader.decoder == "decord":
            raise OptionError("--mask_type motion_vectors: decord does not give them; use --decoder pyav")

    def resolved(self) -> "PretrainingConfig":
        """The options, with every second frame where neither --sampling_rate nor --fps is given."""
        return dataclasses.replace(self, clip=self.clip.with_rate(PRETRAINING_RATE))
