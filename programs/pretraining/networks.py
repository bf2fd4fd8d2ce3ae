"""The networks of a pre-training run: the model, its memory, the frozen teacher, the optical flow of motion masks."""

import logging
from functools import partial
from pathlib import Path

import torch
from torch import nn

from datasets.masks.flow_guided import MotionGuide, flow_model
from engine.acceleration.compilation import compile_blocks
from engine.acceleration.cuda_graphs import capture_stacks
from engine.checkpointing.read_weights import StartConfig, Weights
from engine.config import RunFacts
from engine.distributed.collectives import all_reduce_sum
from engine.distributed.ddp import AMP_DTYPES
from engine.distributed.world import World, main_process_first
from engine.errors import ConfigError
from engine.memory import Need, check_memory
from engine.setup import model_init_context, place_model
from engine.weights import load_weights, read_weights_once
from inference.load import Loaded, load
from models import ModelError
from models.attention import describe_attention
from models.kernels.support import agree_on_kernels
from models.more_teachers import TimmTeacher, VideoTeacher, describe_timm, timm_network, timm_width
from models.registry import build_pretraining_model
from models.sigma import Sigma
from models.sinkhorn.passes import describe_passes
from models.sizes import pretraining_parts, tokens_of
from models.targets import TargetConfig
from models.teachers import FrozenTeacher, ImageTeacher, build_teacher, with_teacher_dim
from models.weights.load import LoadReport, load_pretraining, load_projection, native_state, weights_hash

from .options import PretrainingConfig

logger = logging.getLogger(__name__)


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
    start, targets = config.start, with_teacher_dim(config.targets, teacher_width(config, world))
    check_memory(needs(config, world, targets), world.device)
    with model_init_context(config, world, loads=bool(start.finetune or targets.mlp_preloading)):
        model = build_pretraining_model(
            config.model, config.encoder, config.decoder, targets, config.objective, all_reduce=all_reduce_sum
        )

    def load_into_model(weights: Weights) -> LoadReport:
        return load_pretraining(model, weights.tensors, trained_with=start.trained_with(weights.args))

    if start.finetune:
        facts.licence = load_weights(start.finetune, start, load_into_model, world=world).licence
    if targets.mlp_preloading:
        load_weights(
            targets.mlp_preloading, start, lambda weights: load_projection(model, weights.tensors), world=world
        )
    if not config.learns_projection:
        model.freeze_projection()
    facts.position_grid = list(model.encoder.position_grid)
    if config.learns_projection and not model.objective.uses_prototypes:
        logger.warning(
            "--target_type mlp --loss_func L2: prediction and projection can agree on a constant, and will: this is "
            "the paper's collapsing baseline. Use --loss_func SWAV to train SIGMA"
        )
    place_model(config, world, model)
    return model


def teacher_width(config: PretrainingConfig, world: World) -> int | None:
    """F, the width of the features of a teacher that `--teacher` names. Every rank must call it."""
    targets = config.targets
    if targets.target_type == "timm":
        if targets.teacher_weights and not Path(targets.teacher_weights).is_file():
            raise ConfigError(f"--teacher_weights {targets.teacher_weights}: no such file")
        return timm_width(targets.teacher)
    return video_model(config, world).model.embed_dim if targets.target_type == "video" else None


def build_target_network(
    config: PretrainingConfig, world: World, model: Sigma, facts: RunFacts
) -> FrozenTeacher | None:
    """The frozen teacher of `--target_type dino_v1`, `dino_v2`, `timm` and `video`; `facts` says which it was."""
    build = {"timm": _timm_teacher, "video": _video_teacher}.get(config.targets.target_type, _known_teacher)
    if not config.targets.uses_teacher:
        return None
    clips = config.optim.batch_size * config.clip.num_sample * world.size
    if config.targets.center_teacher and clips < 2:
        raise ConfigError("--center_teacher: a batch of one clip has no mean to subtract; raise --batch_size")
    try:
        teacher = build(config, world, model, facts)
    except ModelError as error:
        file = config.targets.teacher_weights
        raise ConfigError(f"{file}: {error}" if file else str(error)) from error
    if config.targets.center_teacher:
        teacher.center(all_reduce_sum)
    return teacher.to(world.device)


