"""Prints the paper's tables with published and measured values: `python scripts/tables.py output/k400 output/ssv2`.

Without a folder: the published values alone. `--write` brings the tables of docs/results.md up to date.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import ConfigError, user_errors
from scripts.table_cells import TABLES, fill
from scripts.table_formats import as_csv, document, grid, markdown_grid
from scripts.table_records import read_records
from sigma_video.command_line import CommandLine

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"
BLOCK = re.compile(r"(<!-- tables: (\w+) (paper|context) -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)


def parser() -> CommandLine:
    """Command line of this script."""
    made = CommandLine(description=__doc__)
    made.add_argument("folders", nargs="*", type=Path, metavar="RESULTS_DIR", help="with results in or below them")
    form = made.add_mutually_exclusive_group()
    for flag in ("--markdown", "--csv", "--html", "--latex"):
        form.add_argument(flag, dest="form", action="store_const", const=flag.removeprefix("--"))
    form.add_argument("--write", action="store_true", help="write the published values into docs/results.md")
    made.add_argument("--table", choices=[table.name for table in TABLES], help="this one alone")
    made.set_defaults(form="markdown")
    return made


def with_tables(page: str) -> str:
    """A page with the published values between its marks `<!-- tables: NAME paper -->` and `<!-- end -->`."""
    tables, by_name = fill([])[0], {table.name: table for table in TABLES}

    def block(found: re.Match[str]) -> str:
        rows = [row for row in tables[found[2]] if row.of_paper is (found[3] == "paper")]
        return found[1] + markdown_grid(grid(by_name[found[2]], rows, [], with_measured=False)) + found[4]

    return BLOCK.sub(block, page)


def main(folders: list[Path], *, form: str, write: bool, table: str | None = None) -> None:
    """Print the tables, on stderr a line for each result that is in none; or bring the page up to date."""
    if write:
        if folders or table:
            raise ConfigError("--write: the page has all tables with published values alone; leave out the rest")
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    tables, unplaced = fill(read_records(folders))
    tables = {name: rows for name, rows in tables.items() if table in (None, name)}
    print(as_csv(tables) if form == "csv" else document(tables, form, with_measured=bool(folders)), end="")
    for line in unplaced:
        print(f"note: {line}", file=sys.stderr)


if __name__ == "__main__":
    with user_errors():
        given = parser().parse_args()
        main(given.folders, form=given.form, write=given.write, table=given.table)
