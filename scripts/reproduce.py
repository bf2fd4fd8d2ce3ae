"""Make a table of the paper: lists, pre-training, fine-tuning or probes, tests, and the table filled in.

  python scripts/reproduce.py linear --data_root /data --dry_run
  python scripts/reproduce.py finetuning --method SIGMA-MLP --model ViT-B --data_root /data --weights released
  python scripts/reproduce.py severe --data_root /data --launcher slurm --sbatch="--account A --partition P"

The same command goes on after an interruption, and does nothing where all is there: what is done is known by the
outputs. Lists, runs and results lie in --output_dir, the table is OUTPUT_DIR/TABLE.md. See docs/reproduce.md.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.errors import DATA_ERRORS
from engine.checkpointing.download import fetch, is_address
from engine.errors import ConfigError, user_errors
from engine.files import replace_text
from engine.resilience.lock import RunLock
from scripts.data.jobs import positive
from scripts.recipes import Recipe, read_recipes
from scripts.reproduce_cells import Choice, chosen_cells
from scripts.reproduce_data import DATA
from scripts.reproduce_graph import Planner
from scripts.reproduce_jobs import NO_RESULTS, Job
from scripts.reproduce_launch import Slurm, run_local
from scripts.reproduce_settings import RELEASED, Settings, parse_override, read_weights
from scripts.table_cells import TABLES, Row, fill
from scripts.table_formats import document
from scripts.table_records import read_records
from sigma_video.command_line import CommandLine, did_you_mean

BY_NAME = {table.name: table for table in TABLES}


def parser(recipes: Mapping[str, Recipe]) -> CommandLine:
    """Command line of this script."""
    rows = [recipe.row for recipe in recipes.values() if recipe.kind == "pretrain"]

    def choices(key: str) -> list[str]:
        return list(dict.fromkeys(str(row[key]) for row in rows))

    made = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("table", choices=list(BY_NAME), metavar="TABLE", help=", ".join(BY_NAME))
    part = made.add_argument_group("which cells; default: all with a recipe")
    part.add_argument("--method", choices=choices("method"), metavar="NAME", help="; ".join(choices("method")))
    part.add_argument("--model", choices=choices("backbone"), help="of the row")
    part.add_argument("--pretrained_on", choices=choices("pretrained_on"), help="of the row, where the table names it")
    part.add_argument("--column", metavar="NAME", help='one column, such as "SSv2 2x3"')
    made.add_argument("--data_root", required=True, type=Path, metavar="ROOT", help="folder of the data sets")
    made.add_argument("--output_dir", type=Path, default=Path("output/reproduce"), metavar="FOLDER")
    made.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help=f"file or https:// address in the place of a pre-training; NAME is that of its recipe, such as "
        f"k400_sigma_dino_vit_b. '{RELEASED}': what SIGMA's authors have released",
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FLAG=VALUE",
        help="a flag for all recipes that know it; KIND.FLAG=VALUE or RECIPE.FLAG=VALUE for some, as in "
        "pretrain.epochs=100. The table marks what it changes",
    )
    machine = made.add_argument_group("where it runs")
    machine.add_argument("--launcher", choices=("local", "slurm"), default="local")
    machine.add_argument("--gpus", type=positive, default=8, metavar="N", help="per node (default: 8)")
    machine.add_argument("--nodes", type=positive, default=1, metavar="N", help="of slurm (default: 1)")
    machine.add_argument("--batch_size", type=positive, metavar="N", help="most clips of a GPU; the total batch stays")
    machine.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: --gpus counts processes")
    machine.add_argument("--sbatch", default="", metavar="OPTIONS", help="for every sbatch: --sbatch='--account A'")
    made.add_argument("--dry_run", action="store_true", help="print the jobs and end")
    return made


def print_plan(table: str, jobs: Sequence[Job], done: set[str], *, without: Sequence[str], gpus: int) -> None:
    """The graph of the jobs, what each needs, and GPU hours where they are known."""
    todo = [job for job in jobs if job.name not in done]
    print(f"{table}: {len(jobs)} jobs, {len(jobs) - len(todo)} done")
    for job in jobs:
        hours = (
            "" if job.gpu_hours is None else f"; {job.gpu_hours:.0f} GPU hours, {job.gpu_hours / gpus:.1f} on {gpus}"
        )
        print(f"  {'done' if job.name in done else 'to do'}  {job.name}: {job.describes}{hours}")
        if job.after:
            print(f"         after {', '.join(job.after)}")
    training = [job for job in todo if job.recipe is not None]
    known = [job.gpu_hours for job in training if job.gpu_hours is not None]
    if known:
        print(f"  to do: {sum(known):.0f} GPU hours for {len(known)} jobs, not known for {len(training) - len(known)}")
    for cell in without:
        print(f"  no recipe: {cell}")


def missing_data(jobs: Sequence[Job], data_root: Path) -> list[str]:
    """The layouts of the data that these jobs read and that are not there."""
    names = {job.name.removeprefix("prepare-") for job in jobs if job.recipe is None}
    names |= {job.recipe.data for job in jobs if job.recipe is not None and not DATA[job.recipe.data].form}
    return list(dict.fromkeys(DATA[name].layout(data_root) for name in sorted(names) if DATA[name].missing(data_root)))


def measured(out: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """The tables with the results that are there, and a line for each that is in none.

    Raises:
        ConfigError: two results of one cell.
    """
    results = out / "results"
    there = results.is_dir() and any(file.name not in NO_RESULTS for file in results.rglob("*.json"))
    return fill(read_records([results] if there else []))


def filled(table: str, out: Path) -> str:
    """The table as Markdown, also written to OUT/TABLE.md."""
    tables, unplaced = measured(out)
    for line in unplaced:
        print(f"note: {line}", file=sys.stderr)
    text = document({table: tables[table]}, "markdown", with_measured=True)
    replace_text(out / f"{table}.md", text)
    return text


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the output folder: two commands would start every job twice."""
    lock = RunLock(out)
    lock.acquire()
    try:
        with lock.beating():
            yield
    finally:
        lock.release()


