"""browse.py: masks and clips of a list as a picture."""

import pytest
import torch
from PIL import Image

from datasets.lists.read import read_list
from scripts.data import browse


def test_hidden_tokens_are_grey():
    frames = torch.randint(0, 256, (4, 3, 32, 48), dtype=torch.uint8)
    mask = torch.rand(2 * 2 * 3) < 0.5
    shown = browse.hide(frames, mask, (2, 2, 3))
    for token in range(12):
        t, y, x = token // 6, token % 6 // 3, token % 3
        block = (slice(2 * t, 2 * t + 2), slice(None), slice(16 * y, 16 * y + 16), slice(16 * x, 16 * x + 16))
        assert torch.equal(shown[block], torch.full_like(frames[block], 110) if mask[token] else frames[block])


def test_contact_sheet(videos, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("".join(f"class {place}\n" for place in range(9)))
    (tmp_path / "l.csv").write_text(f"{videos.good[0]} 0\n{videos.bad[1]} 5\n")
    flags = {"input_size": 32, "num_frames": 4, "mask_ratio": 0.5, "num_sample": 1, "columns": 3, "side": 20, "num": 2}
    small = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    browse.main([str(tmp_path / "l.csv"), str(tmp_path / "x.png"), *small])
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.size[0] == 3 * 24 + 4
        assert sheet.size[1] > 5 * 40
    with pytest.raises(SystemExit):
        browse.main([str(tmp_path / "l.csv"), str(tmp_path / "x.txt"), *small])
    assert ".png" in capsys.readouterr().err


def test_rows_of_a_video(videos, tmp_path):
    (tmp_path / "l.csv").write_text(f"{videos.good[0]} 1\n")
    args = browse.parser().parse_args(
        [str(tmp_path / "l.csv"), "x.png", "--input_size", "32", "--num_frames", "4", "--mask_ratio", "0.5"]
    )
    options = browse.clip_options(args)
    rows = browse.rows_of(read_list(tmp_path / "l.csv"), 0, names=["cat", "dog"], options=options)
    assert rows[0].text.endswith("label 1: dog")
    assert [row.frames is None for row in rows] == [True] + 6 * [False]
    clip = rows[1].frames
    for row, name in zip(rows[2:5], ("tube", "random", "motion_vectors"), strict=True):
        assert f"--mask_type {name}: the encoder sees 4 of 8 tokens" in row.text
        assert (row.frames == clip).float().mean() == pytest.approx(0.5, abs=0.01)  # the same clip under every mask
