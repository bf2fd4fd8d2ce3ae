"""What is installed, and that it works as a checkout does, from any folder and beside packages of the same names."""

import importlib
import json
import re
import shutil
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from processes import ROOT, fresh
from runs import load, same

import hubconf
import sigma_video
from models.attention import OPERATORS, attend
from sigma_video import commands

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which mypy and build bring along

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
HEAVY = (".git", ".venv", "output", "tests", "bench", "docs", "build", "dist", "__pycache__", "*.egg-info", ".*cache")

# ------------------------------------------------------------------------------------------- the lists of pyproject


def test_packages_are_the_folders():
    files = [
        file
        for name in ("models", "datasets", "engine", "inference", "evaluation", "programs", "scripts")
        for file in (ROOT / name).rglob("*.py")
    ]
    folders = {file.parent.relative_to(ROOT) for file in files}
    assert len(PACKAGES) == len(set(PACKAGES))
    assert set(PACKAGES) == {"sigma_video"} | {f"sigma_video.{'.'.join(folder.parts)}" for folder in folders}
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)  # else another's may be found first


def lines_of(file):
    """The requirements in a file, `-r` not followed."""
    return {line for line in (ROOT / file).read_text().splitlines() if re.match(r"\w", line)}


def test_requirements_are_those_of_the_project():
    required, extras = set(PROJECT["project"]["dependencies"]), PROJECT["project"]["optional-dependencies"]
    assert required | set(extras["dev"]) == lines_of("requirements.txt") | lines_of("requirements-dev.txt")
    left_out = {re.match(r"[\w-]+", line)[0] for line in lines_of("requirements.txt") - required}
    assert left_out == {"deepspeed", "matplotlib", "tqdm"}
    assert set(extras["deepspeed"]) < lines_of("requirements.txt")


def test_every_command_runs_a_script_that_is_there(monkeypatch):
    ran = {}
    names = [(name, ()) for name in PROJECT["project"]["scripts"] if name != "sigma"]
    names += [("sigma", (word,)) for word in commands.ANSWERS]
    for name, words in names:
        command = EntryPoint(name, PROJECT["project"]["scripts"][name], "console_scripts").load()
        monkeypatch.setattr(commands, "_run", lambda script, called=(name, words): ran.update({called: script}))
        monkeypatch.setattr(sys, "argv", [f"/bin/{name}", *words, "--top", "1"])
        command()
        assert f"`{name}`" in command.__doc__
        assert sys.argv[1:] == ["--top", "1"]
    assert len(ran) == len(set(ran.values())) == len(names)
    assert all((commands.FOLDER / script).is_file() for script in ran.values()), ran


def test_sigma_without_a_command_it_knows(monkeypatch, capsys):
    for words, code, said in (
        (["--help"], 0, "sigma predict --help"),
        ([], 0, "usage: sigma {predict,"),
        (["predic"], 2, "predict"),
    ):
        monkeypatch.setattr(sys, "argv", ["sigma", *words])
        with pytest.raises(SystemExit) as ended:
            commands.sigma()
        captured = capsys.readouterr()
        assert ended.value.code == code and said in captured.out + captured.err


# ------------------------------------------------------------------------------------------------- in a checkout


def test_nothing_heavy_is_imported_before_it_is_used():
    program = "import sys, sigma_video; print({'torch', 'models', 'sigma_video.models'} & {*sys.modules})"
    assert shell(sys.executable, "-c", program, cwd=ROOT) == "set()\n"


def test_names_of_the_package():
    assert sigma_video.ModelError.__module__ == "sigma_video.models.registry"
    assert {"create_model", "ModelError", "load", "from_pretrained"} <= set(dir(sigma_video))
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        _ = sigma_video.create_modle


def gradient_of(attend, q):
    q = q.clone().requires_grad_()
    attend(q, q, q).float().square().sum().backward()
    return q.grad


