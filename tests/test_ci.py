"""What a test skips for want of an optional package runs in continuous integration."""

import re
from pathlib import Path

from processes import ROOT

RUN = (ROOT / ".ci" / "run").read_text()


def packages(name):
    """Names of the packages that a file of requirements lists itself."""
    return set(re.findall(r"^([\w-]+)", (ROOT / name).read_text(), re.M))


def test_files_that_want_an_optional_package_are_run_with_it():
    names = "|".join(packages("requirements-ci.txt"))
    fixture = r"def test_\w+\([^)]*\bdecoder\b"  # of tests/datasets: every back end
    wanting = re.compile(rf'importorskip\("({names})"|why_missing|(wandb|peft).*is not installed')
    listed = {ROOT / word for word in re.search(r"optional=\((.*?)\)", RUN, re.S)[1].split()}
    assert all(path.exists() for path in listed)
    files = set((ROOT / "tests").rglob("test_*.py")) - {Path(__file__)}
    found = [
        file
        for file in files
        if wanting.search(file.read_text()) or ("datasets" in file.parts and re.search(fixture, file.read_text()))
    ]
    assert len(found) > 8
    assert [file for file in found if not listed.intersection((file, *file.parents))] == []
