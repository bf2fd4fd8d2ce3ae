"""The network of a run: its memory, and the weights that it starts from or that are tested."""

from functools import partial

import torch

from engine.acceleration.compilation import compile_blocks
from engine.checkpointing.read_weights import Weights
from engine.config import RunFacts
from engine.distributed.world import World
from engine.memory import Need, check_memory
from engine.record import log_test_plan
from engine.weights import load_weights, weights_to_test
from models.classifier import Classifier
from models.registry import build_classifier
from models.sizes import classifier_parts
from models.weights.load import LoadReport, load_encoder

from .options import RepetitionConfig


def needs(config: RepetitionConfig, world: World) -> list[Need]:
    """Memory that the run takes at least, by the options that decide it."""
    counting, batch_size, size = config.counting, config.optim.batch_size, config.encoder.img_size
    trained, frame = not counting.eval, 3 * size**2
    return [
        *(
            Need(part.flags, part.name, config.run.bytes_of(part.weights, part.table, world.size, trained=trained))
            for part in classifier_parts(config.model, config.encoder, config.heads)
        ),
        Need(
            f"--batch_size {batch_size}, --num_frames {counting.num_frames}, --input_size {size}",
            f"{batch_size} clips of a batch",
            batch_size * 5 * counting.num_frames * frame,
        ),
    ]


def build_model(config: RepetitionConfig, world: World, facts: RunFacts) -> Classifier:
    """The network, with the encoder's weights that training starts from."""
    check_memory(needs(config, world), world.device)
    torch.manual_seed(config.run.seed)
    model = build_classifier(config.model, config.encoder, config.heads)
    start = config.start
    if start.finetune and not config.counting.eval:
        facts.licence = load_weights(start.finetune, start, partial(load, config, model), world=world).licence
    facts.position_grid = list(model.position_grid)
    if config.run.compile:
        compile_blocks(model.blocks)
    return model.to(world.device)


def load(config: RepetitionConfig, model: Classifier, weights: Weights, *, with_head: bool = False) -> LoadReport:
    """What fits of a file's weights, in place."""
    trained_with = config.start.trained_with(weights.args)
    return load_encoder(model, weights.tensors, trained_with=trained_with, with_head=with_head)


def load_for_test(config: RepetitionConfig, world: World, model: Classifier, facts: RunFacts) -> str:
    """Load the weights that `--eval` tests; returns what they were fine-tuned from, '' if they do not say."""
    path, key = weights_to_test(config, world)

    def load_all(weights: Weights) -> LoadReport:
        report = load(config, model, weights, with_head=True)
        if "updates_per_batch" not in weights.args or report.missing or report.mismatched:
            raise ValueError(f"not a checkpoint of run_repetition_counting.py, for --eval: {report.describe()}")
        return report

    weights = load_weights(path, config.start, load_all, world=world, key=key)
    facts.licence, facts.tested = weights.licence, {"": (str(path), key)}
    log_test_plan(config, world, task="test only: nothing is trained", model_name=config.model, tested=facts.tested)
    return str(weights.args.get("finetune") or "")