def test_models_under_both_names_work_in_one_process():
    """The tests' `models` and `sigma_video.models`: a second operator of a name takes away the first."""
    module = importlib.import_module("sigma_video.models.attention")
    again = module.attend
    assert module.OPERATORS != OPERATORS
    q = torch.randn(2, 2, 5, 8, dtype=torch.bfloat16)
    assert again is not attend
    assert torch.equal(gradient_of(attend, q), gradient_of(again, q))
    assert torch.equal(gradient_of(again, q), gradient_of(attend, q))


COMPOSED = """
import sys, sigma_video.programs.finetuning.model as found
from sigma_video.models.classifier import Classifier
assert found.Classifier is Classifier and found.FinetuningConfig.__module__ == "sigma_video.programs.finetuning.options"
assert not {"models", "datasets", "engine", "programs"} & {*sys.modules}
"""


@pytest.mark.slow
def test_packages_that_compose_the_others_work_under_the_installed_name(tmp_path):
    """One copy of everything, from any folder, whatever else is called `datasets`."""
    (tmp_path / "datasets.py").write_text("raise ImportError('of another project')")
    program = f"import sys; sys.path.append({str(ROOT)!r})\n{COMPOSED}"
    finished = fresh(sys.executable, "-c", program, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr


def test_hub():
    entries = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    kinds, sizes = ("pretrain_videomae", "vit"), ("small", "base", "large", "huge")
    sized = {f"{kind}_{size}_patch16_224" for kind in kinds for size in sizes}
    assert entries == {"create_model", "from_pretrained"} | sized
    assert "num_classes" in hubconf.vit_small_patch16_224.__doc__
    small = {"depth": 1, "img_size": 32, "num_frames": 4, "num_classes": 3}
    model = torch.hub.load(str(ROOT), "vit_small_patch16_224", source="local", **small)
    assert model(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 3)


# ------------------------------------------------------------------------------------------------- installed


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is built: a build leaves files beside what it builds."""
    folder = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*HEAVY))
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_packaging.py", folder / "tests")  # which no distribution may hold
    return folder


def shell(*command, cwd):
    """Run a command to its end; AssertionError with what it wrote if it fails."""
    finished = fresh(*command, cwd=cwd)
    assert finished.returncode == 0, f"{command}:\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.fixture(scope="module")
def distributions(source, tmp_path_factory):
    """The files that `python -m build` makes: (source distribution, wheel), the wheel of the source distribution."""
    pytest.importorskip("build", reason="the package `build` is not installed (requirements-dev.txt)")
    folder = tmp_path_factory.mktemp("dist")
    shell(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


class Installed:
    """An environment of its own with the project installed, and an empty folder to work in.

    The packages that the project needs are those of this interpreter. `datasets` and `models` of others are there too.
    """

    def __init__(self, folder, what):
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.bin, self.cwd = folder / "venv" / "bin", folder / "empty"
        self.cwd.mkdir()
        site = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(folder / "venv")}))
        heavy = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (site / "heavy.pth").write_text("".join(f"{path}\n" for path in heavy))
        for name in ("models", "datasets"):
            (site / name).mkdir()
            (site / name / "__init__.py").write_text("OWNER = 'another'\n")
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "-q", "--no-deps", "--no-index"]
        shell(*pip, "--no-build-isolation", *what, cwd=folder)

    def run(self, *command):
        """Run a command from the empty folder; what it wrote to stdout."""
        return shell(self.bin / command[0], *command[1:], cwd=self.cwd)


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, tmp_path_factory):
    if request.param == "wheel":
        what = [request.getfixturevalue("distributions")[1]]
    else:
        what = ["-e", request.getfixturevalue("source")]
    return Installed(tmp_path_factory.mktemp(request.param), what)


@pytest.mark.slow
def test_distributions_hold_what_runs_and_nothing_else(distributions):
    archive, wheel = distributions
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    scripts = (
        "run_class_finetuning",
        "run_probing",
        "run_repetition_counting",
        "run_segmentation",
        "run_sigma_pretraining",
    )
    expected = {f"sigma_video/{script}.py" for script in scripts}
    for package in PACKAGES:
        inside = Path(*package.split(".")[1:])
        folder = ROOT / (inside if inside.parts else "sigma_video")
        expected |= {f"sigma_video/{inside / file.name}" for file in folder.glob("*.py")}
    in_checkout = r"scripts/(demo|figures|table_cells|table_formats|tables|recipes|reproduce)"
    assert names == {name for name in expected if not re.search(in_checkout, name)} | {"sigma_video/scripts/zoo.json"}
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert not any(name.startswith("tests") for name in names)
    assert {"setup.py", "pyproject.toml", "LICENSE", "run_sigma_pretraining.py"} < names


LIBRARY = """
import datasets, models, transformers
import torch
import sigma_video
from sigma_video import ModelError, create_model
from sigma_video.datasets.sampling import pretrain_indices
from sigma_video.models.weights.huggingface_config import huggingface_config

assert datasets.OWNER == models.OWNER == "another"
model = create_model("vit_mini_patch8_32", num_classes=3, num_frames=4).eval()
clip = torch.randn(2, 3, 4, 32, 32)
assert model(clip).shape == (2, 3)
sizes = {"image_size": 32, "patch_size": 8, "num_frames": 4, "hidden_size": 48, "num_hidden_layers": 1}
config = transformers.VideoMAEConfig(**sizes, num_attention_heads=3, intermediate_size=96)
assert transformers.VideoMAEModel(config)(clip.transpose(1, 2)).last_hidden_state.shape == (2, 32, 48)
assert "engine" not in __import__("sys").modules
print(sigma_video.__version__, sigma_video.__file__)
"""

HUB = f"""
import datasets, models
import torch
options = {{"num_classes": 3, "depth": 1, "img_size": 32, "num_frames": 4}}
model = torch.hub.load({str(ROOT)!r}, "vit_small_patch16_224", source="local", **options)
assert datasets.OWNER == models.OWNER == "another"
print(tuple(model(torch.zeros(1, 3, 4, 32, 32)).shape), type(model).__module__)
"""


@pytest.mark.slow
def test_library_beside_others_of_the_same_names(installed):
    version, file = installed.run("python", "-c", LIBRARY).split()
    assert version == sigma_video.__version__
    assert not Path(file).is_relative_to(ROOT)


@pytest.mark.slow
def test_hub_beside_others_of_the_same_names(installed):
    assert installed.run("python", "-c", HUB) == "(1, 3) sigma_video.models.classifier\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sigma-pretrain", "sigma-convert", "sigma-data-check"])
def test_command_help(installed, name):
    assert installed.run(name, "--help").startswith(f"usage: {name} ")


@pytest.fixture(scope="module")
def flags(data):
    """A pre-training run of a second, with a process that loads the clips."""
    return data.flags("pretrain", "run", num_workers=1, seed=1)


@pytest.fixture(scope="module")
def trained_in_checkout(flags, tmp_path_factory):
    """The model that the run gives in this checkout, started from another folder."""
    folder = tmp_path_factory.mktemp("checkout")
    shell(sys.executable, ROOT / "run_sigma_pretraining.py", *flags, cwd=folder)
    return load(folder / "run" / "checkpoint-1.pth")["model"]


@pytest.mark.slow
def test_a_run_equals_that_of_a_checkout(installed, flags, trained_in_checkout):
    """From an empty folder, inside someone's repository: its commit is not that of our code."""
    git = ["git", "-c", "user.name=n", "-c", "user.email=e"]
    shell(*git, "init", "-q", ".", cwd=installed.cwd.parent)
    shell(*git, "commit", "-q", "--allow-empty", "-m", "theirs", cwd=installed.cwd.parent)
    installed.run("sigma-pretrain", *flags)
    folder = installed.cwd / "run"
    assert same(load(folder / "checkpoint-1.pth")["model"], trained_in_checkout)
    (record,) = json.loads((folder / "run.json").read_text())
    assert record["commit"] == "" and record["command"][0] == str(installed.bin / "sigma-pretrain")


@pytest.mark.slow
def test_a_run_under_torchrun(installed, flags):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    changes = ["--output_dir", "two", "--batch_size", "2"]
    installed.run("python", *torchrun, installed.bin / "sigma-pretrain", *flags, *changes)
    assert (installed.cwd / "two" / "checkpoint-1.pth").is_file()
