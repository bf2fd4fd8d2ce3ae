"""Shared by all tests: one thread, and a folder of tiny real videos with their lists."""

import gc
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # let Triton's kernels run on the CPU; read when something first imports it
    os.environ["TRITON_INTERPRET"] = "1"

import sigma_video.compat  # noqa: F401  (before any test that imports torchvision or timm by itself)

torch.set_num_threads(1)  # also because a pool's threads do not survive the fork that `processes` starts from

NUM_CLASSES = 3
LONG_FILES = [  # they take the most time, the longest first; below tests/
    "test_entry_scripts.py",
    "test_effects.py",
    "test_bad_input.py",
    "engine/distributed/test_deepspeed.py",
    "test_variants.py",
    "engine/resilience/test_preemption.py",
    "models/test_golden.py",
    "models/test_teachers.py",
    "test_convert_checkpoint.py",
    "engine/checkpointing/test_saving.py",
    "engine/checkpointing/test_resume.py",
    "engine/checkpointing/test_resume_in_epoch.py",
    "models/weights/test_export.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files start first, so that processes which share the files end at about the same time."""
    folder = Path(__file__).parent
    rank = {folder / name: place for place, name in enumerate(LONG_FILES)}
    for file in rank:
        assert file.is_file(), f"LONG_FILES names {file}, which is not there"
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test wrote may hold file names that are no UTF-8, which pytest-xdist cannot send to its main process."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # all that was imported stays: no collection needs to look at it again


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
        if "input_size" in changes and "model" not in changes:
            flags["model"] = str(flags["model"]).replace("_32", f"_{changes['input_size']}")  # the name says the size
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
    from videos import write_video  # here, and not above: tests on a GPU need no decoder

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


def _finished_run(script: str, data: Data, folder: Path) -> Path:
    from processes import run_script  # here, and not above, where it would come before compat

    finished = run_script(script, *data.flags(script, folder, epochs=1, warmup_epochs=0))
    assert finished.code == 0, finished.stderr
    return folder


@pytest.fixture(scope="session")
def pretrained(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pre-training of one epoch. Tests only read it."""
    return _finished_run("run_sigma_pretraining.py", data, tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="session")
def finetuned(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fine-tuning of one epoch. Tests only read it."""
    return _finished_run("run_class_finetuning.py", data, tmp_path_factory.mktemp("finetuned"))
