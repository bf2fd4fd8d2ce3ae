"""Control characters in names from outside are shown, and not obeyed."""

import io
import logging

import pytest
import torch
from conftest import write_list
from processes import FINETUNE, run_script

from engine.distributed.world import World
from engine.errors import user_errors
from engine.monitoring.metrics import log_table, setup_logging
from sigma_video.command_line import CommandLine
from sigma_video.terminal import PrintableStream, printable

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\rc\x9b31m\u202ed\u2066\u2028\x00\x7f"


def is_safe(text):
    return all(character.isprintable() or character in "\n\t" for character in text)


def test_every_control_character_is_shown():
    assert (
        printable("plain, tab\tand newline\n, Grüße, 中文, 🎬, a\u0301")
        == "plain, tab\tand newline\n, Grüße, 中文, 🎬, a\u0301"
    )
    assert printable("\x1b[31mred") == r"\x1b[31mred"
    assert printable(HOSTILE) == r"a\x1b[2J\x1b]0;title\x07b\x0dc\x9b31m\u202ed\u2066\u2028\x00\x7f"
    for code in [
        *range(9),
        *range(11, 32),
        *range(127, 160),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        0xD800,
        0xDCFF,
    ]:
        assert is_safe(printable(f"x{chr(code)}y")), hex(code)
    for code in range(0x3000):
        if chr(code).isprintable():
            assert printable(chr(code)) == chr(code)


def test_a_stream():
    below = io.StringIO()
    print("a\x1bb", "c", file=PrintableStream(below), flush=True)
    assert below.getvalue() == "a\\x1bb c\n" and PrintableStream(below).getvalue() == below.getvalue()


@pytest.mark.parametrize(
    "words", [["--order", HOSTILE], [f"--{HOSTILE}"], [f"--{HOSTILE}=3"], [HOSTILE], ["--n", HOSTILE]]
)
def test_errors_of_the_command_line(words, capsys):
    parser = CommandLine()
    parser.add_argument("--order", choices=["new", "old"])
    parser.add_argument("--n", type=int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([word.replace("\u2028", "\n") for word in words])
    text = capsys.readouterr().err
    assert ended.value.code == 2 and is_safe(text) and text.count("\n") == 1 and r"\x1b[2J" in text


def test_log_tables_errors_and_prints(tmp_path, capsys):
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    try:
        setup_logging(World(0, 1, 0, torch.device("cpu")), str(tmp_path))
        log_table("data", {"list": HOSTILE})
        logging.getLogger("engine").warning("%s: undecodable", HOSTILE)
    finally:
        logging.basicConfig(handlers=handlers, level=level, force=True)
    with pytest.raises(SystemExit), user_errors(ValueError):
        print(HOSTILE)  # noqa: T201  (what the scripts do)
        raise ValueError(HOSTILE)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err, (tmp_path / "console.txt").read_text(encoding="utf-8")):
        assert is_safe(text) and r"\x1b[2J" in text


def test_a_run_with_hostile_names_of_files_and_classes(data, tmp_path):
    video = tmp_path / "v\x1b[31m.mp4"
    video.write_bytes(data.videos[0].read_bytes())
    broken = tmp_path / "broken\x1b]0;x\x07.mp4"
    broken.write_bytes(video.read_bytes()[:1200])
    for name in ("train", "val", "test"):
        write_list(tmp_path / f"{name}.csv", [video, *data.videos[:8], *([broken] if name == "train" else [])])
    (tmp_path / "labels.txt").write_text("\x1b[2Jclear\nb\nc\n")
    flags = data.flags(FINETUNE, tmp_path / "out\x1b[5m", data_path=tmp_path, epochs=1, warmup_epochs=0, batch_size=2)
    ended = run_script(FINETUNE, *flags)
    assert ended.code == 0, ended.stderr
    assert r"v\x1b[31m.mp4" in ended.stderr and r"(\x1b[2Jclear)" in ended.stderr
    for file in ("console.txt", "bad_videos.txt", "log.txt", "run.json", "test.json"):
        assert is_safe((tmp_path / "out\x1b[5m" / file).read_text()), file
    assert is_safe(ended.stderr) and is_safe(ended.stdout)
    (tmp_path / "test.csv").write_text(f"{broken} 0\n")
    ended = run_script(FINETUNE, *flags)
    assert ended.code == 2 and is_safe(ended.stderr) and r"broken\x1b]0;x\x07.mp4" in ended.errors[0]
