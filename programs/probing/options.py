"""The options of run_probing.py, and what they allow of each other."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from datasets.catalogue import get_dataset_spec
from datasets.classification import ViewConfig
from datasets.lists.splits import LabelledListConfig
from datasets.loading.loaders import LoaderConfig
from datasets.sampling import ClipConfig
from datasets.transforms.mixup import MixupConfig
from datasets.transforms.presets import AugmentConfig
from engine.checkpointing.read_weights import StartConfig
from engine.distributed.ddp import AMP_DTYPES
from evaluation.probing.nearest import NeighbourConfig
from evaluation.probing.recipes import PROBES, RecipeConfig, defaults_for, filled
from inference.features import DTYPES
from inference.load import POSITIONS
from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, OptionError, Options, Rule, group, option


@dataclass(frozen=True, kw_only=True)
class EncoderUse(Options):
    """The encoder, and which of its tokens are used."""

    random_weights: int | None = option(
        None, "weights drawn by this seed, in place of --finetune", rule=NOT_NEGATIVE, metavar="SEED"
    )
    model: str = option("vit_base_patch16_224", "with --random_weights: name of the model", metavar="NAME")
    final_norm: bool | None = option(
        None, "tokens after the encoder's final norm; default: not for linear, as in fine-tuning", switch="pair"
    )
    positions: str = option(
        "rows",
        "of a clip with fewer frames than the weights were trained on: the first rows of their position table, or all "
        "of it resampled",
        choices=POSITIONS,
    )
    amp: str | None = option(None, "mixed precision; default: bf16 on a GPU, none on a CPU", choices=tuple(AMP_DTYPES))


@dataclass(frozen=True, kw_only=True)
class CropConfig(Options):
    """What AugmentConfig has no option for."""

    crop_aspect: float | None = option(
        None,
        "widest random crop of a training clip, width over height; default: 2 (pooler1), 4/3",
        rule=Rule(lambda aspect: aspect >= 1, "must be at least 1"),
    )


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Options):
    """Where features and results go."""

    output_dir: str = option("", "gets the results, one JSON record a number, and the features", metavar="FOLDER")
    cache_dir: str = option("", "folder of the features; default: features in --output_dir", metavar="FOLDER")
    rebuild_features: bool = option(False, "make features anew, whatever the folder holds")
    feature_dtype: str = option("float32", "type in which features are kept", choices=DTYPES)
    forward_batch: int = option(32, "samples that the encoder takes at a time, with all their views", rule=AT_LEAST_ONE)
    any_length: bool = option(
        False, "take lists that have not the published number of samples; records and tables show the number"
    )
    device: str = option("auto", "auto: a GPU if there is one", choices=("auto", "cpu", "cuda"))


@dataclass(frozen=True, kw_only=True)
class ProbingConfig:
    """Judge a frozen encoder by a small classifier on its features. docs/probing.md explains the flags."""

    probe: str = option(
        "linear",
        "linear: on pooled features; pooler1: one cross-attention; attentive4: four blocks; knn: nearest neighbours",
        choices=tuple(PROBES),
    )
    encoder: EncoderUse = group("encoder")
    start: StartConfig = group("weights")
    lists: LabelledListConfig = group("lists")
    clip: ClipConfig = group("clip", num_frames=None, input_size=None, num_sample=None)  # None: see `completed`
    views: ViewConfig = group("views", short_side_size=None)
    recipe: RecipeConfig = group("training of heads")
    augmentation: AugmentConfig = group(
        "augmentation",
        without=("finetuning_crops", "train_interpolation", "remode", "recount"),
        aa=None,
        reprob=None,
    )
    crops: CropConfig = group("augmentation")
    mixing: MixupConfig = group("mixing", without=("cutmix_minmax", "mixup_prob", "mixup_switch_prob", "mixup_mode"))
    neighbours: NeighbourConfig = group("nearest neighbours")
    loader: LoaderConfig = group("loading", without=("gpu_prefetch", "samples_per_epoch"))
    output: OutputConfig = group("output")

    def __post_init__(self) -> None:
        if bool(self.start.finetune) == (self.encoder.random_weights is not None):
            raise OptionError("give either --finetune FILE or --random_weights SEED: the weights that are judged")
        if not (self.output.output_dir or self.output.cache_dir or self.is_attentive):
            raise OptionError("--output_dir FOLDER is needed: features and results are written there")
        if PROBES[self.probe].trains and len(self.recipe.candidates) > 1 and not 0 < self.recipe.holdout < 1:
            raise OptionError(
                f"--holdout {self.recipe.holdout:g} leaves nothing to choose one of {len(self.recipe.candidates)} "
                "heads on: give a part between 0 and 1, or a single value of --lrs and --weight_decays"
            )
        if self.is_attentive and self.recipe.batch_size * (self.clip.num_sample or 1) % 2 and self.mixing.is_on:  # type: ignore[operator]
            raise OptionError("--batch_size is odd, and clips are mixed in pairs: choose an even one")

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of all flags, with what the probe decides."""
        spec = get_dataset_spec(values["data_set"])
        return filled(values, defaults_for(values["probe"], spec.name, epochs=values["epochs"]))

    def noted(self, given: Collection[str]) -> "ProbingConfig":
        """The same options. Raises OptionError for flags on the command line that have no effect for the probe."""
        useless = [name for name in PROBES[self.probe].without_effect if name in given]
        if self.spec.images:
            useless += [name for name in ("aa", "reprob", "crop_aspect", "sampling", "fps") if name in given]
        if self.start.finetune and "model" in given:
            raise OptionError(f"--model {self.encoder.model}: the file of --finetune says its model: leave it out")
        if useless:
            raise OptionError(f"--{useless[0]} has no effect with --probe {self.probe}: leave it out")
        return self

    @property
    def is_attentive(self) -> bool:
        """Whether the probe reads tokens, which are not kept."""
        return PROBES[self.probe].reads_tokens

    @property
    def spec(self) -> Any:
        """The data set."""
        return get_dataset_spec(self.lists.data_set)
