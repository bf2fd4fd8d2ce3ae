"""Pre-train SIGMA or VideoMAE: `python run_sigma_pretraining.py --data_path train.csv --output_dir output/run`."""

import signal
import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0] or ".")  # `python -I` leaves it out
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import dataclasses
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from datasets.decoding.open import describe_decoder
from datasets.errors import DATA_ERRORS
from datasets.lists.checks import check_files
from datasets.lists.splits import PretrainListConfig
from datasets.lists.video_list import VideoList
from datasets.loading.loaders import LoaderConfig, build_train_loader
from datasets.loading.workers import loader_errors
from datasets.masks.flow_guided import MotionGuide, flow_model
from datasets.masks.masks import MaskConfig
from datasets.masks.motion_vectors import check_motion_vectors
from datasets.pretraining import PretrainDataset
from datasets.sampling import PRETRAINING_RATE, ClipConfig
from datasets.transforms.presets import PretrainAugmentConfig, PretrainTransform
from engine.acceleration.compilation import compile_blocks, with_compilation
from engine.acceleration.cuda_graphs import capture_stacks
from engine.checkpointing.checkpoint import CheckpointConfig
from engine.checkpointing.read_weights import Weights
from engine.checkpointing.resume import check_finished, finished_checkpoint
from engine.config import RunFacts, TrainingConfig
from engine.distributed.collectives import all_reduce_sum
from engine.distributed.ddp import AMP_DTYPES
from engine.distributed.world import World, main_process_first, on_main_process
from engine.dry_run import rehearse
from engine.errors import ConfigError, as_config_error
from engine.memory import Need, check_memory
from engine.monitoring.collapse import CollapseDetector
from engine.monitoring.metrics import log_table
from engine.optim import OptimConfig
from engine.pretraining import PretrainingForward
from engine.released_flags import PRETRAINING_FLAGS
from engine.setup import (
    Instruments,
    TrainingSet,
    build_trainer,
    model_init_context,
    place_model,
    prepare,
    run_script,
)
from engine.training import fit
from engine.weights import load_weights, read_weights_once
from models import ModelError
from models.analysis.figures import pretraining_pictures
from models.analysis.flops import pretraining_flops
from models.attention import describe_attention
from models.decoder import DecoderConfig
from models.kernels.support import agree_on_kernels
from models.methods import describe_method, method_name, uses_prototypes
from models.objectives import ObjectiveConfig
from models.registry import MODEL_HELP, build_pretraining_model, input_size_for
from models.sigma import Sigma
from models.sinkhorn.passes import describe_passes
from models.sizes import pretraining_parts, tokens_of
from models.targets import TARGETS, TargetConfig
from models.teachers import ImageTeacher, build_teacher, with_teacher_dim
from models.vit import EncoderConfig
from models.weights.load import LoadReport, load_pretraining, load_projection, native_state
from sigma_video.options import OptionError, group, option, recorded

logger = logging.getLogger(__name__)


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

    def __post_init__(self) -> None:
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


def needs(config: PretrainingConfig, world: World, targets: TargetConfig) -> list[Need]:
    """Memory that the run takes at least, by the options that decide it."""
    optim, clip = config.optim, config.clip
    parts = pretraining_parts(config.model, config.encoder, config.decoder, targets, config.objective)
    clips, num_masks = optim.batch_size * clip.num_sample, config.masks.num_masks
    num_tokens = tokens_of(config.model, config.encoder)
    flags = f"--batch_size {optim.batch_size}, --num_sample {clip.num_sample}, --input_size {clip.input_size}"
    return [
        *(Need(part.flags, part.name, config.run.bytes_of(part.weights, part.table, world.size)) for part in parts),
        Need(f"{flags}, --num_frames {clip.num_frames}", f"{clips} clips of a batch", clips * clip.bytes_per_clip),
        # A mask is a byte a token, and a position is int64.
        Need(f"{flags}, --num_masks {num_masks}", f"{clips * num_masks} masks", 9 * clips * num_masks * num_tokens),
    ]


