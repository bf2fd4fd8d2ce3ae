"""Shared by all tests: one thread, and a folder of tiny real videos with their lists."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from videos import write_video

if not torch.cuda.is_available():  # let Triton's kernels run on the CPU; read when something first imports it
    os.environ["TRITON_INTERPRET"] = "1"

import sigma_video.compat  # noqa: F401  (before any test that imports torchvision or timm by itself)

torch.set_num_threads(1)  # also because a pool's threads do not survive the fork that `processes` starts from

NUM_CLASSES = 3


@dataclass(frozen=True)
class Data:
    """A folder with `pretrain.csv`, `train.csv`, `val.csv` and `test.csv`, and what they list."""

    folder: Path
    videos: tuple[Path, ...]

    @property
    def pretrain_list(self) -> Path:
        return self.folder / "pretrain.csv"

    def flags(self, script: str, output_dir: Path | str = "", **changes: object) -> list[str]:
        """A command line of a run that takes about a second; a change to None leaves its flag out."""
        flags: dict[str, object] = {
            "input_size": 32,
            "num_frames": 4,
            "num_workers": 0,
            "output_dir": output_dir,
            "epochs": 2,
            "warmup_epochs": 1,
            "batch_size": 4,
            "print_freq": 1,
            "device": "cpu",
        }
        if "pretrain" in script:
            flags |= {"data_path": self.pretrain_list, "model": "pretrain_videomae_mini_patch8_32", "decoder_depth": 1}
            flags |= {"num_prototypes": 12, "projection_dims": "32"}
        else:
            flags |= {"data_path": self.folder, "data_set": "custom", "model": "vit_mini_patch8_32"}
            flags |= {"short_side_size": 32, "test_num_segment": 2, "test_num_crop": 2}
        flags |= changes
        words = []
        for name, value in flags.items():
            if value is True:
                words.append(f"--{name}")
            elif value is not None and value != "":
                words += [f"--{name}", *str(value).split("|")]
        return words


def write_list(file: Path, videos: list[Path] | tuple[Path, ...]) -> Path:
    file.write_text("".join(f"{video} {i % NUM_CLASSES}\n" for i, video in enumerate(videos)))
    return file


@pytest.fixture(scope="session")
def frozen_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights in the layouts of the frozen networks: dino_v1.pth, dino_v2.pth, raft.pth."""
    import timm  # here, and not above, where they would come before sigma_video.compat
    from torchvision.models.optical_flow import raft_small

    folder = tmp_path_factory.mktemp("frozen")
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_small_patch16_224.dino").state_dict(), folder / "dino_v1.pth")
    torch.save(timm.create_model("vit_small_patch14_reg4_dinov2.lvd142m").state_dict(), folder / "dino_v2.pth")
    torch.save(raft_small().state_dict(), folder / "raft.pth")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Twelve real videos of different sizes and lengths."""
    folder = tmp_path_factory.mktemp("data")
    videos = [
        write_video(folder / f"video {i}.mp4", 16 + 2 * i, first=301 * i, width=40 + 2 * (i % 3), height=34)
        for i in range(12)
    ]
    write_list(folder / "pretrain.csv", videos)
    write_list(folder / "train.csv", videos[:8])
    write_list(folder / "val.csv", videos[4:9])
    write_list(folder / "test.csv", videos[5:])
    return Data(folder, tuple(videos))
