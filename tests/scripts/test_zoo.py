"""scripts/zoo.py: the table against its data file and the published numbers, every command, and what is fetched."""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from processes import ROOT

from engine.flags import parse
from inference.load import load
from models import create_model
from scripts import zoo
from scripts.recipes import read_recipes, split_command
from scripts.table_cells import PUBLISHED
from scripts.zoo_page import as_lines, page
from scripts.zoo_progress import Progress
from scripts.zoo_rows import ROWS, read_zoo
from sigma_video.options import recorded

ZOO = read_zoo()
SIZES = {"ViT-S": "small", "ViT-B": "base", "ViT-L": "large", "ViT-H": "huge"}
SIGMA = {  # name of the file: bytes, SHA-256; from the commit that added them, huggingface.co/SMSD75/SIGMA, 9cba51c
    "kinetics_400_vit_b_sigma_with_dino.pth": (1154905450, "c9130cda"),
    "kinetics_400_vit_b_sigma_with_mlp.pth": (1176544970, "df3d632d"),
    "ssv2_vit_b_sigma_with_dino.pth": (1154905642, "a90cbe89"),
    "ssv2_vit_b_sigma_with_dino_and_mgmae_mask.pth": (1112801280, "19604189"),
    "ssv2_vit_b_sigma_with_mlp.pth": (1176544906, "1c967ea5"),
}


def test_the_page_and_the_list_are_those_of_the_data_file():
    text = zoo.PAGE.read_text()
    assert page(ZOO, text) == text
    lines = as_lines(ZOO)
    for row in ZOO.rows.values():
        assert f"| `{row.name}`" in text and row.address.partition("#")[0] in text and row.command in text
        assert any(line.startswith(f"{row.name} ") and row.licence in line for line in lines)
        assert row.sha256 is None or (re.fullmatch("[0-9a-f]{64}", row.sha256) and row.sha256 in text)
    assert all(f"- {what}\n" in text and f"  {what}" in lines for what in ZOO.missing)
    rows = json.loads(ROWS.read_text())["rows"]
    assert len(rows) == len(ZOO.rows) == len({row.address for row in ZOO.rows.values()})
    assert {row.method.split()[0] for row in ZOO.rows.values()} >= {"SIGMA-DINO", "SIGMA-MLP", "VideoMAE", "SMILE"}


def test_files_of_sigma():
    rows = [row for row in ZOO.rows.values() if row.repository == "SMSD75/SIGMA"]
    assert {row.file.rpartition("/")[2]: (row.bytes, row.sha256[:8]) for row in rows} == SIGMA
    assert {(row.backbone, row.finetuned_on, row.licence) for row in rows} == {("ViT-B", "", "none stated")}


def test_numbers_are_the_published_ones():
    keys = {"method": "method", "backbone": "backbone", "pretrained_on": "data", "epochs": "epochs", "source": "source"}
    published = json.loads(PUBLISHED.read_text())
    for row in ZOO.rows.values():
        if row.source in ZOO.sources:
            continue
        assert row.source in published["sources"]
        entries = [
            entry
            for entry in published["values"]
            if entry["table"] == "finetuning" and all(entry[key] == getattr(row, ours) for key, ours in keys.items())
        ]
        for column, value in row.numbers.items():
            assert any(entry["values"].get(column) == value for entry in entries), (row.name, column)


def test_every_command_parses_and_fits_its_weights():
    recipes = read_recipes()
    names = sorted({row.recipe for row in ZOO.rows.values()})
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda name: recipes[name].command(DATA_PATH="LISTS", CHECKPOINT="WEIGHTS"), names)
        words = dict(zip(names, made, strict=True))
    configs = {}
    for row in ZOO.rows.values():
        fetched, run = row.command.splitlines()
        assert fetched == f"weights=$(.venv/bin/python scripts/zoo.py fetch {row.name})"
        assert zoo.parser().parse_args(fetched.rstrip(")").split()[2:-1] + [row.name]).command == "fetch"
        start = f"DATA_PATH=lists/{recipes[row.recipe].data} CHECKPOINT=$weights bash scripts/{row.recipe}.sh"
        assert run == " ".join([start, *row.recipe_flags])
        if run not in configs:
            cls, flags = split_command(words[row.recipe])
            configs[run] = recorded(parse(cls, [*flags, *row.recipe_flags]))
        config = configs[run]
        assert f"_{SIZES[row.backbone]}_" in config["model"]
        assert config["eval"] is bool(row.finetuned_on)
        column = next(iter(row.numbers))
        if not row.finetuned_on or row.finetuned_on == column.split()[0]:
            views = "{test_num_segment}x{test_num_crop}".format(**config)
            assert any(column == f"{data} {views}" for data in ("K400", "SSv2")), row.name


def test_licences():
    assert {row.licence for row in ZOO.rows.values()} == {"apache-2.0", "cc-by-nc-4.0", "mit", "none stated"}
    assert ZOO.licence_of("MCG-NJU/videomae-base") == ZOO.licence_of("videomae-base") == "cc-by-nc-4.0"
    assert ZOO.licence_of("nobody/nothing") == ""


# ------------------------------------------------------------------------------------------------ fetching


class Handler(http.server.SimpleHTTPRequestHandler):
    """A folder over HTTP, whose requests are kept."""

    requests: list[str] = []  # noqa: RUF012  # of all requests, which are instances

    def do_GET(self):
        self.requests.append(self.path.rpartition("/")[2])
        super().do_GET()

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("vit_mini_patch8_32", num_frames=4, depth=1, num_classes=3, init_scale=1.0).eval()


