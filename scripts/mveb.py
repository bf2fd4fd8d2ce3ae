"""Score a checkpoint on MVEB, the video tasks of `mteb`: `python scripts/mveb.py CHECKPOINT TASK|BENCHMARK... OUT`.

Model, size, frames and normalisation come from the checkpoint. mteb fetches the videos of a task from the Hugging Face
hub when they are first used. OUT is a folder of mteb's results: a task that is there already is not computed again.

    python scripts/mveb.py CHECKPOINT "MVEB(video)" mveb_results     # the tasks for encoders of nothing but videos
    python scripts/mveb.py CHECKPOINT HMDB51Classification mveb_results
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if (
    __name__ == "__main__"
):  # the checkout comes last: its `datasets` would stand before Hugging Face's, which mteb needs
    own = Path(__file__).resolve().parents[:2]
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() not in own] + [str(own[1])]

from sigma_video.command_line import CommandLine
from sigma_video.datasets.errors import DATA_ERRORS
from sigma_video.datasets.loading.workers import loader_errors
from sigma_video.engine.distributed.ddp import AMP_DTYPES
from sigma_video.engine.errors import ConfigError, user_errors
from sigma_video.inference.video_model import load
from sigma_video.inference.views import Views, doubts, parse_views
from sigma_video.models import ModelError

BATCH = 8  # videos


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint", metavar="CHECKPOINT", help="weights in any format of WEIGHTS.md")
    options.add_argument("tasks", nargs="+", metavar="TASK|BENCHMARK", help="names that mteb knows")
    options.add_argument("out", metavar="OUT", help="folder of mteb's results")
    options.add_argument("--name", metavar="ORG/MODEL", help="in the results (default: local/ and the file's name)")
    options.add_argument("--views", type=parse_views, default=Views(1, 1), metavar="CxK", help="clips x crops (1x1)")
    options.add_argument("--sampling_rate", type=int, metavar="N", help="every N-th frame (default: as trained)")
    options.add_argument("--num_workers", type=int, default=2, help="processes that read videos (default: 2)")
    options.add_argument("--amp", choices=tuple(AMP_DTYPES), help="default: bf16 on a GPU, none on a CPU")
    options.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return options


def import_mteb() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import mteb
    except ImportError as error:
        raise ConfigError(f'MVEB needs mteb: pip install "mteb>=2.26" "datasets>=4" ({error})') from error
    return mteb


def find_tasks(mteb: Any, names: Sequence[str]) -> list[Any]:
    """Tasks by name, in this order; a benchmark stands for its tasks.

    Raises:
        ConfigError: mteb knows neither a task nor a benchmark of this name, or the task is not of videos alone.
    """
    found: list[Any] = []
    for name in names:
        try:
            found += mteb.get_benchmark(name).tasks
        except KeyError:
            try:
                found.append(mteb.get_task(name))
            except KeyError as error:
                reason = str(error.args[0]).removeprefix("KeyError: ")
                raise ConfigError(f"no task and no benchmark of mteb: {reason}") from error
    for task in found:
        others = set(task.metadata.modalities) - {"video"}
        if others or "video" not in task.metadata.modalities:
            needs = " and ".join(sorted(others))
            raise ConfigError(
                f"{task.metadata.name} needs {needs}: choose from MVEB(video), or other tasks of videos alone"
            )
    return found


def run(args: argparse.Namespace) -> None:
    """All of it."""
    mteb = import_mteb()
    tasks = find_tasks(mteb, args.tasks)
    name = args.name or f"local/{Path(args.checkpoint).stem}"
    if name.count("/") != 1:
        raise ConfigError(f"--name {name}: mteb names models as organization/model")
    from sigma_video.inference.mveb import VideoEncoder

    model = load(args.checkpoint, device=args.device, amp=args.amp, sampling_rate=args.sampling_rate)
    if doubt := doubts(model.loaded):
        print(f"{args.checkpoint}: {doubt}; --sampling_rate says otherwise", file=sys.stderr)
    encoder = VideoEncoder(model, name, views=args.views)
    how = {"encode_kwargs": {"batch_size": BATCH}, "num_proc": args.num_workers}
    with loader_errors():
        results = mteb.evaluate(encoder, tasks, cache=mteb.ResultCache(args.out), **how)
    for result in results.task_results:
        print(f"{result.task_name}: {result.get_score():.4f}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = parser().parse_args(argv)
    with user_errors(*DATA_ERRORS, ModelError, ConnectionError):  # of the hub
        run(args)


if __name__ == "__main__":
    main()
