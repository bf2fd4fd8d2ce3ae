"""The pages: their commands, links and anchors, the code they name, and references that no reader can follow."""

import ast
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from processes import COUNT, FINETUNE, PRETRAIN, PROBE, ROOT, SEGMENT

from engine.flags import build_parser
from run_class_finetuning import FinetuningConfig
from run_probing import ProbingConfig
from run_repetition_counting import RepetitionConfig
from run_segmentation import SegmentationConfig
from run_sigma_pretraining import PretrainingConfig

PARSERS = {PRETRAIN: build_parser(PretrainingConfig), FINETUNE: build_parser(FinetuningConfig)}
PARSERS |= {SEGMENT: build_parser(SegmentationConfig), PROBE: build_parser(ProbingConfig)}
PARSERS[COUNT] = build_parser(RepetitionConfig)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
SCRIPTS = sorted((ROOT / "scripts").rglob("*.sh")) + sorted((ROOT / "scripts").rglob("*.sbatch"))
SCRIPTS += sorted((ROOT / "scripts").rglob("*.yaml"))
MOST_LINES = 250
GENERATED = {"docs/files.md"}  # a row for each file; may grow with the code


def name_of(path):
    return path.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)

OTHERS_FLAGS = {"--ipc", "--shm-size", "--max-restarts", "--max_restarts"}  # of docker and torchrun


@every_page
def test_flags_in_the_text_exist(page):
    """Each flag in backticks is one of an entry script, or stands in a file of scripts/ or .ci/."""
    ours = {flag for parser in PARSERS.values() for flag in parser._option_string_actions}
    files = [path for path in (ROOT / "scripts").rglob("*") if path.suffix in (".py", ".sh", ".sbatch")]
    tools = "\n".join(path.read_text() for path in [*files, *(ROOT / "bench").glob("*.py")])
    named = set(re.findall(r"`(--[a-z][\w-]+)", page.read_text()))
    assert not [flag for flag in named - ours - OTHERS_FLAGS if not re.search(rf"{flag}(?![\w-])", tools)]


# ------------------------------------------------------------------------------------------------ commands


def command_lines(path):
    """Lines of a file, those that end in a backslash joined with the next."""
    return re.sub(r"\\\n", " ", path.read_text()).splitlines()


def shell_commands(page):
    """The commands in a page's bash blocks, each as its words."""
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if line.strip() and not line.startswith("#"):
                yield line, shlex.split(line, comments=True)


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=name_of)
def test_commands_use_flags_that_exist(path):
    for line in command_lines(path):
        for script, parser in PARSERS.items():
            command = line.partition(script)[2]
            flags = set(re.findall(r"(?<!\S)(--[A-Za-z][\w-]*)", command))
            assert flags <= set(parser._option_string_actions), line


@every_page
def test_commands_of_the_entry_scripts_parse(page):
    """Not their flags alone: values and required options, as the script itself would take them."""
    for line, words in shell_commands(page):
        for script, parser in PARSERS.items():
            if script in words and "--help" not in words:
                try:
                    parser.parse_args(words[words.index(script) + 1 :])
                except SystemExit:
                    pytest.fail(line)


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=name_of)
def test_commands_name_scripts_that_exist(path):
    for line in command_lines(path):
        for script in re.findall(
            r"\b(?:bash|python3?|sbatch)(?: +--\S+)* +((?:\w+/)*[\w-]+\.(?:sh|py|sbatch))\b", line
        ):
            assert (ROOT / script).is_file(), line


@every_page
def test_tools_are_called_with_flags_that_exist(page):
    """Of scripts/ and bench/: a flag has to be written in the tool, or in what it shares with others."""
    for line, words in shell_commands(page):
        for script in (word for word in words if re.fullmatch(r"(scripts|bench|docs)(/\w+)*/\w+\.(py|sh)", word)):
            flags = {word.partition("=")[0] for word in words[words.index(script) :] if word.startswith("--")}
            folder = (ROOT / script).parent
            written = "".join(path.read_text() for path in [*folder.glob("*.py"), ROOT / script])
            known = [*PARSERS.values()] if script.split("/")[1] in ("pretrain", "finetune", "eval") else []
            for flag in flags:
                in_parsers = any(flag in parser._option_string_actions for parser in known)
                assert in_parsers or f'"{flag}"' in written or re.search(rf"^#.* {flag}\b", written, re.M), line


def test_every_folder_of_documents_is_read():
    assert {"README.md", "INSTALL.md", "DATASET.md", "PRETRAIN.md", "FINETUNE.md", "WEIGHTS.md"} <= set(
        map(name_of, PAGES)
    )
    assert sum(1 for page in PAGES for _ in shell_commands(page)) > 50


# ------------------------------------------------------------------------------------------------ links and names


