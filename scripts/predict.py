"""What a fine-tuned checkpoint says of videos: `python scripts/predict.py CHECKPOINT VIDEO|FOLDER|LIST...`.

Needs no labels: model, size, frames and class names come from the checkpoint. Shows the most likely classes of every
video, or of every window of an untrimmed one (--window). With --json one object a video goes into a file, at once; the
same command goes on after an interruption. A video that cannot be read is listed with the reason, and the exit code is
1; it is 2 where none can be read.
"""

import argparse
import contextlib
import csv
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import sigma_video.compat  # noqa: F401  (before anything that imports torchvision)
from datasets.errors import DATA_ERRORS, DecodeError
from datasets.loading.loaders import LoaderConfig
from datasets.loading.workers import loader_errors
from engine.checkpointing.read_weights import StartConfig
from engine.config import RunConfig
from engine.distributed.ddp import AMP_DTYPES, autocast
from engine.distributed.world import World, distributed, on_main_process
from engine.errors import ConfigError, as_config_error, naming, user_errors
from engine.files import replace_text
from engine.resilience.lock import output_lock
from inference.load import Loaded, load
from inference.predict import Prediction, Predictor
from inference.sources import Sample, find_samples, windows_of
from inference.views import Views, doubts, parse_views, tested_views, with_sampling_rate
from models import ModelError
from models.weights.load import weights_hash
from scripts.data.jobs import positive
from scripts.data.progress import Progress
from sigma_video.command_line import CommandLine

SUBMISSIONS = ("ssv2",)
SUBMITTED = 5  # classes of a video in a submission
WAYS_OUT = "writes this file. Wait for it to end, or give another."
_ROW = '{"path": '  # how a line of --json begins


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint", metavar="CHECKPOINT", help="a fine-tuned model in any format of WEIGHTS.md")
    options.add_argument("sources", nargs="+", metavar="VIDEO|FOLDER|LIST", help="labels of a list are not looked at")
    options.add_argument("--views", type=parse_views, metavar="CxK", help="clips x crops (default: as in its test)")
    add_clip_flags(options)
    options.add_argument("--window", type=parse_seconds, metavar="SECONDS", help="predict windows of this length")
    options.add_argument("--stride", type=parse_seconds, metavar="SECONDS", help="between windows (half a window)")
    options.add_argument("--top", type=positive, default=5, metavar="N", help="classes shown and written (default: 5)")
    options.add_argument("--json", metavar="FILE", help="one JSON object a line for each video or window")
    options.add_argument("--csv", metavar="FILE", help="path, start, end, error, and N classes and probabilities a row")
    options.add_argument("--submission", choices=SUBMISSIONS, help="write a test server's format into --output")
    options.add_argument("--output", metavar="FILE", help="of --submission")
    add_run_flags(options)
    return options


def add_clip_flags(options: argparse.ArgumentParser) -> None:
    """The clips that a model takes, where its file does not say it, or they shall be others."""
    options.add_argument("--sampling_rate", type=positive, metavar="N", help="every N-th frame (default: as trained)")
    options.add_argument("--num_frames", type=positive, help="of a clip (default: as trained)")
    options.add_argument("--input_size", type=positive, help="of a clip (default: as trained)")


def add_run_flags(options: argparse.ArgumentParser) -> None:
    """How videos are read, and a checkpoint runs: shared by the commands that take a checkpoint and videos."""
    options.add_argument("--data_root", default="", metavar="FOLDER", help="what a list's relative paths start from")
    options.add_argument("--batch_size", type=positive, default=16, help="clips of a forward pass (default: 16)")
    options.add_argument("--num_workers", type=int, default=2, help="loader processes per rank (default: 2)")
    options.add_argument("--decode_timeout", type=float, default=60.0, metavar="SECONDS", help="a clip (default: 60)")
    options.add_argument("--amp", choices=tuple(AMP_DTYPES), help="default: bf16 on a GPU, none on a CPU")
    options.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options.add_argument("--model_key", default=StartConfig().model_key, help="key of the weights in the file")
    options.add_argument("--trust_checkpoint", action="store_true", help="unpickle objects too: they can run any code")


def parse_seconds(text: str) -> float:
    """A duration."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds above 0")
    return value


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together, and files that cannot be written."""
    if args.stride and not args.window:
        raise ConfigError(f"--stride {args.stride:g} is the distance of windows: give --window, or leave it out")
    if bool(args.submission) != bool(args.output):
        raise ConfigError("--submission and --output go together: the format, and the file")
    if args.submission and args.window:
        raise ConfigError("--submission has a line a video: leave out --window")
    if args.submission and args.top < SUBMITTED:
        raise ConfigError(f"--submission {args.submission} has {SUBMITTED} classes a video: --top {SUBMITTED} or more")
    inputs = {os.path.realpath(name): "is read" for name in (args.checkpoint, *args.sources)}
    for flag in ("json", "csv", "output"):
        if file := getattr(args, flag):
            _check_output(f"--{flag} {file}", Path(file), inputs)
            inputs[os.path.realpath(file)] = f"is that of --{flag}"


