"""Files of weights that would be much larger in memory than on disk."""

import zipfile

import pytest
import torch

from engine.checkpointing.read_weights import read_weights
from engine.errors import CheckpointError


def deflated(folder, *, level=zipfile.ZIP_DEFLATED, tensors=None):
    """A file of torch, packed again."""
    torch.save({"model": {"w": torch.zeros(1 << 20)} if tensors is None else tensors}, folder / "plain.pth")
    with (
        zipfile.ZipFile(folder / "plain.pth") as plain,
        zipfile.ZipFile(folder / "small.pth", "w", level) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    return folder / "small.pth"


@pytest.mark.parametrize("level", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_file_is_refused_before_it_is_unpacked(level, tmp_path, monkeypatch):
    file = deflated(tmp_path, level=level)
    assert file.stat().st_size < 50_000
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: pytest.fail("unpacked"))
    with pytest.raises(CheckpointError, match=r"small.pth: refused: .* is compressed, .* 0.0039\d* GiB"):
        read_weights(file)
    assert deflated(tmp_path, level=zipfile.ZIP_STORED).stat().st_size > 1 << 22


def test_members_that_share_their_bytes_are_refused(tmp_path):
    file = deflated(tmp_path, level=zipfile.ZIP_STORED)
    content = bytearray(file.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    directory = bytes(content[start:end])
    tail = bytearray(content[end:])
    number = int.from_bytes(tail[8:10], "little") * 9
    tail[8:12] = number.to_bytes(2, "little") * 2
    tail[12:16] = (len(directory) * 9).to_bytes(4, "little")
    file.write_bytes(bytes(content[:start]) + directory * 9 + bytes(tail))
    with pytest.raises(CheckpointError, match=r"small.pth: refused: its members are .* GiB in a smaller file"):
        read_weights(file)


def test_a_tensor_that_repeats_one_number_is_refused(tmp_path):
    torch.save({"w": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x.pth: refused: a tensor of shape \(1048576, 1048576\)"):
        read_weights(tmp_path / "x.pth")
    torch.save({"w": torch.arange(6.0).view(2, 3).t(), "v": torch.zeros(1).expand(4)}, tmp_path / "y.pth")
    assert read_weights(tmp_path / "y.pth").tensors["v"].shape == (4,)