@pytest.fixture
def made(model, tmp_path, monkeypatch):
    """A zoo of a server here: a classifier as a file, with a wrong hash and a wrong size; and with a file beside it."""
    files = tmp_path / "served" / "org" / "name" / "resolve" / "main"
    files.mkdir(parents=True)
    args = {"num_frames": 4, "input_size": 32}
    torch.save({"model": model.state_dict(), "args": args, "class_names": ["a", "b", "c"]}, files / "c.pth")
    (files / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    digest, size = hashlib.sha256((files / "c.pth").read_bytes()).hexdigest(), (files / "c.pth").stat().st_size
    row = {"method": "M", "backbone": "ViT-B", "data": "K400", "epochs": 1, "repository": "org/name", "licence": "mit"}
    row |= {"file": "c.pth", "numbers": {"K400 5x3": 1.0}, "source": "SIGMA", "recipe": "finetune/k400_vit_b"}
    rows = [
        {**row, "name": "right", "bytes": size, "sha256": digest},
        {**row, "name": "unknown", "bytes": None, "sha256": None, "beside": ["README.md"]},
        {**row, "name": "hash", "bytes": size, "sha256": digest[::-1]},
        {**row, "name": "size", "bytes": size + 1, "sha256": digest},
        {**row, "name": "gone", "file": "d.pth", "bytes": None, "sha256": None},
    ]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "_opener", None)  # urllib keeps the proxies of the first address
    Handler.requests.clear()
    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        host = f"http://127.0.0.1:{httpd.server_port}/"
        (tmp_path / "zoo.json").write_text(json.dumps({"host": host, "sources": {}, "missing": [], "rows": rows}))
        monkeypatch.setattr(zoo, "read_zoo", lambda: read_zoo(tmp_path / "zoo.json"))
        yield model
        httpd.shutdown()


def in_cache(tmp_path):
    return [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        zoo.main(["fetch", *map(str, words)])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert not out and err.endswith(f"{line}\n")
    return line


def test_fetched_once_checked_and_converted(made, tmp_path, capsys):
    for _ in range(2):
        zoo.main(["fetch", "right"])
    file, again = capsys.readouterr().out.splitlines()
    assert file == again and Handler.requests == ["c.pth"]
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(load(file).model(clip), made(clip))
    zoo.main(["fetch", "right", "--folder", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    converted = load(tmp_path / "out")
    assert torch.equal(converted.model(clip), made(clip)) and converted.licence == "mit"
    assert "already" in refused(capsys, "right", "--folder", tmp_path / "out")
    assert Handler.requests == ["c.pth"]
    zoo.main(["fetch", "unknown"])
    said = capsys.readouterr()
    folder = Path(said.out.strip())
    assert {"c.pth", "README.md"} < {file.name for file in folder.iterdir()} and "nothing to compare" in said.err


def test_progress_is_lines_in_a_pipe_and_a_bar_on_a_terminal(made, tmp_path, capsys):
    """The other numbers of a line are those of a clock."""
    zoo.main(["fetch", "right"])
    size = f"{next(tmp_path.rglob('served/**/c.pth')).stat().st_size / 1e6:.1f}"
    assert re.search(rf"^right: {size} of {size} MB, \d+\.\d MB/s", capsys.readouterr().err, re.MULTILINE)
    plain = io.StringIO()
    progress = Progress("x", plain, every=0)
    for done in (500_000, 1_000_000, 4_000_000):
        progress(done, 4_000_000)
    assert [re.sub(r"[\d.]+ MB/s, .* left", "RATE", line) for line in plain.getvalue().splitlines()] == [
        "x: going on after 0.5 MB",
        "x: 0.5 of 4.0 MB, 0.0 MB/s",
        "x: 1.0 of 4.0 MB, RATE",
        "x: 4.0 of 4.0 MB, RATE",
    ]
    plain.isatty = lambda: True
    with contextlib.closing(Progress("y", plain)) as progress:
        progress(0, 4_000_000)
        progress(4_000_000, 4_000_000)
    assert re.search(r"y: 100%.*4\.00M/4\.00M \[.*B/s\]", plain.getvalue())


def test_another_file_than_the_zoos_leaves_nothing(made, tmp_path, capsys):
    """One line and exit code 2; of a file of another size not a byte is kept either."""
    assert "SHA-256 is" in refused(capsys, "hash") and not in_cache(tmp_path)
    assert "bytes, not" in refused(capsys, "size") and not in_cache(tmp_path)
    assert "404" in refused(capsys, "gone") and not in_cache(tmp_path)
    Handler.requests.clear()
    assert "Did you mean right?" in refused(capsys, "righ") and "which?" in refused(capsys)
    zoo.main(["list"])
    assert "right" in capsys.readouterr().out and not Handler.requests and not in_cache(tmp_path)


def test_the_page_is_written_in_a_checkout_alone(monkeypatch, tmp_path, capsys):
    text = zoo.PAGE.read_text()
    (tmp_path / "MODEL_ZOO.md").write_text(re.sub(r"\| `sigma-.*\n", "", text))
    monkeypatch.setattr(zoo, "PAGE", tmp_path / "MODEL_ZOO.md")
    zoo.main(["write"])
    assert (tmp_path / "MODEL_ZOO.md").read_text() == text
    monkeypatch.setattr(zoo, "PAGE", tmp_path / "none.md")
    with pytest.raises(SystemExit):
        zoo.main(["write"])
    assert "only a clone" in capsys.readouterr().err
    assert zoo.PAGE.parent != ROOT
