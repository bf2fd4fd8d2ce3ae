"""Video object segmentation with frozen weights: `python run_segmentation.py --data_root DAVIS --finetune FILE`."""

import signal
import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0] or ".")  # `python -I` leaves it out
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import logging
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from datasets.errors import DATA_ERRORS
from datasets.segmentation import MaskedVideosConfig, find_masked_videos
from datasets.transforms.normalization import normalize_clips
from engine.checkpointing.download import hash_of_weights
from engine.checkpointing.read_weights import StartConfig, Weights
from engine.distributed.collectives import gather_objects
from engine.distributed.world import World, distributed, on_every_rank, on_main_process
from engine.errors import as_config_error, user_errors
from engine.files import make_folder
from engine.flags import parse
from engine.monitoring.metrics import log_table, setup_logging
from engine.record import code_commit
from engine.resilience.lock import WAYS_OUT, output_lock
from engine.weights import load_weights
from evaluation.records import Record, hash_of_file
from evaluation.segmentation.clips import ClipJob, check_clips, check_points, evaluate_clips
from evaluation.segmentation.clustering import ClusteringConfig
from evaluation.segmentation.masked_video import MaskedVideo, MaskError
from evaluation.segmentation.pictures import write_sheet
from evaluation.segmentation.propagation import PropagationConfig, size_for
from evaluation.segmentation.sequences import SequenceJob, check_sequences, evaluate_sequence
from models import ModelError
from models.analysis.frames import frame_tokens, sliding_tokens
from models.classifier import Classifier, HeadConfig
from models.registry import build_classifier
from models.vit import EncoderConfig, VideoTransformer
from models.weights.load import LoadReport, load_encoder
from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, OptionError, Options, group, option, recorded

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Options):
    """Where the results go."""

    output_dir: str = option("", "a JSON record for each number, overlays; empty: the numbers are only logged")
    overlays: bool = option(False, "draw the result of every sequence, and a contact sheet")
    save_masks: bool = option(False, "also write the masks that labels were passed on to, as DAVIS stores its own")
    device: str = option("auto", "auto: a GPU if there is one", choices=("auto", "cpu", "cuda"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.overlays or self.save_masks) and not self.output_dir:
            flag = "--overlays" if self.overlays else "--save_masks"
            raise OptionError(f"{flag} writes into --output_dir: give a folder, or leave it out")


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(Options):
    """Which tokens are compared."""

    num_frames: int = option(16, "frames of a clip", rule=AT_LEAST_ONE)
    input_size: int = option(224, "height and width of a clip", rule=AT_LEAST_ONE)
    random_weights: int | None = option(
        None, "weights drawn by this seed, in place of --finetune", rule=NOT_NEGATIVE, metavar="SEED"
    )
    final_norm: bool = option(True, "tokens after the encoder's final norm, or before it", switch="pair")
    positions: str = option(
        "rows",
        "of a clip with fewer frames than the weights were trained on: the first rows of their position table, or all "
        "of it resampled",
        choices=("rows", "resampled"),
    )
    frame_tokens: str = option(
        "repeated",
        "of a single frame, for --task propagation: it is repeated to a tubelet, at --frame_size; or it slides through "
        "a clip of --num_frames at --input_size, whose slot it takes",
        choices=("repeated", "sliding"),
    )


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(Options):
    """Segment objects in videos with frozen weights: clusters of tokens, or labels passed on from the first frame."""

    task: str = option(
        "clustering",
        "clustering: unsupervised, mean IoU of clusters; propagation: from the first mask on, DAVIS's J and F",
        choices=("clustering", "propagation"),
    )
    model: str = option("vit_base_patch16_224", "name of the model whose encoder the weights are")
    encoder: EncoderConfig = group("encoder", without=("drop", "attn_drop_rate", "drop_path", "use_checkpoint"))
    start: StartConfig = group("weights")
    features: FeatureConfig = group("features")
    data: MaskedVideosConfig = group("data")
    clustering: ClusteringConfig = group("clustering")
    propagation: PropagationConfig = group("propagation")
    output: OutputConfig = group("output")

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.start.finetune) == (self.features.random_weights is not None):
            raise OptionError("give either --finetune FILE or --random_weights SEED: the weights that are evaluated")
        if self.output.save_masks and self.task == "clustering":
            raise OptionError("--save_masks is for --task propagation: leave it out, --overlays draws clusters")
        if self.slides and self.task == "clustering":
            raise OptionError("--frame_tokens sliding is for --task propagation: clusters are of whole clips")

    @property
    def slides(self) -> bool:
        """Whether frames are seen in clips, not one by one."""
        return self.features.frame_tokens == "sliding"


