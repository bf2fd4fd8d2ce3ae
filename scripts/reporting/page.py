"""The page: one file that needs no server and no network, of one run or of several beside one another."""

import base64
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .assets import SCRIPT, STYLE
from .charts import NUM_COLOURS, line_chart
from .markup import NOTHING, cards, definitions, details, element, numeric, row_head, shown, table, tested, text
from .panels import groups_of
from .results_shown import test_section
from .run_folder import Run
from .state import State, age, clock

PLACES = {"output_dir", "log_dir", "run_name"}  # options that say where a run lies, and nothing about it
FACTS = {  # of a start -> words
    "commit": "commit",
    "torch": "torch",
    "python": "Python",
    "numpy": "NumPy",
    "device": "device",
    "world_size": "processes",
    "data": "list",
    "train": "training list",
    "val": "validation list",
    "test": "test list",
}


def render(runs: Mapping[str, Run], states: Mapping[str, State]) -> str:
    """The page of runs by their names.

    Raises:
        ConfigError: a file of a run that cannot be read.
    """
    title = next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs"
    parts = [f"<header><h1>{text(title)}</h1>{_subtitle(runs)}</header>", _overview(runs, states)]
    if len(runs) > 1:
        parts.append(_differences(runs))
    parts += [
        f'<section><h2>{text(group)}</h2><div class="charts">{"".join(map(line_chart, charts))}</div></section>'
        for group, charts in groups_of(runs).items()
    ]
    parts += [_run_section(name, run, number, alone=len(runs) == 1) for number, (name, run) in enumerate(runs.items())]
    return _document(title, "\n".join(parts))


def _document(title: str, body: str) -> str:
    """Only the page's own script may run, by its hash, and nothing may be fetched: whatever a file says."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _subtitle(runs: Mapping[str, Run]) -> str:
    written = f"Written {time.strftime('%Y-%m-%d %H:%M %Z')}."
    if len(runs) == 1:
        return f'<p class="note">{text(next(iter(runs.values())).folder)}. {written}</p>'
    return f'<p class="note">{written}</p>'


def anchor(number: int) -> str:
    """The id of a run's section."""
    return f"run-{number}"


# ------------------------------------------------------------------------------------------------ all runs


def _overview(runs: Mapping[str, Run], states: Mapping[str, State]) -> str:
    """A card for each number of one run; of several a table with a row for each."""
    if len(runs) == 1:
        ((name, run),) = runs.items()
        return f"<section>{cards(_facts_of_cards(run, states[name]))}</section>"
    header = ("run", "state", "steps", "judged by", "last", "best", "test", "left", "last written")
    rows = []
    for number, (name, run) in enumerate(runs.items()):
        state, key = states[name], run.main_metric()
        link = f'<span class="swatch c{number % NUM_COLOURS}"></span><a href="#{anchor(number)}">{text(name)}</a>'
        rows.append(
            (
                f'<th scope="row" class="name">{link}</th>',
                f'<span class="state {state.kind}">{text(state.kind)}</span> {text(state.why)}',
                text(_steps(run)),
                text(key) if run.values(key) else "",
                numeric(run.last(key)),
                numeric(run.best(key)),
                text(tested(run)),
                text(clock(state.seconds_left)),
                text(_written(state)),
            )
        )
    return f"<section>{table(header, rows, sortable=True, class_='overview')}</section>"


def _facts_of_cards(run: Run, state: State) -> Iterable[tuple[str, str]]:
    """HTML and words below it."""
    key = run.main_metric()
    yield f'<span class="state {state.kind}">{text(state.kind)}</span>', " ".join((state.why, _written(state))).strip()
    yield text(_steps(run)), "steps"
    if state.seconds_left is not None:
        yield text(clock(state.seconds_left)), "left, without validation and saving"
    if run.values(key):
        yield text(shown(run.last(key))), f"last {key}"
        yield text(shown(run.best(key))), f"best {key}"


def _steps(run: Run) -> str:
    return f"{run.step} of {run.total_steps or '?'}"


def _written(state: State) -> str:
    return f"{age(time.time() - state.written_at)} ago"


def _differences(runs: Mapping[str, Run]) -> str:
    """A table for each kind of runs that there are several of: kinds have other options."""
    parts = []
    for kind, is_pretraining in (("pre-training", True), ("fine-tuning and testing", False)):
        own = {name: run for name, run in runs.items() if run.starts and run.is_pretraining is is_pretraining}
        if len(own) < 2:
            continue
        rows = different([{**run.args, **_facts(run)} for run in own.values()])
        body = [(row_head(name), *map(_option, values)) for name, values in rows]
        shown_rows = table(("", *own), body, class_="options") if rows else "<p>No option and no version.</p>"
        parts.append(f"<h2>What differs: {kind}</h2>{shown_rows}")
    return f"<section>{''.join(parts)}</section>" if parts else ""


_ABSENT = object()


def different(columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Names whose values are not the same in all columns, with the values; `_ABSENT` where there is none."""
    names = dict.fromkeys(name for column in columns for name in column if name not in PLACES)
    rows = [(name, [column.get(name, _ABSENT) for column in columns]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def _option(value: Any) -> str:
    if value is _ABSENT:
        return '<td class="absent">not there</td>'
    return f"<td>{text(NOTHING if value == '' else value)}</td>"


def _facts(run: Run) -> dict[str, Any]:
    """What the last start says of code, versions, machine and lists."""
    last = run.starts[-1] if run.starts else {}
    return {words: last[name] for name, words in FACTS.items() if last.get(name) not in (None, "")}


# ------------------------------------------------------------------------------------------------ one run


def _run_section(name: str, run: Run, number: int, *, alone: bool) -> str:
    heading = "" if alone else f"<h2>{text(name)}</h2>"
    parts = [heading, "".join(f'<p class="warning">{text(line)}</p>' for line in warnings(run)), test_section(run)]
    if run.starts:
        parts.append("<h3>Options and versions</h3>")
        parts.append(definitions(_facts(run).items()))
        parts.append(details(f"{len(run.args)} options", definitions(sorted(run.args.items()))))
        parts.append(details(_counted(len(run.starts), "start"), _starts(run), is_open=False))
        if rows := different([dict(start.get("args") or {}) for start in run.starts]):
            header = ("", *(f"start {place}" for place in range(1, len(run.starts) + 1)))
            body = [(row_head(option), *map(_option, values)) for option, values in rows]
            parts.append(f"<h4>Options changed between starts</h4>{table(header, body, class_='options')}")
    return element("section", "".join(parts), id=anchor(number))


def warnings(run: Run) -> Iterable[str]:
    """What a reader should know before he trusts the numbers."""
    bad = run.folder / "bad_videos.txt"
    if bad.is_file() and (count := len(bad.read_bytes().splitlines())):
        yield f"{_counted(count, 'video')} could not be decoded and gave way to others: {bad.name}"
    if reports := sorted(run.folder.glob("nonfinite-step*.json")):
        yield f"NaN or Inf in {_counted(len(reports), 'update')}: {', '.join(file.name for file in reports[:5])}"
    if not run.starts and run.records:
        yield "run.json is not there: options and versions are not known"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _starts(run: Run) -> str:
    rows = [
        (
            text(start.get("time")),
            numeric(start.get("first_step")),
            text(str(start.get("commit") or "")[:13]),
            text(start.get("device")),
            f"<code>{text(' '.join(map(str, start.get('command') or [])))}</code>",
        )
        for start in run.starts
    ]
    return table(("time", "from step", "commit", "device", "command"), rows)
