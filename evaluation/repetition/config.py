"""Options of repetition counting."""

from dataclasses import dataclass

from sigma_video.options import AT_LEAST_ONE, Options, Rule, option

from .anchors import REGRESSION_MEANS


@dataclass(frozen=True, kw_only=True)
class CountingConfig(Options):
    """How repetitions are learnt and counted. What the paper does not say is named here, and kept with each result."""

    eval: bool = option(False, "only test the given weights")
    disable_eval_during_finetuning: bool = option(False, "no validation after each epoch")
    layer_decay: float = option(
        0.75,
        "learning-rate factor from block to block",
        rule=Rule(lambda value: 0 < value <= 1, "must be above 0 and at most 1 (1: no decay)"),
    )
    num_frames: int = option(
        16,
        "frames of a clip: half of the past cycles, half of the future ones; 32 as the CNNs of SEVERE had",
        rule=Rule(lambda number: number >= 4 and number % 2 == 0, "must be an even number from 4 on"),
    )
    input_size: int | None = option(None, "height and width of a clip; default: what the model's name says")
    segments_per_video: int = option(10, "segments of each training video in an epoch", rule=AT_LEAST_ONE)
    max_segment: int = option(
        300, "frames of a segment, at most", rule=Rule(lambda number: number >= 16, "must be at least 16")
    )
    segments: str = option(
        "every_epoch", "when segments are drawn; once, as in the released code", choices=("every_epoch", "once")
    )
    updates_per_batch: int = option(
        11, "updates on a batch of segments, step after step through them", rule=AT_LEAST_ONE
    )
    regression_mean: str = option(
        "all",
        "what the loss of lengths is averaged over: all anchors, as in the released code, or those that have a target",
        choices=REGRESSION_MEANS,
    )
    flip: bool = option(True, "mirror half of the segments in training", switch="value")

    def ignored(self) -> dict[str, str]:
        if self.eval:
            names = ("layer_decay", "segments_per_video", "max_segment", "segments", "updates_per_batch")
            return dict.fromkeys((*names, "regression_mean", "flip"), "--eval trains nothing")
        return {}