def build_encoder(config: SegmentationConfig, world: World) -> Classifier:
    """The encoder with its weights, frozen; its head is not used."""
    torch.manual_seed(config.features.random_weights or 0)
    model = build_classifier(config.model, config.encoder, HeadConfig(num_classes=1, use_mean_pooling=False))

    def load(weights: Weights) -> LoadReport:
        trained_with = config.start.trained_with(weights.args)
        report = load_encoder(model, weights.tensors, trained_with=trained_with, with_head=False)
        if config.features.final_norm and "norm.weight" not in report.matched:
            raise ModelError("it has no final norm, as a fine-tuned classifier that pools: give --no-final_norm")
        return report

    if config.start.finetune:
        load_weights(config.start.finetune, config.start, load, world=world)
    trained, own = model.position_grid, model.grid
    if config.features.positions == "rows" and trained[1:] == own[1:] and trained[0] > own[0]:
        model.resample_positions(own)  # the table of the own grid is the first rows of the trained one
    if not config.features.final_norm:
        model.norm = torch.nn.Identity()
    return model.to(world.device).eval().requires_grad_(False)


def clip_tokens(model: Classifier, clip: Any, device: torch.device) -> Any:
    """(T, H, W, 3) uint8 -> (t, h, w, D) float32, both in NumPy."""
    pixels = torch.from_numpy(clip).to(device).movedim(-1, 1)[None]
    return VideoTransformer.forward(model, normalize_clips(pixels))[0].unflatten(0, model.grid).float().cpu().numpy()


def tokens_of_frames(
    model: Classifier, video: MaskedVideo, size: tuple[int, int], device: torch.device, *, slides: bool
) -> Any:
    """(h, w, D) of every frame, one after the other."""
    if slides:
        pixels = torch.from_numpy(video.read_images(range(len(video.masks)), size)).movedim(-1, 1)[None]
        yield from sliding_tokens(model, normalize_clips(pixels.to(device))[0].transpose(0, 1))
        return
    for frame in range(len(video.masks)):
        pixels = torch.from_numpy(video.read_images([frame], size)).to(device).movedim(-1, 1)[None]
        yield frame_tokens(model, normalize_clips(pixels)[:, :, 0])[0]


def cluster(
    config: SegmentationConfig, world: World, model: Classifier, videos: Sequence[MaskedVideo]
) -> dict[str, Any]:
    """Scores of all clips by metric, seed and name; clips that share a fit stay on one rank."""
    job = ClipJob(
        config.clustering,
        num_frames=config.encoder.num_frames,
        tubelet=model.tubelet[0],
        size=(config.encoder.img_size, config.encoder.img_size),
        void=config.data.void_label,
        tokens=lambda clip: clip_tokens(model, clip, world.device),
        pictures=Path(config.output.output_dir) if config.output.overlays else None,
    )
    check_points(job, model.grid[1:])
    number = config.clustering.fit_clips
    fits = [videos[i : i + number] for i in range(0, len(videos), number)]
    return merge(evaluate_clips(fit, job) for fit in fits[world.rank :: world.size])


def propagate_all(
    config: SegmentationConfig, world: World, model: Classifier, videos: Sequence[MaskedVideo]
) -> dict[str, Any]:
    """J and F of every object, by metric and name."""
    for video in () if config.slides else videos:  # before work: whether patches divide the frames
        size_for(*video.image_size(), config.propagation.frame_size, patch=model.tubelet[1])
    job = SequenceJob(
        config.propagation.resolved(),
        patch=model.tubelet[1],
        void=config.data.void_label,
        tokens=lambda video, size: tokens_of_frames(model, video, size, world.device, slides=config.slides),
        size=(config.encoder.img_size, config.encoder.img_size) if config.slides else None,
        pictures=Path(config.output.output_dir) if config.output.overlays else None,
        masks=Path(config.output.output_dir) / "masks" if config.output.save_masks else None,
    )
    return merge(evaluate_sequence(video, job) for video in videos[world.rank :: world.size])


