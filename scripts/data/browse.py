"""Draw the clips and masks that the model is trained on: `python scripts/data/browse.py lists/train.csv clips.png`.

For some videos of a list, one picture with a row for the clip of pre-training, a row for each kind of mask (what the
encoder sees of the clip; hidden tokens are grey), and, where the list has labels, rows with the augmented clips of
fine-tuning, under the label. The data sets and transforms are those of training: with the flags of a run, its --seed
and an --epoch, these are its very clips.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from datasets.catalogue import CATALOGUE, get_dataset_spec
from datasets.classification import TrainDataset
from datasets.errors import AnnotationError, DecodeError
from datasets.lists.entries import NO_LABEL
from datasets.lists.formats.table import LIST_FORMATS
from datasets.lists.read import read_list
from datasets.lists.video_list import VideoList, sample_name
from datasets.masks.masks import MASKS, MaskConfig
from datasets.masks.motion_vectors import has_motion_vectors
from datasets.pretraining import PretrainDataset
from datasets.sampling import PRETRAINING_RATE, ClipConfig
from datasets.transforms.presets import PretrainTransform, TrainTransform
from engine.errors import ConfigError, as_config_error, user_errors
from engine.flags import build_parser
from run_class_finetuning import FinetuningConfig
from run_sigma_pretraining import PretrainingConfig
from scripts.data.jobs import positive
from scripts.data.lists import class_names_of
from sigma_video.command_line import CommandLine

MASK_TYPES = [name for name in MASKS if name != "motion"]  # that needs a network and the training device
_HIDDEN = 110  # grey level of a hidden token
_GAP = 4
_TEXT = 16  # pixels


class Row(NamedTuple):
    """A line of text, and below it frames uint8 (T, 3, H, W), if there are any."""

    text: str
    frames: torch.Tensor | None = None


@dataclass(frozen=True)
class ClipOptions:
    """The flags that decide what a clip looks like, as in training, and the epoch."""

    epoch: int
    seed: int
    num_frames: int
    input_size: int
    tubelet_size: int
    patch_size: int
    sampling_rate: int
    mask_ratio: float
    augmentation: str
    data_set: str
    num_sample: int
    aa: str
    reprob: float

    def __post_init__(self) -> None:
        if self.input_size % self.patch_size or self.num_frames % self.tubelet_size:
            raise ConfigError("--input_size must be a multiple of --patch_size, --num_frames one of --tubelet_size")


def clip_options(args: argparse.Namespace) -> ClipOptions:
    """The values of these flags.

    Raises:
        ConfigError: the clip cannot be cut into whole tokens.
    """
    return ClipOptions(**{field.name: getattr(args, field.name) for field in fields(ClipOptions)})


def parser() -> argparse.ArgumentParser:
    """The command line; what it shares with training has training's defaults."""
    options = CommandLine(allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("list", metavar="LIST", help="list of videos")
    options.add_argument("out", metavar="PNG", help="the picture")
    options.add_argument("--data_root", default="", metavar="FOLDER", help="what the list's relative paths start from")
    options.add_argument("--list_format", default="auto", choices=LIST_FORMATS, help="of the list (default: auto)")
    options.add_argument("--num", type=positive, default=4, help="videos, spread over the list (default: 4)")
    options.add_argument("--columns", type=positive, default=8, help="frames shown of a clip (default: 8)")
    options.add_argument("--side", type=positive, default=112, help="pixels of a frame in the picture (default: 112)")
    options.add_argument("--epoch", type=int, default=0, help="whose clips are shown (default: 0)")
    clip = options.add_argument_group("as in training")
    clip.add_argument("--seed", type=int)
    clip.add_argument("--num_frames", type=positive)
    clip.add_argument("--input_size", type=positive)
    clip.add_argument("--tubelet_size", type=positive)
    clip.add_argument("--patch_size", type=positive, default=16, help="of the model (default: 16)")
    pretraining = options.add_argument_group("as in run_sigma_pretraining.py")
    pretraining.add_argument("--sampling_rate", type=positive, default=PRETRAINING_RATE)
    pretraining.add_argument("--mask_ratio", type=float)
    pretraining.add_argument("--augmentation", choices=PretrainTransform.AUGMENTATIONS)
    finetuning = options.add_argument_group("as in run_class_finetuning.py")
    finetuning.add_argument("--data_set", default="custom", choices=list(CATALOGUE), help="whose sampling and flips")
    finetuning.add_argument("--num_sample", type=positive, help="augmentations of each clip")
    finetuning.add_argument("--aa")
    finetuning.add_argument("--reprob", type=float)
    options.set_defaults(input_size=ClipConfig().input_size)
    shared = ("seed", "num_frames", "tubelet_size", "mask_ratio", "augmentation")
    for cls, names in ((PretrainingConfig, shared), (FinetuningConfig, ("num_sample", "aa", "reprob"))):
        theirs = build_parser(cls)
        options.set_defaults(**{name: theirs.get_default(name) for name in names})
    return options


def hide(frames: torch.Tensor, mask: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Frames (T, 3, H, W) of which the masked tokens, bool (N,), are grey."""
    slots, rows, columns = grid
    count, _, height, width = frames.shape
    hidden = mask.view(grid).repeat_interleave(count // slots, dim=0)
    hidden = hidden.repeat_interleave(height // rows, dim=1).repeat_interleave(width // columns, dim=2)
    return torch.where(hidden[:, None], torch.tensor(_HIDDEN, dtype=torch.uint8), frames)


def pretraining_rows(videos: VideoList, index: int, options: ClipOptions) -> list[Row]:
    """The clip of a video, and what each kind of mask leaves of it."""
    sides = options.input_size // options.patch_size
    grid = (options.num_frames // options.tubelet_size, sides, sides)
    rows: list[Row] = []
    for name in MASK_TYPES:
        dataset = PretrainDataset(
            videos,
            ClipConfig(num_frames=options.num_frames, sampling_rate=options.sampling_rate),
            MaskConfig(mask_type=name, mask_ratio=options.mask_ratio),
            transform=PretrainTransform(options.input_size, options.augmentation),
            grid=grid,
            seed=options.seed,
            decoder="pyav",  # the motion vectors come from it
        )
        item = dataset[options.epoch, index]
        if not rows:
            rows += [Row(f"training takes another video: {path}: {reason}") for path, reason, *_ in item["failures"]]
            rows.append(Row(f"pre-training: {options.num_frames} frames, one in {options.sampling_rate}", item["clip"]))
        still = name == "motion_vectors" and not has_motion_vectors(videos.paths[item["index"]])
        visible = int((~item["mask"]).sum())
        text = f"--mask_type {name}: the encoder sees {visible} of {item['mask'].numel()} tokens"
        text += " (no motion vectors in this file)" if still else ""
        rows.append(Row(text, hide(item["clip"], item["mask"], grid)))
    return rows


def finetuning_rows(videos: VideoList, index: int, options: ClipOptions) -> list[Row]:
    """The augmented clips of a labelled video."""
    spec = get_dataset_spec(options.data_set)
    dataset = TrainDataset(
        videos,
        transform=TrainTransform(options.input_size, aa=options.aa, flip=spec.flip, erase_prob=options.reprob),
        sampler=spec.sampler,
        num_frames=options.num_frames,
        sampling_rate=spec.sampling_rate,
        num_repeats=options.num_sample,
        seed=options.seed,
    )
    clips = dataset[options.epoch, index]["clip"]
    return [Row(f"fine-tuning, {number} of {len(clips)}: {options.aa}", clip) for number, clip in enumerate(clips, 1)]


def rows_of(videos: VideoList, index: int, *, names: Sequence[str], options: ClipOptions) -> list[Row]:
    """Everything about one video.

    Raises:
        ConfigError: options that do not fit one another.
    """
    title = sample_name(videos.paths[index], videos.span(index))
    label = videos.labels[index]
    if label != NO_LABEL:
        title += f"   label {label}" + (f": {names[label]}" if label < len(names) else "")
    try:
        with as_config_error():
            rows = pretraining_rows(videos, index, options)
            tuned = finetuning_rows(videos, index, options) if label != NO_LABEL else []
    except DecodeError as error:
        return [Row(title), Row(f"cannot be decoded: {error.reason}")]
    return [Row(title), *rows, *tuned]


def draw(rows: Sequence[Row], columns: int, side: int) -> Image.Image:
    """All rows below one another."""
    font = ImageFont.load_default(_TEXT - 4)
    heights = [_TEXT + _GAP + (side + _GAP if row.frames is not None else 0) for row in rows]
    sheet = Image.new("RGB", (columns * (side + _GAP) + _GAP, sum(heights) + _GAP), "white")
    pen, top = ImageDraw.Draw(sheet), _GAP
    for row, height in zip(rows, heights, strict=True):
        pen.text((_GAP, top), row.text, fill="black", font=font)
        if row.frames is not None:
            for column, place in enumerate(np.linspace(0, len(row.frames) - 1, columns).round().astype(int)):
                picture = Image.fromarray(row.frames[place].permute(1, 2, 0).numpy())
                sheet.paste(picture.resize((side, side)), (_GAP + column * (side + _GAP), top + _TEXT))
        top += height
    return sheet


def browse(videos: VideoList, out: str, *, options: ClipOptions, num_videos: int, columns: int, side: int) -> None:
    """Draw some videos of a list into one picture.

    Args:
        videos: the list; class names of labels.txt beside it are shown where it has none itself.
        out: file name of the picture.
        options: of the clips.
        num_videos: spread over the list.
        columns: frames shown of a clip.
        side: of a frame in the picture, in pixels.

    Raises:
        ConfigError: options that do not fit one another; the picture cannot be written.
    """
    names = class_names_of(videos)
    count = min(num_videos, len(videos))
    rows = []
    for place in range(count):
        rows += rows_of(videos, place * len(videos) // count, names=names, options=options)
    try:
        draw(rows, min(columns, options.num_frames), side).save(out)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{out}: cannot be written ({error}): give a name that ends in .png") from error
    print(f"{out}: {count} videos of {videos.file}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with user_errors(AnnotationError):
        args = parser().parse_args(argv)
        options = clip_options(args)
        videos = read_list(args.list, root=args.data_root, list_format=args.list_format)
        browse(videos, args.out, options=options, num_videos=args.num, columns=args.columns, side=args.side)


if __name__ == "__main__":
    main()
