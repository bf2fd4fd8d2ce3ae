"""What the results of a test are of, and whether a command has them already."""

from pathlib import Path

from datasets.lists.splits import LabelledData
from engine.checkpointing.resume import check_finished, finished_checkpoint
from engine.config import RunFacts
from engine.distributed.world import World, on_main_process
from engine.finetuning import FinetuneConfig
from engine.results import TestedOn, is_tested
from engine.weights import best_weights
from sigma_video.options import recorded

from .options import FinetuningConfig


def trained_weights(task: FinetuneConfig, file: Path | None) -> dict[str, tuple[str, str]]:
    """File and key of what training leaves in a checkpoint, by the suffix of its results."""
    keys = {"": "model"} | ({"_ema": "model_ema"} if task.model_ema else {})
    return {} if file is None else {suffix: (str(file), key) for suffix, key in keys.items()}


def tested_on(config: FinetuningConfig, world: World, data: LabelledData, facts: RunFacts) -> TestedOn:
    """What the results of the test depend on, besides the weights."""
    listed, decoder = data.lists["test"], (facts.decoder_used or "").partition(" ")[0]
    options = recorded(config.clip) | recorded(config.views)
    names = ("num_frames", "sampling_rate", "fps", "input_size", "sampling", "short_side_size")
    settings = {name: options[name] for name in (*names, "test_num_segment", "test_num_crop", "view_pooling")}
    settings |= {"task": config.task.task, "amp": config.run.amp_on(world.device)}
    return TestedOn(str(listed.file), listed.fingerprint, {**settings, "decoder": decoder, "data_root": listed.root})


def is_done(config: FinetuningConfig, world: World, data: LabelledData, facts: RunFacts) -> bool:
    """Whether training and test of this command are done already. Every rank must call it.

    Raises:
        CheckpointError: the run in the folder is finished, but is another one.
    """
    run, saving = config.run, config.checkpoint
    if config.task.eval or saving.resume or not saving.auto_resume:
        return False
    finished = finished_checkpoint(run.output_dir, config.optim.epochs, world)
    if finished is None:
        return False
    options = facts.beside(config)
    if config.head.use_mean_pooling is None:  # not decided yet: the weights that training starts from say which
        del options["use_mean_pooling"]
    check_finished(
        finished,
        world,
        options=options,
        fingerprint=data.lists["train"].fingerprint,
        trust=config.start.trust_checkpoint,
    )
    on = tested_on(config, world, data, facts)
    tested = Path(best_weights(config, world)[0]) if config.task.test_best else finished
    weights = trained_weights(config.task, tested)
    return on_main_process(world, lambda: is_tested(run.output_dir, on.origin(weights)))