def build_model(config: PretrainingConfig, world: World, facts: RunFacts) -> Sigma:
    """The model, the same on every rank, with the weights that training starts from."""
    torch.manual_seed(config.run.seed)
    start, targets = config.start, with_teacher_dim(config.targets)
    check_memory(needs(config, world, targets), world.device)
    with model_init_context(config, world, loads=bool(start.finetune or targets.mlp_preloading)):
        model = build_pretraining_model(
            config.model, config.encoder, config.decoder, targets, config.objective, all_reduce=all_reduce_sum
        )

    def load(weights: Weights) -> LoadReport:
        return load_pretraining(model, weights.tensors, trained_with=start.trained_with(weights.args))

    if start.finetune:
        facts.licence = load_weights(start.finetune, start, load, world=world).licence
    if targets.mlp_preloading:
        load_weights(
            targets.mlp_preloading, start, lambda weights: load_projection(model, weights.tensors), world=world
        )
        model.freeze_projection()
    facts.position_grid = list(model.encoder.position_grid)
    learned = TARGETS[targets.target_type].projects and not targets.mlp_preloading
    if learned and not model.objective.uses_prototypes:
        logger.warning(
            "--target_type mlp --loss_func L2: prediction and projection can agree on a constant, and will: this is "
            "the paper's collapsing baseline. Use --loss_func SWAV to train SIGMA"
        )
    place_model(config, world, model)
    return model


def build_target_network(config: PretrainingConfig, world: World, model: Sigma) -> ImageTeacher | None:
    """The frozen image teacher of `--target_type dino_...`."""
    targets = config.targets
    if not targets.uses_teacher:
        return None
    weights = read_network(targets.teacher_weights, config, world) if targets.teacher_weights else None
    build = partial(
        build_teacher,
        targets.target_type,
        targets.teacher,
        img_size=config.clip.input_size,
        tubelet=model.encoder.tubelet,
        grid=model.encoder.grid,
        dtype=AMP_DTYPES[config.run.amp_on(world.device)],
        weights=weights,
    )
    try:
        teacher = main_process_first(world, build) if weights is None else build()  # timm downloads them
    except ModelError as error:
        raise ConfigError(f"{targets.teacher_weights}: {error}" if targets.teacher_weights else str(error)) from error
    return teacher.to(world.device)


def build_guide(config: PretrainingConfig, world: World, model: Sigma) -> MotionGuide | None:
    """What `--mask_type motion` follows: optical flow."""
    masks = config.masks
    if masks.mask_type != "motion":
        return None
    state = native_state(read_network(masks.flow_weights, config, world)) if masks.flow_weights else None
    network = main_process_first(world, lambda: flow_model(None)) if state is None else flow_model(state)  # downloads
    low_precision = world.device.type == "cuda" and config.run.amp_on(world.device) == "bf16"
    return MotionGuide(network, model.encoder.grid, low_precision=low_precision).to(world.device)


def read_network(path: str, config: PretrainingConfig, world: World) -> dict[str, torch.Tensor]:
    """Tensors of a frozen network's file; its makers keep them under one of these keys, or under none."""
    trust = config.start.trust_checkpoint
    return read_weights_once(path, world, model_key="teacher|model|module|state_dict|", trust=trust).tensors


def build_data(
    config: PretrainingConfig, world: World, model: Sigma, facts: RunFacts
) -> tuple[VideoList, PretrainDataset]:
    """The list, checked, and the data set over it."""
    with as_config_error("--decoder"):
        facts.decoder_used = describe_decoder(config.loader.decoder)
    with as_config_error("--mask_ratio"):
        config.masks.num_masked(model.encoder.grid)
    videos = main_process_first(world, config.lists.read)
    missing = on_main_process(world, lambda: check_files(videos, at_most=50_000))
    if config.masks.mask_type == "motion_vectors":
        on_main_process(world, lambda: check_motion_vectors(videos))
    dataset = PretrainDataset(
        videos,
        config.clip,
        config.masks,
        transform=PretrainTransform(config.clip.input_size, config.augmentation.augmentation),
        grid=model.encoder.grid,
        seed=config.run.seed,
        decoder=config.loader.decoder,
    )
    log_table(
        "data",
        {
            "list": "\n      ".join([videos.describe(), *videos.describe_lines()]),
            "missing files": len(missing),
            "decoder": facts.decoder_used,
            "workers": config.loader.describe(),
            "clip": config.clip.describe(),
            "mask": f"{config.masks.mask_type}, {dataset.num_masked} of {model.encoder.num_tokens} tokens masked",
        },
    )
    return videos, dataset


