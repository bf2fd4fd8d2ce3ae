"""Atomic file writing."""

from engine.files import replace_text


def test_replace_text(tmp_path):
    file = tmp_path / "a.txt"
    replace_text(file, "one")
    replace_text(file, "two")
    assert file.read_text() == "two" and list(tmp_path.iterdir()) == [file]