def merge(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Nested dictionaries of numbers put together."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            whole[key] = merge([whole.get(key, {}), value]) if isinstance(value, dict) else value
    return whole


def make_records(
    config: SegmentationConfig, results: dict[str, dict[str, dict[str, float]]], order: list[str], listed: Path
) -> list[Record]:
    """A record for each metric.

    Args:
        results: by metric, seed and clip or object.
        order: of the clips' names, which decides the last bits of means.
    """
    weights = config.start.finetune
    names = ("torch", "numpy", "scipy", "scikit-learn", "pillow")
    common: dict[str, Any] = {
        "task": f"segmentation-{config.task}",
        "clips": len(order),
        "data_set": Path(config.data.data_root).resolve().name,
        "model": config.model,
        "checkpoint": weights,
        "checkpoint_sha256": hash_of_weights(weights),
        "list_file": str(listed),
        "list_sha256": hash_of_file(listed),
        "options": recorded(config) | (recorded(config.propagation.resolved()) if config.task == "propagation" else {}),
        "seeds": config.clustering.seeds if config.task == "clustering" else (),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "commit": code_commit(),
    }
    place = {name: number for number, name in enumerate(order)}
    return [
        Record(metric=metric, **mean_over(by_seed, key=lambda name: (place[name.partition(":")[0]], name)), **common)
        for metric, by_seed in results.items()
    ]


def mean_over(by_seed: dict[str, dict[str, float]], key: Callable[[str], Any]) -> dict[str, Any]:
    """The value of a metric, its values by seed and by clip: means over clips, then over seeds."""
    names = sorted(next(iter(by_seed.values())), key=key)
    per_seed = [sum(clips[name] for name in names) / len(names) for clips in by_seed.values()]
    per_clip = {name: sum(clips[name] for clips in by_seed.values()) / len(by_seed) for name in names}
    return {"value": sum(per_seed) / len(per_seed), "per_seed": per_seed, "per_clip": per_clip}


def check(config: SegmentationConfig) -> tuple[Sequence[MaskedVideo], Path]:
    """The sequences, with every mask that will be used looked at."""
    videos, listed = find_masked_videos(config.data)
    void = config.data.void_label
    if config.task == "clustering":
        size = config.encoder.img_size, config.encoder.img_size
        check_clips(videos, config.clustering, num_frames=config.encoder.num_frames, size=size, void=void)
    else:
        check_sequences(videos, void=void)
    return videos, listed


def main(config: SegmentationConfig, world: World) -> None:
    """From options to records."""
    if config.output.output_dir:
        make_folder("output_dir", config.output.output_dir, written=("console.txt",), replaced=("segmentation-*.json",))
    setup_logging(world, config.output.output_dir)
    videos, listed = on_main_process(world, lambda: check(config))
    with as_config_error():
        model = build_encoder(config, world)
    log_table("data", {"list": str(listed), "sequences": str(len(videos)), "ranks": str(world.size)})
    evaluate = cluster if config.task == "clustering" else propagate_all
    with torch.inference_mode():
        results = merge(gather_objects(on_every_rank(world, lambda: evaluate(config, world, model, videos))))
    if not world.is_main:
        return
    order = [video.name for video in videos]
    records = make_records(config, results, order, listed)
    log_table("results", {record.metric: f"{record.value:.2f}" for record in records})
    output = Path(config.output.output_dir)
    if config.output.output_dir:
        for record in records:
            record.write(output)
    if config.output.overlays:
        write_sheet([output / "overlays" / f"{name}.png" for name in order], output / "overlays.png")


if __name__ == "__main__":
    errors = (*DATA_ERRORS, MaskError, ModelError)
    interrupted = "interrupted; the same command begins again"
    with user_errors(*errors, interrupted=interrupted):
        parsed = parse(SegmentationConfig)
        with (
            distributed(parsed.output.device) as world,
            user_errors(*errors, interrupted=interrupted),
            output_lock(parsed.output.output_dir, world, WAYS_OUT),
        ):
            main(parsed, world)