def plan_of(
    config: PretrainingConfig, world: World, model: Sigma, *, num_masked: int, teacher: ImageTeacher | None
) -> dict[str, str]:
    """Rows of the plan: what computes the networks and the assignments. Every rank must call it."""
    dtype = AMP_DTYPES[config.run.amp_on(world.device)]
    stacks: dict[str, tuple[nn.Module, int]] = {**model.stacks(num_masked)}
    rows: dict[str, str] = {}
    if teacher is not None:
        stacks["teacher"] = teacher.network.blocks, teacher.num_frame_tokens
        rows["teacher"] = f"{config.targets.target_type} {config.targets.teacher}, {str(dtype).removeprefix('torch.')}"
    if model.prototypes is not None:
        agree_on_kernels(world.device, all_reduce_sum)  # now, so that the plan says what all ranks will do
        rows["Sinkhorn"] = describe_passes(world.device, config.objective.num_prototypes, config.objective.sinkhorn_eps)
    return {"attention": describe_attention(stacks, device=world.device, dtype=dtype), **rows}


def compile_and_capture(
    config: PretrainingConfig, world: World, model: Sigma, *, teacher: ImageTeacher | None, num_masked: int
) -> None:
    """What `--compile` and `--cuda_graphs` do to the blocks, in place."""
    if config.run.compile:
        teacher_blocks = [teacher.compiled_parts()] if teacher else []
        compile_blocks(model.encoder.blocks, model.decoder.blocks, *teacher_blocks)
    clips = config.optim.batch_size * config.clip.num_sample * config.masks.num_masks
    use_checkpoint = config.encoder.use_checkpoint
    capture_stacks(config, world, model.stacks(num_masked), clips=clips, use_checkpoint=use_checkpoint)


def is_done(config: PretrainingConfig, world: World) -> bool:
    """Whether the training of this command is done already. Every rank must call it.

    Raises:
        CheckpointError: the run in the folder is finished, but is another one.
    """
    run, saving = config.run, config.checkpoint
    resumes = saving.auto_resume and not saving.resume
    finished = finished_checkpoint(run.output_dir, config.optim.epochs, world) if resumes else None
    if finished is None:
        return False
    fingerprint = ""
    try:
        fingerprint = main_process_first(world, config.lists.read).fingerprint
    except DATA_ERRORS as error:  # the data of a finished run may have gone
        logger.warning("%s: not compared with the list of the finished run", error)
    trust = config.start.trust_checkpoint
    check_finished(finished, world, options=recorded(config), fingerprint=fingerprint, trust=trust)
    return True


def main(config: PretrainingConfig, world: World) -> None:
    """One run, from the options to the last checkpoint."""
    config = prepare(config.resolved(), world)
    run, optim, masks = config.run, config.optim, config.masks
    if is_done(config, world):
        logger.info("training is finished already: all %d epochs are done", optim.epochs)
        return
    config = with_compilation(config, world)
    facts = RunFacts()
    model = build_model(config, world, facts)
    videos, dataset = build_data(config, world, model, facts)
    loader = build_train_loader(
        dataset,
        batch_size=optim.batch_size,
        seed=run.seed,
        order=config.loader.order(len(dataset), seed=run.seed),
        **config.loader.kwargs(rank=world.rank, world_size=world.size, device=world.device),
    )
    teacher, guide = build_target_network(config, world, model), build_guide(config, world, model)
    compile_and_capture(config, world, model, teacher=teacher, num_masked=dataset.num_masked)
    trainer = build_trainer(
        config,
        world,
        model_name=config.model,
        model=model,
        forward=PretrainingForward(teacher=teacher, guide=guide),
        data=TrainingSet(
            videos.paths,
            num_batches=len(loader),
            fingerprint=videos.fingerprint,
            repeats=config.clip.num_sample,
            described={"data": videos.describe(), "fingerprint": videos.fingerprint},
        ),
        instruments=Instruments(
            task={"task": "pre-training", **describe_method(config.targets, config.objective)},
            flops_per_clip=pretraining_flops(
                model, num_masked=dataset.num_masked, num_masks=masks.num_masks, teacher=teacher
            ),
            diagnostics=CollapseDetector(
                None if model.prototypes is None else config.objective.num_prototypes,
                log_warnings=world.is_main,
                check_cosine=config.targets.target_type != "pixel",
            ),
            figure_fn=lambda batch, out: pretraining_pictures(
                model, batch.clip.repeat_interleave(masks.num_masks, dim=0), out
            ),
            plan=plan_of(config, world, model, num_masked=dataset.num_masked, teacher=teacher),
        ),
        facts=facts,
    )
    batches = config.loader.prefetched(loader, world.device)
    if run.dry_run:
        rehearse(trainer, batches, world=world)
    else:
        fit(trainer, batches)


if __name__ == "__main__":
    run_script(PretrainingConfig, main, errors=(*DATA_ERRORS, ModelError), around=loader_errors)