def _check_output(named: str, file: Path, taken: Mapping[str, str]) -> None:
    """Raise ConfigError for a file that cannot be written, or that the command uses for something else."""
    folder = file.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ConfigError(f"{named}: the folder {folder} is not there or cannot be written to")
    if file.is_dir():
        raise ConfigError(f"{named}: a folder: give a file in it")
    if use := taken.get(os.path.realpath(file)):
        raise ConfigError(f"{named}: this file {use}: give another")


def key_of(args: argparse.Namespace, loaded: Loaded, views: Views, amp: str) -> dict[str, str]:
    """What predictions depend on besides the video."""
    shown = f"{views}, every {args.sampling_rate}. frame" if args.sampling_rate else str(views)
    if args.num_frames or args.input_size:
        shown += f", {loaded.clip.num_frames} frames of {loaded.clip.input_size}"
    return {"weights": weights_hash(loaded.model.state_dict()), "views": shown, "amp": amp}


def row_of(prediction: Prediction, key: dict[str, str], top: int) -> dict[str, Any]:
    """A prediction as a JSON object."""
    sample = prediction.sample
    row: dict[str, Any] = {"path": sample.path}
    if sample.span is not None:
        row |= {"start": sample.span[0], "end": sample.span[1]}
    if prediction.scores is None:
        row["error"] = prediction.error
    else:
        labels, named = prediction.labels(top), prediction.top(top).items()
        row["top"] = [{"label": k, "class": name, "score": p} for k, (name, p) in zip(labels, named, strict=True)]
    return row | key


def sample_of(row: dict[str, Any]) -> Sample:
    """The sample that a JSON object is about."""
    return Sample(row["path"], (row["start"], row["end"]) if "start" in row else None)


def read_done(file: str | None, key: dict[str, str], top: int) -> dict[Sample, dict[str, Any]]:
    """What an earlier command wrote into `--json`; a line that was cut off at the end is taken away.

    Args:
        top: classes of a video.

    Raises:
        ConfigError: the file holds something else, or predictions of other weights, views, --amp or --top.
    """
    if not file or not Path(file).is_file():
        return {}
    *lines, rest = Path(file).read_text(encoding="utf-8", errors="replace").split("\n")  # names may hold other breaks
    done = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            done[sample_of(row)] = row
            classes = top if "error" in row else len(row["top"])
            same = classes == top and {name: row.get(name) for name in key} == key
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"--json {file}, line {number}: not a prediction: give another file") from error
        if not same:
            raise ConfigError(
                f"--json {file}, line {number}: of other weights, --views, --amp or --top: give another file"
            )
    if rest and not (rest.startswith(_ROW) or _ROW.startswith(rest)):
        raise ConfigError(f"--json {file}, line {len(lines) + 1}: not a prediction: give another file")
    if rest:
        replace_text(Path(file), "".join(line + "\n" for line in lines))
    return done


def find(args: argparse.Namespace) -> tuple[list[Sample], list[Prediction]]:
    """The videos or windows, and those videos that cannot be cut into windows."""
    samples = find_samples(args.sources, data_root=args.data_root)
    if not args.window:
        return samples, []
    windows: list[Sample] = []
    failed: list[Prediction] = []
    for sample in samples:
        try:
            windows += windows_of(sample, args.window, args.stride or args.window / 2)
        except DecodeError as error:
            failed.append(Prediction(sample, None, error=error.reason))
    return windows, failed


def show(row: dict[str, Any]) -> None:
    """A prediction on screen."""
    place = f" {row['start']:.2f}-{row['end']:.2f} s" if "start" in row else ""
    said = f"cannot be read: {row['error']}" if "error" in row else _described(row["top"])
    print(f"{_printable(row['path'])}{place}: {_printable(said)}")


