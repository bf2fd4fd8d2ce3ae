"""Sizes of a study: of one's own videos, of generated ones, and a tiny one that tries the commands."""

from dataclasses import dataclass

PEAK_LR = 5e-4  # of pre-training and fine-tuning


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes that all runs have in common.

    Attributes:
        stride: frames from one of a clip to the next.
        sampling: of labelled videos: frames at equal distances from all of a video, or dense, at the stride.
        augmentation: of pre-training.
        min_crop_area: of a frame, in what learns from labels; None: the crops of the released fine-tuning.
        batch: clips of a step. Pre-training takes `num_sample` of them from each video that it decodes.
        views: clips and crops of a video in testing.
        neighbours: of k-NN.
        searches: probes choose learning rate and weight decay on a fifth of the training videos.
        generated: numbers of videos to pre-train on, to learn and to test, where they are generated.
    """

    size: int = 32
    frames: int
    stride: int
    sampling: str = "uniform"
    augmentation: str
    min_crop_area: float | None = None
    batch: int
    num_sample: int
    pretrain_epochs: int
    warmup_epochs: int
    finetune_epochs: int
    probe_epochs: int
    views: tuple[int, int] = (2, 3)
    neighbours: int = 20
    searches: bool = True
    generated: tuple[int, int, int] = (0, 0, 0)


OWN = Settings(
    frames=16,
    stride=2,
    augmentation="multi_scale_crop",
    batch=32,
    num_sample=4,
    pretrain_epochs=50,
    warmup_epochs=10,
    finetune_epochs=60,
    probe_epochs=100,
)
GENERATED = Settings(
    frames=8,
    stride=1,
    sampling="dense",
    augmentation="resize",
    min_crop_area=0.9,
    batch=32,
    num_sample=1,
    pretrain_epochs=13,
    warmup_epochs=2,
    finetune_epochs=20,
    probe_epochs=100,
    generated=(3000, 500, 500),
)
SMOKE = Settings(
    frames=4,
    stride=2,
    augmentation="resize",
    batch=8,
    num_sample=1,
    pretrain_epochs=2,
    warmup_epochs=1,
    finetune_epochs=1,
    probe_epochs=2,
    views=(1, 1),
    neighbours=1,
    searches=False,
    generated=(32, 20, 10),
)