def plan(args: argparse.Namespace, recipes: Mapping[str, Recipe]) -> tuple[list[Job], list[str]]:
    """The jobs in order, and the cells that have no recipe.

    Raises:
        ConfigError: options that no job can use.
    """
    if args.launcher == "local" and args.nodes > 1:
        raise ConfigError(f"--nodes {args.nodes}: --launcher local is for this machine: take slurm")
    table = BY_NAME[args.table]
    if table.name == "ablation":
        raise ConfigError("ablation: its list of videos is not public; docs/ablations.md has a recipe for every row")
    names = [column.name for column in table.columns]
    if args.column not in (None, *names):
        near = did_you_mean(args.column, names)
        raise ConfigError(f"--column {args.column}: {table.name} has {', '.join(names)}.{near}")
    cells, without = chosen_cells(table, recipes, Choice(args.method, args.model, args.column, args.pretrained_on))
    settings = Settings(
        data_root=args.data_root.resolve(),
        out=args.output_dir.resolve(),
        gpus=args.gpus,
        nodes=args.nodes,
        batch_size=args.batch_size,
        device=args.device,
        weights=read_weights(args.weights, recipes),
        overrides=tuple(parse_override(text, recipes) for text in args.set),
    )
    planner = Planner(settings, recipes)
    for recipe, start in cells:
        planner.add_cell(recipe, start)
    planner.check_overrides()
    return list(planner.jobs.values()), without


def with_downloads(jobs: Sequence[Job]) -> list[Job]:
    """The jobs with addresses of weights replaced by files, which are downloaded here, once."""
    found = []
    for job in jobs:
        weights = job.variables.get("CHECKPOINT", "")
        if weights and is_address(weights):
            job = job.with_checkpoint(str(fetch(weights)))
        found.append(job)
    return found


def main(args: argparse.Namespace, recipes: Mapping[str, Recipe]) -> int:
    """Print the plan, do what is missing, and fill the table; the exit code."""
    out = args.output_dir.resolve()
    jobs, without = plan(args, recipes)
    done = {job.name for job in jobs if job.is_done()}
    measured(out)  # two results of one cell are told before work
    needed = still_needed(jobs, done)
    todo = [job for job in jobs if job.name in needed]
    missing = missing_data(todo, args.data_root.resolve())
    if missing and not args.dry_run:
        raise ConfigError(f"--data_root {args.data_root}: missing {'; '.join(missing)}")
    print_plan(args.table, jobs, done, without=without, gpus=args.gpus * args.nodes)
    if args.dry_run:
        print("".join(f"  missing: {layout}\n" for layout in missing), end="")
        return 0
    with locked(out):
        todo = with_downloads(todo)
        if args.launcher == "slurm":
            return submit(args, todo, out)
        failed = run_local(todo, out / "logs")
        text = filled(args.table, out)
    print(text if todo else f"nothing to do\n\n{text}", end="")
    for job in failed:
        print(f"missing: {job.name}, log {out / 'logs' / job.name}.log", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} of {len(todo)} jobs failed: the same command goes on with these", file=sys.stderr)
    return 1 if failed else 0


def still_needed(jobs: Sequence[Job], done: set[str]) -> set[str]:
    """Jobs that are not done, but for those that only done ones need."""
    by_name = {job.name: job for job in jobs}
    ends = set(by_name) - {name for job in jobs for name in job.after}
    needed: set[str] = set()
    stack = list(ends)
    while stack:
        name = stack.pop()
        if name not in done and name not in needed:
            needed.add(name)
            stack += by_name[name].after
    return needed


def submit(args: argparse.Namespace, todo: Sequence[Job], out: Path) -> int:
    """Submit jobs that are not in the queue, and one behind them that fills the table."""
    if not todo:
        print(f"nothing to do\n\n{filled(args.table, out)}", end="")
        return 0
    slurm = Slurm(out, shlex.split(args.sbatch))
    before = slurm.queued()
    numbers = slurm.submit(todo, nodes=args.nodes, gpus=args.gpus, device=args.device)
    name = f"table-{args.table}"
    if name not in before or any(job.name not in before for job in todo):
        file = out / f"{args.table}.md"
        words = [
            sys.executable,
            str(Path(__file__).with_name("tables.py")),
            str(out / "results"),
            "--table",
            args.table,
        ]
        scratch = f"{file}.tmp"
        command = f"{shlex.join(words)} > {shlex.quote(scratch)} && {shlex.join(['mv', scratch, str(file)])}"
        slurm.submit_table(command, name, [numbers[job.name] for job in todo])
    print(f"the table will be {out / f'{args.table}.md'}; the same command shows what is done")
    return 0


if __name__ == "__main__":
    with user_errors(*DATA_ERRORS):
        known = read_recipes()
        sys.exit(main(parser(known).parse_args(), known))