def _described(top: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{entry['class']} {entry['score']:.3f}" for entry in top)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def predict(
    args: argparse.Namespace, world: World, predictor: Predictor, key: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The row of every video on rank 0, in order, old and new ones; what is new is appended to `--json`."""
    samples, failed = on_main_process(world, lambda: find(args))
    classes = min(args.top, predictor.outputs)
    if args.submission and classes < SUBMITTED:
        raise ConfigError(f"{args.checkpoint}: --submission needs {SUBMITTED} classes, it has {classes}")
    done = on_main_process(world, lambda: read_done(args.json, key, classes))
    new = [sample for sample in samples if sample not in done]
    loader = LoaderConfig(num_workers=args.num_workers, decode_timeout=args.decode_timeout)
    found = predictor.predict(new, loader, world)
    progress = Progress(len(samples) + len(failed), len(samples) - len(new))

    def written(prediction: Prediction) -> dict[str, Any]:
        row = row_of(prediction, key, args.top)
        if args.json:
            with naming(args.json), Path(args.json).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        progress.add(failed="error" in row)
        return row

    if world.is_main:
        for prediction in failed:
            yield done.get(prediction.sample) or written(prediction)
        for sample in samples:
            yield done[sample] if sample in done else written(next(found))
        progress.finish()
    for _ in found:  # the other ranks take part, and get nothing
        raise AssertionError("a prediction beyond the last video")


def write_csv(file: str, rows: Sequence[dict[str, Any]], top: int) -> None:
    """All rows as a table."""
    with naming(file), Path(file).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        names = [f"{what}{k}" for k in range(1, top + 1) for what in ("class", "score")]
        writer.writerow(["path", "start", "end", "error", *names])
        for row in rows:
            said = [value for entry in row.get("top", ()) for value in (entry["class"], f"{entry['score']:.6f}")]
            writer.writerow([row["path"], row.get("start", ""), row.get("end", ""), row.get("error", ""), *said])


def write_submission(file: str, rows: Sequence[dict[str, Any]]) -> None:
    """Something-Something v2's test server: `video_id;label;label;label;label;label`, the most likely first.

    Labels are numbers, as the test_models.py of mit-han-lab/temporal-shift-module writes them: those of the official
    labels, which a model trained on the official lists has.

    Raises:
        ConfigError: a video could not be read.
    """
    lines = []
    for row in rows:
        if "error" in row:
            raise ConfigError(f"{row['path']}: --submission ssv2 needs every video, and this one has no prediction")
        lines.append(";".join([Path(row["path"]).stem, *(str(entry["label"]) for entry in row["top"][:SUBMITTED])]))
    replace_text(Path(file), "\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    args = parser().parse_args(argv)
    interrupted = f"interrupted; the same command goes on from {args.json}" if args.json else "interrupted"
    with user_errors(*DATA_ERRORS, ModelError, interrupted=interrupted):
        check(args)
        reported = user_errors(*DATA_ERRORS, ModelError, interrupted=interrupted)
        with distributed(args.device) as world, reported, loader_errors():
            start = StartConfig(model_key=args.model_key, trust_checkpoint=args.trust_checkpoint)
            sizes: Any = {"num_frames": args.num_frames, "input_size": args.input_size}
            loaded = load(args.checkpoint, start, world=world, **sizes)
            loaded.model.to(world.device)
            loaded = with_sampling_rate(loaded, args.sampling_rate)
            if world.is_main and (doubt := doubts(loaded)):
                print(f"{args.checkpoint}: {doubt}", file=sys.stderr)
            with as_config_error(args.checkpoint):
                amp = RunConfig(amp=args.amp).amp_on(world.device)
                views = args.views or tested_views(loaded)
                predictor = Predictor.of(loaded, autocast(world.device, amp), views=views, batch_size=args.batch_size)
            rows = []
            with locked(args, world):
                for row in predict(args, world, predictor, key_of(args, loaded, views, amp)):
                    show(row)
                    rows.append(row)
                return on_main_process(world, lambda: finish(args, rows))


@contextlib.contextmanager
def locked(args: argparse.Namespace, world: World) -> Iterator[None]:
    """No other command writes the files meanwhile.

    Raises:
        ConfigError: one does.
    """
    with contextlib.ExitStack() as stack:
        for file in filter(None, (args.json, args.csv, args.output)):
            folder, name = os.path.split(os.path.realpath(file))
            stack.enter_context(output_lock(folder, world, WAYS_OUT, name=f"{name}.lock"))
        yield


def finish(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> int:
    """The files that hold all rows; returns the exit code.

    Raises:
        ConfigError: no video could be read.
    """
    failed = [row for row in rows if "error" in row]
    if args.csv:
        write_csv(args.csv, rows, args.top)
    if rows and len(failed) == len(rows):
        raise ConfigError(f"{failed[0]['path']}: {failed[0]['error']}")
    if args.submission:
        write_submission(args.output, rows)
    if failed:
        print(f"{len(failed)} of {len(rows)} could not be read; they are listed above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