def _known_teacher(config: PretrainingConfig, world: World, model: Sigma, facts: RunFacts) -> FrozenTeacher:
    """A row of `TEACHERS`: DINO, DINOv2."""
    targets = config.targets
    weights = read_network(targets.teacher_weights, config, world) if targets.teacher_weights else None
    build = partial(
        build_teacher,
        targets.target_type,
        targets.known_teacher,
        img_size=config.clip.input_size,
        tubelet=model.encoder.tubelet,
        grid=model.encoder.grid,
        dtype=AMP_DTYPES[config.run.amp_on(world.device)],
        weights=weights,
    )
    return main_process_first(world, build) if weights is None else build()  # timm downloads them


def _timm_teacher(config: PretrainingConfig, world: World, model: Sigma, facts: RunFacts) -> FrozenTeacher:
    targets, encoder = config.targets, model.encoder
    build = partial(timm_network, targets.teacher, encoder.grid, targets.teacher_weights)
    network = build() if targets.teacher_weights else main_process_first(world, build)
    facts.teacher_used, facts.teacher_digest = describe_timm(network), weights_hash(network.state_dict())
    network.to(AMP_DTYPES[config.run.amp_on(world.device)])
    return TimmTeacher(network, tubelet=encoder.tubelet, grid=encoder.grid)


def _video_teacher(config: PretrainingConfig, world: World, model: Sigma, facts: RunFacts) -> FrozenTeacher:
    loaded, encoder, path = video_model(config, world), model.encoder, config.targets.teacher
    known = {name: str(loaded.args[name]) for name in ("model", "target_type", "epochs") if name in loaded.args}
    facts.teacher_used = {"name": path, "licence": loaded.licence or "none stated", **known}
    facts.teacher_digest = loaded.digest
    try:
        network = loaded.model.to(AMP_DTYPES[config.run.amp_on(world.device)])
        return VideoTeacher(network, tubelet=encoder.tubelet, grid=encoder.grid)
    except ModelError as error:
        raise ConfigError(f"--teacher {path}: {error}") from error


def video_model(config: PretrainingConfig, world: World) -> Loaded:
    """The checkpoint of `--teacher`, for the clips of this run. Every rank must call it."""
    start = StartConfig(trust_checkpoint=config.start.trust_checkpoint)
    clip = {"num_frames": config.clip.num_frames, "input_size": config.clip.input_size}
    return load(config.targets.teacher, start, **clip, positions="resampled", world=world)


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


def compile_and_capture(
    config: PretrainingConfig, world: World, model: Sigma, *, teacher: FrozenTeacher | None, num_masked: int
) -> None:
    """What `--compile` and `--cuda_graphs` do to the blocks, in place."""
    if config.run.compile:
        teacher_blocks = [teacher.compiled_parts()] if teacher else []
        compile_blocks(model.encoder.blocks, model.decoder.blocks, *teacher_blocks)
    clips = config.optim.batch_size * config.clip.num_sample * config.masks.num_masks
    use_checkpoint = config.encoder.use_checkpoint
    capture_stacks(config, world, model.stacks(num_masked), clips=clips, use_checkpoint=use_checkpoint)


def plan_of(
    config: PretrainingConfig,
    world: World,
    model: Sigma,
    *,
    num_masked: int,
    teacher: FrozenTeacher | None,
    facts: RunFacts,
) -> dict[str, str]:
    """Rows of the plan: what computes the networks and the assignments. Every rank must call it."""
    dtype = AMP_DTYPES[config.run.amp_on(world.device)]
    stacks: dict[str, tuple[nn.Module, int]] = {**model.stacks(num_masked)}
    rows: dict[str, str] = {}
    if teacher is not None:
        name, precision = f"{config.targets.target_type} {config.targets.known_teacher}", str(dtype)
        if facts.teacher_used is not None:
            name = f"{facts.teacher_used['name']}, licence of its weights: {facts.teacher_used['licence']}"
        name += ", centered by position" if config.targets.center_teacher else ""
        if isinstance(teacher, ImageTeacher):  # whose attention is ours to choose
            stacks["teacher"] = teacher.network.blocks, teacher.num_pass_tokens
        rows["teacher"] = f"{name}, {precision.removeprefix('torch.')}"
    if model.prototypes is not None:
        agree_on_kernels(world.device, all_reduce_sum)  # now, so that the plan says what all ranks will do
        rows["Sinkhorn"] = describe_passes(world.device, config.objective.num_prototypes, config.objective.sinkhorn_eps)
    return {"attention": describe_attention(stacks, device=world.device, dtype=dtype), **rows}
