"""Features of videos from a checkpoint: `python scripts/extract_features.py CHECKPOINT VIDEO|FOLDER|LIST... OUT`.

Pre-trained or fine-tuned, no labels needed: model, size and frames come from the checkpoint. The folder OUT gets
features.npy, (videos, views, width) and memory-mapped with numpy.load(..., mmap_mode="r"), index.csv, which says what
each row is, and meta.json, which says what made them. The same command goes on after an interruption. Under torchrun
the ranks share the work; so do the tasks of a slurm array, numbered from 1:

    python scripts/extract_features.py CHECKPOINT LIST OUT --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
    python scripts/extract_features.py CHECKPOINT LIST OUT      # afterwards: puts them together

With --engine ray the workers of a Ray cluster, or of a Ray of this machine, share it.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import numpy as np

import sigma_video.compat  # noqa: F401  (before anything that imports torchvision)
from datasets.errors import DATA_ERRORS, DecodeError
from datasets.loading.workers import loader_errors
from engine.config import RunConfig
from engine.distributed.launch import read_launch_env
from engine.distributed.world import World, distributed, on_main_process
from engine.errors import ConfigError, as_config_error, user_errors
from engine.monitoring.metrics import setup_logging
from inference.features import ARRAY, DTYPES, Plan, Row
from inference.load import POSITIONS, Loaded
from inference.sources import Sample, find_samples, windows_of
from inference.views import Views, doubts, parse_views
from models import ModelError
from scripts.data.engines import ENGINES, check_engine
from scripts.data.jobs import parse_part, positive
from scripts.feature_making import has_norm, make, open_model
from scripts.feature_ray import make_with_ray
from scripts.predict import add_clip_flags, add_run_flags, parse_seconds
from sigma_video.command_line import CommandLine

FORMATS = ("npy", "safetensors")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint", metavar="CHECKPOINT", help="weights in any format of WEIGHTS.md")
    options.add_argument("sources", nargs="+", metavar="VIDEO|FOLDER|LIST", help="labels of a list are not looked at")
    options.add_argument("out", metavar="OUT", help="a folder, new or of the same features")
    options.add_argument("--views", type=parse_views, default=Views(1, 1), metavar="CxK", help="clips x crops (1x1)")
    options.add_argument("--tokens", action="store_true", help="all tokens of a clip in place of their mean")
    options.add_argument("--window", type=parse_seconds, metavar="SECONDS", help="features of windows of this length")
    options.add_argument("--stride", type=parse_seconds, metavar="SECONDS", help="between windows (half a window)")
    options.add_argument(
        "--dtype", "--feature_dtype", choices=DTYPES, default="float32", help="in which they are kept (float32)"
    )
    options.add_argument("--format", choices=FORMATS, default="npy", help="safetensors: also features.safetensors")
    options.add_argument("--no_final_norm", action="store_true", help="tokens before the final norm, if there is one")
    add_clip_flags(options)
    options.add_argument("--positions", choices=POSITIONS, default="rows", help="of clips with fewer frames (rows)")
    options.add_argument("--part", type=parse_part, metavar="i/n", help="make only this part, from 1, and join nothing")
    options.add_argument(
        "--rebuild", "--rebuild_features", action="store_true", help="make them anew, whatever OUT holds"
    )
    options.add_argument(
        "--engine",
        choices=sorted(ENGINES),
        default="processes",
        help="this process and those of torchrun (default), or ray: workers of the cluster at RAY_ADDRESS, else of a "
        "Ray started here, which read their videos themselves",
    )
    options.add_argument("--workers", type=positive, help="of --engine ray; default: one for each core, or GPU")
    add_run_flags(options)
    return options


def find(args: argparse.Namespace) -> list[Sample]:
    """The videos, or their windows.

    Raises:
        ConfigError: a video cannot be read, or is shorter than a window.
    """
    samples = find_samples(args.sources, data_root=args.data_root)
    if not args.window:
        return samples
    try:
        return [w for sample in samples for w in windows_of(sample, args.window, args.stride or args.window / 2)]
    except DecodeError as error:
        raise ConfigError(str(error)) from error


def hash_of(values: Iterable[Any]) -> str:
    """Twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()[:12]


def plan_of(args: argparse.Namespace, loaded: Loaded, samples: Sequence[Sample], precision: str) -> Plan:
    """What is to be made."""
    views: Views = args.views
    width = loaded.model.embed_dim
    return Plan(
        Path(args.out),
        key={
            "checkpoint": loaded.digest,
            "list": hash_of([sample.path, sample.span] for sample in samples),
            "views": {"shown": str(views), **vars(loaded.clip)},
            "encoding": {
                "pooling": "none" if args.tokens else "mean",
                "final_norm": has_norm(args, loaded),
                "amp": precision,
            },
        },
        rows=[Row(sample.path, sample.span, "") for sample in samples],
        views=views.number,
        width=(loaded.model.num_tokens, width) if args.tokens else width,
        batch=max(args.batch_size // views.number, 1),
        dtype=args.dtype,
    )


def run(args: argparse.Namespace, world: World) -> None:
    """All of it."""
    loaded = open_model(args, world)
    if world.is_main and (doubt := doubts(loaded)):
        print(f"{args.checkpoint}: {doubt}", file=sys.stderr)
    samples = on_main_process(world, lambda: find(args))
    precision = RunConfig(amp=args.amp).amp_on(world.device)
    with as_config_error(args.checkpoint):
        plan = plan_of(args, loaded, samples, precision)
    by_ray = args.engine == "ray" and len(plan.shards()) > 1  # a single one is made faster than a Ray starts
    if by_ray:
        make_with_ray(args, plan, world)
    rebuild = args.rebuild and not by_ray  # they are new by now
    made = make(args, plan, loaded, world, num_workers=args.num_workers, share=share_of(args), rebuild=rebuild)
    if world.is_main:
        report(args, plan, made)


def share_of(args: argparse.Namespace) -> tuple[int, int]:
    """`--part`, from 0."""
    return (args.part.number - 1, args.part.of) if args.part else (0, 1)


def report(args: argparse.Namespace, plan: Plan, made: np.ndarray | None) -> None:
    """What came about."""
    if made is None:
        print(f"part {args.part.number} of {args.part.of} is in {plan.folder}; without --part all are joined")
        return
    if args.format == "safetensors":
        from safetensors.numpy import save_file  # only here it is needed

        save_file({"features": np.ascontiguousarray(made)}, plan.folder / "features.safetensors")
    print(f"{plan.folder / ARRAY}: {' x '.join(map(str, made.shape))} {made.dtype}")


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together, and a package that is missing."""
    if args.stride and not args.window:
        raise ConfigError(f"--stride {args.stride:g} is the distance of windows: give --window, or leave it out")
    if args.engine == "ray" and (args.part or read_launch_env(os.environ).size > 1):
        raise ConfigError("--engine ray shares the work out itself: one process, without torchrun and --part")
    if args.engine != "ray" and args.workers:
        raise ConfigError(f"--workers {args.workers} are those of --engine ray; of the loader: --num_workers")
    check_engine(args.engine)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = parser().parse_args(argv)
    interrupted = "interrupted; the same command goes on"
    with user_errors(*DATA_ERRORS, ModelError, interrupted=interrupted):
        check(args)
        reported = user_errors(*DATA_ERRORS, ModelError, interrupted=interrupted)
        with distributed(args.device) as world, reported, loader_errors():
            setup_logging(world, "")
            run(args, world)


if __name__ == "__main__":
    main()
