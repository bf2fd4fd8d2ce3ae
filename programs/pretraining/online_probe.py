"""What the encoder has learnt so far: nearest neighbours and a linear layer on its frozen features, during training."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.catalogue import get_dataset_spec
from datasets.classification import ViewConfig
from datasets.errors import AnnotationError
from datasets.lists.splits import LabelledData, LabelledListConfig, find_list, read_labelled
from datasets.probing import Sight
from datasets.transforms.presets import TrainTransform
from engine.distributed.ddp import autocast
from engine.distributed.world import World, main_process_first, on_main_process
from engine.errors import ConfigError, as_config_error
from engine.training import describe_results
from evaluation.probing.heads import build_head
from evaluation.probing.nearest import classify_nearest
from evaluation.probing.rank import rankme
from evaluation.probing.recipes import RecipeConfig
from evaluation.probing.splits import refuse_overlap
from evaluation.probing.training import accuracy, probabilities, train_on_features
from models.sigma import Sigma
from sigma_video.options import AT_LEAST_ONE, OptionError, Options, option

from .probe_features import Features, frozen_features

logger = logging.getLogger(__name__)

PARTS = ("train", "val")
NOTHING_JUDGED = "none of the videos of a list can be decoded: nothing is judged"
# Lists are read as fine-tuning reads them; what its messages say of flags that pre-training lacks.
FOREIGN_REMEDY = re.compile(r"[,;.]?[^,;.]*--(?:nb_classes|task)\b[^,;.]*")
NEIGHBOURS, TEMPERATURE = 20, 0.07  # as DINO's evaluation
RECIPE = RecipeConfig(  # of run_probing.py's linear probe, with one of its learning rates: nothing is chosen here
    epochs=100, batch_size=384, lrs=(1e-2,), weight_decays=(0.05,), warmup_epochs=5.0, min_lr=1e-6
)


@dataclass(frozen=True, kw_only=True)
class OnlineProbeConfig(Options):
    """Judging the encoder while it trains."""

    probe_data: str = option(
        "",
        "folder with train.csv and val.csv: labelled videos that judge the encoder during training",
        metavar="FOLDER",
    )
    probe_every: int | None = option(None, "epochs between two probes of --probe_data; default: 10", rule=AT_LEAST_ONE)
    stop_when_collapsed: bool = option(
        False, "end a run whose features or assignments have collapsed, with exit code 2; default: warn"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probe_every is not None and not self.probe_data:
            raise OptionError(f"--probe_every {self.probe_every} needs --probe_data FOLDER: give both or none")

    @property
    def every(self) -> int:
        """Epochs between two probes."""
        return self.probe_every or 10


class OnlineProbe:
    """Judges an encoder on lists of labelled videos: one middle clip each, all tokens, after the final norm.

    Random numbers that training draws are as without it. The k-NN accuracy is that of `run_probing.py --probe knn` on
    the checkpoint, with one view.

    Args:
        data: the lists "train" and "val".
        sight: how videos become clips.
        amp: a key of AMP_DTYPES.
        loader: options of the loader, and samples of a forward pass.
        model: gives the model as it is now.
    """

    def __init__(
        self,
        data: LabelledData,
        sight: Sight,
        world: World,
        *,
        amp: str,
        loader: dict[str, Any],
        model: Callable[[], Sigma],
    ) -> None:
        self.data, self.sight, self.world, self.amp = data, sight, world, amp
        self.loader, self.model = loader, model

    def __call__(self) -> dict[str, float]:
        """Metrics by name, the same on every rank; every rank must call it.

        A video that cannot be decoded does not end the training: it counts as wrong, or is left out of "train".
        """
        device = self.world.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            bank, queries = (self._features(part) for part in PARTS)
            return on_main_process(self.world, lambda: self._judge(bank, queries))

    def begin(self, step: int) -> None:
        """Before training from a step: what is known at the first one, so that a list fails now if it has to.

        Raises:
            ConfigError: no video of a list can be decoded.
        """
        if step == 0:
            found = self()
            if not found:
                raise ConfigError(f"--probe_data: {NOTHING_JUDGED}; see the warnings above")
            logger.info("before training  %s", describe_results(found))

    def _features(self, part: str) -> Features:
        encoder = self.model().encoder.eval()
        forward = partial(autocast, self.world.device, self.amp)
        return frozen_features(encoder, self.data.lists[part], self.sight, self.world, autocast=forward, **self.loader)

    def _judge(self, bank: Features, queries: Features) -> dict[str, float]:
        if not len(bank.means) or not len(queries.means):
            logger.warning("--probe_data: %s", NOTHING_JUDGED)
            return {}
        share = len(queries.means) / queries.asked  # what cannot be decoded counts as wrong
        tokens = np.concatenate([bank.tokens, queries.tokens])
        return {
            "probe/knn": share * accuracy(self._votes(bank, queries), queries.labels),
            "probe/linear": share * accuracy(self._linear(bank, queries), queries.labels),
            "probe/rankme": rankme(np.concatenate([bank.means, queries.means])),
            "probe/rankme_tokens": rankme(tokens.reshape(-1, tokens.shape[-1])),
        }

    def _votes(self, bank: Features, queries: Features) -> np.ndarray:
        number = min(NEIGHBOURS, len(bank.means))
        votes = classify_nearest(
            queries.means[:, None],
            bank.means[:, None],
            bank.labels,
            device=self.world.device,
            neighbours=(number,),
            temperature=TEMPERATURE,
            num_classes=self.data.num_classes,
        )[number]
        return np.stack([votes[place] for place in range(len(queries.means))])

    def _linear(self, bank: Features, queries: Features) -> np.ndarray:
        device, width = self.world.device, bank.means.shape[1]
        torch.manual_seed(RECIPE.seed)
        head = build_head("linear", width, self.data.num_classes, num_heads=1, dropout=0.0, trains_norm=True).to(device)
        train_on_features(
            [head],
            RECIPE.candidates,
            RECIPE,
            features=bank.means[:, None],
            labels=bank.labels,
            places=np.arange(len(bank.means)),
            smoothing=0.0,
            device=device,
        )
        return probabilities(head, queries.means[:, None], np.arange(len(queries.means)), device=device)


def read_probe_lists(folder: str, root: str, world: World) -> LabelledData:
    """The lists of `--probe_data`. Every rank must call it.

    Raises:
        ConfigError: they cannot be used; one has no class that the other has, or there is one class alone.
    """
    lists = LabelledListConfig(data_path=folder, data_set="custom", data_root=root)
    for part in PARTS:
        if not find_list(Path(folder), part).exists():
            raise ConfigError(f"--probe_data {folder}: has no {part}.csv; give a folder with train.csv and val.csv")
    try:
        data = read_labelled(
            lists, PARTS, once=partial(on_main_process, world), in_turn=partial(main_process_first, world)
        )
    except AnnotationError as error:
        raise ConfigError(f"--probe_data {folder}: {FOREIGN_REMEDY.sub('', str(error))}") from error
    bank, queries = (data.lists[part] for part in PARTS)
    names = str(bank.file), str(queries.file)
    with as_config_error("--probe_data"):
        on_main_process(world, lambda: refuse_overlap(bank.samples(), queries.samples(), files=names))
    if len(np.unique(bank.labels)) < 2:
        raise ConfigError(f"--probe_data {folder}: one class alone in {bank.file}: there is nothing to tell apart")
    return data


def build_online_probe(config: Any, world: World, model: Callable[[], Sigma]) -> OnlineProbe | None:
    """The probe of `--probe_data`, its lists read and checked; None without it. Every rank must call it.

    Args:
        config: a PretrainingConfig.
        model: gives the model as it is now.

    Raises:
        ConfigError: the lists cannot be used.
    """
    folder = config.probe.probe_data
    if not folder:
        return None
    if config.run.enable_deepspeed and config.run.stage == 3:
        raise ConfigError("--probe_data is not for --zero_stage 3, where no rank has the encoder: choose stage 2")
    if config.run.cuda_graphs:
        raise ConfigError("--probe_data is not for --cuda_graphs, whose blocks take visible tokens alone: drop one")
    data = read_probe_lists(folder, config.lists.data_root, world)
    spec, size = get_dataset_spec("custom"), config.clip.input_size
    views = ViewConfig(short_side_size=size, test_num_segment=1, test_num_crop=1)
    clip, views = views.for_data_set(config.clip, spec)
    augment = partial(TrainTransform)
    sight = Sight(spec, clip, views, augment, 1.0, config.run.seed, config.loader.decoder)
    loader = {"batch_size": config.optim.batch_size, **config.loader.kwargs(rank=0, world_size=1, device=world.device)}
    return OnlineProbe(data, sight, world, amp=config.run.amp_on(world.device), loader=loader, model=model)


def describe_probe(probe: OnlineProbe | None, every: int) -> dict[str, str]:
    """What judges the encoder, in words: a row of the plan, if there is a probe."""
    if probe is None:
        return {}
    bank, queries = (probe.data.lists[part] for part in PARTS)
    number = min(NEIGHBOURS, len(bank))
    text = (
        f"every {every} epochs and after the last: {number}-NN and a linear layer, {len(bank)} videos of {bank.file}, "
        f"tested on {len(queries)} of {queries.file} ({probe.data.num_classes} classes)"
    )
    rows = {"probe": text} | {f"probe's {part}": probe.data.described[part] for part in PARTS}
    unknown = ~np.isin(queries.labels, bank.labels)
    if unknown.any():
        classes = len(np.unique(np.asarray(queries.labels)[unknown]))
        rows["probe's classes"] = (
            f"{unknown.sum()} videos of {queries.file} are of {classes} classes without a video in {bank.file}: they "
            "count as wrong"
        )
    return rows