def without_code(text):
    return re.sub(r"`[^`\n]*`", "`code`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(page):
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@every_page
def test_links_and_anchors_exist(page):
    text = without_code(page.read_text())
    links = re.findall(r"\]\(([^()\s]+)\)", text) + re.findall(r"(?:href|src|srcset)=\"([^\"]+)\"", text)
    for link in links:
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file() and target.is_relative_to(ROOT), link  # the site has no pages for folders
        assert not anchor or anchor in anchors(target), link


@every_page
def test_files_that_are_named_exist(page):
    """Paths in the text, such as models/sigma.py or tests/engine/test_optim.py."""
    text = page.read_text()
    top = "|".join(path.name for path in ROOT.iterdir() if any(path.glob("*.py")))  # not lists/, which users make
    made = set(re.findall(r"^New file `([^`]+)`:$", text, re.M))  # by an example of the page
    for name in set(re.findall(rf"(?<![\w/.-])((?:{top})/[\w/.-]+\.(?:py|sh|sbatch|md|json|svg))\b", text)) - made:
        if not name.startswith("output/"):
            assert (ROOT / name).is_file(), name


@every_page
def test_names_in_files_exist(page):
    """`models/objectives.py`: `OBJECTIVES`, `Regression` is a file and the names that it defines."""
    for file, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", page.read_text()):
        defined = set()
        for node in ast.parse((ROOT / file).read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            defined |= {getattr(target, "id", getattr(target, "name", None)) for target in targets}
        assert set(re.findall(r"\w+", names)) <= defined, (file, names)


@every_page
def test_imports_in_python_examples_work(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (
                "models",
                "datasets",
                "engine",
                "inference",
                "evaluation",
            ):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


# ------------------------------------------------------------------------------------------------ form


@every_page
def test_no_page_is_too_long(page):
    if name_of(page) not in GENERATED:
        assert len(page.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ("README.md", "RESULTS.md")], ids=name_of)
def test_a_page_opens_with_a_command_and_its_contents(page):
    """A title, what the page is for, a command to copy; where there are several sections, a table of contents."""
    text = page.read_text()
    before, *sections = re.split(
        r"^## ", re.sub(r"^```.*?^```", "CODE", text, flags=re.DOTALL | re.MULTILINE), flags=re.M
    )
    assert re.match(r"# \S.*\n\n\w", before)
    assert "CODE" in before
    headings = [section.splitlines()[0].replace("`", "") for section in sections]
    if len(headings) > 3:
        contents = before.partition("**Contents:**")[2]
        assert re.findall(r"\[([^]]+)\]\(#", contents) == headings


# ------------------------------------------------------------------------------------------------ references

# Notes that are not part of the repository, sections of them ("protocols 1.6"), and faults by a number in such a note.
BANNED = (
    r"\bprotocols\.md\b",
    r"\bprotocols? \d",
    r"(?<![\w/])spec/|\bshared/spec\b",
    r"\bdesign\.md\b",
    r"\bhouse\.md\b",
    r"\bfaults? [A-Z]\d+\b",
    r"(?<![\w-])S(?:[1-9]|[1-3]\d|4[0-4])(?=:(?!//)|[,;)]| of | and )",
    r"\((?:G[1-3]|T[1-35-9]|T10|E[1-6]|R[1-8]|[CJ][1-3])[,)]",  # T4 is a GPU
)


def tracked_texts():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone: git knows no files here")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix not in (".npz", ".pt", ".png", ".json", ".webp") and path != Path(__file__):
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_no_reference_that_a_reader_cannot_follow():
    found = [
        f"{name_of(path)}: {line.strip()[:100]}"
        for path, text in tracked_texts()
        for line in text.splitlines()
        if any(re.search(pattern, line) for pattern in BANNED)
    ]
    assert not found, "\n".join(found)


def test_banned_references_spare_what_is_meant_otherwise():
    """Codecs, devices, formats, ranges of layers: names that look alike."""
    spared = (
        "an A100, a T4 and an L4",
        "a small GPU (T4)",
        "AV1 (S3:// shards)",
        "s3://bucket/x.tar",
        "https://git-lfs.github.com/spec/v1",
        "the 16 frames (T, C, H, W)",
        "FX-S1, UB-S1",
        "`FXS1`, `UBS1`",
        "RUF002, RUF003",
        "C1 codec",
        "SIGUSR1",
        "other protocols give other numbers",
    )
    caught = (
        "protocols 1.6",
        "spec/protocols.md 1.4",
        "S19: any error",
        "fault S10 of the released code",
        "never reached (S20), and",
        "the right direction (G1)",
        "S14, S15, S16: one clip",
        "see design.md",
    )
    assert not [text for text in spared if any(re.search(pattern, text) for pattern in BANNED)]
    assert not [text for text in caught if not any(re.search(pattern, text) for pattern in BANNED)]
