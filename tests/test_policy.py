"""Rules of the code base that no type checker knows: what may import what, and what documents may say."""

import ast
import importlib
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions

import pytest
from processes import ROOT, fresh

PACKAGES = ("models", "datasets", "engine", "inference", "evaluation", "programs")
SOURCES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")) + sorted(ROOT.glob("run_*.py"))
CHECKED = [*SOURCES, *sorted((ROOT / "sigma_video").glob("*.py")), ROOT / "hubconf.py"]

MAY_IMPORT = {  # besides the standard library and the package itself
    "datasets": {
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "PIL",
        "av",
        "decord",
        "torchcodec",
        "fsspec",
        "triton",
        "sigma_video",
    },
    "models": {"torch", "einops", "timm", "numpy", "sigma_video", "onnx", "onnxruntime", "onnxscript", "triton"},
    "engine": {"torch", "numpy", "safetensors", "wandb", "deepspeed", "huggingface_hub", "sigma_video"},
    "inference": {"torch", "numpy", "mteb", "tqdm", "sigma_video", "models", "datasets", "engine"},
    "evaluation": {
        "torch",
        "torchvision",
        "numpy",
        "scipy",
        "sklearn",
        "PIL",
        "models",
        "datasets",
        "engine",
        "sigma_video",
    },
    "programs": {"torch", "numpy", "peft", "models", "datasets", "engine", "inference", "evaluation", "sigma_video"},
}
# Rooms of a package, files and folders at its top, from bottom to top: each may import those of the rows below its own.
ORDER = {
    "models": (
        "kernels",
        "attention positions projection sinkhorn tokens",
        "layers targets",
        "objectives vit",
        "classifier decoder methods",
        "sigma",
        "registry",
        "sizes weights",
        "teachers",
        "more_teachers",
        "analysis",
    ),
    "datasets": (
        "errors moments sampling sampling_by_time scenes",
        "catalogue decoding segmentation synthetic transforms",
        "lists loading",
        "class_balance masks samples",
        "classification pretraining",
        "clip_check probing",
    ),
    "engine": (
        "errors pretraining released_flags results schedules",
        "distributed files flags memory optim",
        "checkpointing monitoring resilience tasks",
        "config evaluation finetuning log_steps",
        "training",
        "acceleration dry_run memory_plan record weights",
        "setup",
    ),
    "inference": ("load sources", "features views", "predict", "video_model", "mveb"),
    "evaluation": ("probing records repetition segmentation",),
    "programs": ("finetuning pretraining probing repetition",),
}
MOST_FILES = 20  # in a folder
MOST_LINES = 60  # of a function
MOST_BRANCHES = 12  # cyclomatic complexity of a function
NOT_IN_MODELS = {"argparse", "logging", "os", "pathlib", "sys", "random", "torch.distributed"}


def name_of(path):
    return str(path.relative_to(ROOT))


def tree_of(path):
    return ast.parse(path.read_text(), filename=str(path))


def imports(path):
    """Full names of what a module imports, relative imports resolved."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parent = ".".join([*base, *([node.module] if node.module else [])])
            yield parent
            yield from (f"{parent}.{alias.name}" for alias in node.names)


PACKAGED = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in MAY_IMPORT]  # run_*.py import everything


@pytest.mark.parametrize("path", PACKAGED, ids=name_of)
def test_import_rule(path):
    package = path.relative_to(ROOT).parts[0]
    roots = {name.split(".")[0] for name in imports(path)}
    assert roots - set(sys.stdlib_module_names) - {package} <= MAY_IMPORT[package]


def room_of(path):
    """The file or folder at the top of its package."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_climbs_between_the_rooms_of_a_package(package):
    height = {room: row for row, rooms in enumerate(ORDER[package]) for room in rooms.split()}
    paths = [path for path in SOURCES if path.relative_to(ROOT).parts[0] == package]
    assert height.keys() == {room_of(path) for path in paths} - {"__init__"}
    for path in paths:
        own = room_of(path)
        used = {name.split(".")[1] for name in imports(path) if name.startswith(f"{package}.")} & height.keys() - {own}
        climbing = [room for room in used if own != "__init__" and height[room] >= height[own]]
        assert not climbing, f"{name_of(path)} imports {climbing}"


@pytest.mark.parametrize("package", PACKAGES)
def test_files_of_a_package_do_not_import_in_a_circle(package):
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES}
    arrows = {name: set(imports(path)) & modules.keys() - {name} for name, path in modules.items()}
    # A module's own package is imported before it: only what it takes from other modules counts.
    arrows = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in arrows.items()}
    order = TopologicalSorter({name: others for name, others in arrows.items() if name.startswith(package)})
    order.prepare()  # raises CycleError


@pytest.mark.parametrize("path", PACKAGED, ids=name_of)
def test_imports_inside_a_package_are_relative(path):
    package = path.relative_to(ROOT).parts[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] != package, f"line {node.lineno}: it is installed under another name"
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == package for alias in node.names), f"line {node.lineno}"
    # `sigma_video.models` would be a second copy of it in a checkout, with classes of its own.
    used = {name.split(".")[1] for name in imports(path) if name.startswith("sigma_video.")}
    assert used <= {file.stem for file in (ROOT / "sigma_video").glob("*.py")}


def test_folders_are_small():
    for package in PACKAGES:
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


PROMISED = {  # what users and tools import, and nothing else is re-exported
    "models": {"ModelError", "create_model"},
    "models.sinkhorn": {"sinkhorn", "sinkhorn_codes"},
    "datasets.decoding": {"DecodeError", "open_video"},
}


def test_packages_re_export_what_is_promised_and_nothing_else():
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            module = importlib.import_module(name)
            bound = [n for node in tree_of(init).body if isinstance(node, ast.ImportFrom) for n in node.names]
            assert {alias.asname or alias.name for alias in bound} <= PROMISED.get(name, set()), name
            assert set(getattr(module, "__all__", ())) == PROMISED.get(name, set()), name
            assert all(hasattr(module, promised) for promised in PROMISED.get(name, ()))


def test_no_module_at_the_top_hides_another():
    """Installed commands have the folder `sigma_video` at the head of the path: its `triton.py` would be Triton."""
    names = {file.stem for file in (ROOT / "sigma_video").glob("*.py")} | {file.stem for file in ROOT.glob("run_*.py")}
    names |= {*PACKAGES, "scripts"} - {"datasets"}  # which is ours on purpose
    installed = packages_distributions()
    others = {*installed, *OPTIONAL, *sys.stdlib_module_names, "transformers", "ray", "mteb"}
    assert not names & {other for other in others if "sigma-video" not in installed.get(other, ())}


def test_parsed_flags_stay_where_flags_are_parsed():
    """What follows a command line is typed: no function of a package takes argparse's namespace but the bridge."""
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.arg) and node.annotation is not None and name_of(path) != "engine/flags.py":
                assert not re.search(r"\bNamespace\b", ast.unparse(node.annotation)), f"{path}, line {node.lineno}"


def test_models_know_no_rank_no_options_and_no_files():
    for path in sorted((ROOT / "models").rglob("*.py")):
        for name in imports(path):
            assert not any(name == word or name.startswith(word + ".") for word in NOT_IN_MODELS), (path, name)


def test_entry_scripts_begin_alike():
    """With what lets them run with `python -I` and end without a traceback at Ctrl-C during the imports."""
    heads = [path.read_text().split('"""', 2)[2].partition("\n\nimport ")[2] for path in ROOT.glob("run_*.py")]
    heads = [head[: head.index("\n\nimport ")] for head in heads]
    assert len(heads) == 5 and len(set(heads)) == 1 and "signal.SIG_DFL" in heads[0]


def test_entry_scripts_are_imported_by_nothing():
    for path in SOURCES:
        assert not any(name.startswith("run_") for name in imports(path)), path


# What needs them says what to install.
OPTIONAL = {
    "onnx",
    "onnxruntime",
    "onnxscript",
    "torchcodec",
    "fsspec",
    "triton",
    "wandb",
    "deepspeed",
    "huggingface_hub",
    "mteb",
    "peft",
}


def test_third_party_imports_are_required():
    """Whatever the code imports is in requirements.txt, under its distribution's name."""
    required = set(re.findall(r"^[A-Za-z0-9_-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    required = {name.lower().replace("_", "-") for name in required}
    ours = {"models", "datasets", "engine", "inference", "evaluation", "programs", "sigma_video"}
    roots = (
        {name.split(".")[0] for path in CHECKED for name in imports(path)}
        - set(sys.stdlib_module_names)
        - ours
        - OPTIONAL
    )
    known = packages_distributions()
    for root in roots:
        assert {name.lower().replace("_", "-") for name in known[root]} & required, root


def calls(tree, name):
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", None) == name]


@pytest.mark.parametrize("path", CHECKED, ids=name_of)
def test_habits(path):
    """No print, no `type=bool`, no handler that catches everything or does nothing, no long or branching function."""
    tree = tree_of(path)
    assert not calls(tree, "print")
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "type":
            assert getattr(node.value, "id", None) != "bool", f"line {node.value.lineno}: bool('False') is True"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            assert not all(isinstance(step, ast.Pass) for step in node.body), f"line {node.lineno}: except: pass"
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < MOST_LINES, f"{node.name}: {node.end_lineno - node.lineno + 1} lines"


def test_functions_of_tools_are_short():
    for folder in ("scripts", "bench", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno - node.lineno < MOST_LINES, f"{name_of(path)}: {node.name}"


def test_functions_branch_little():
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "C901", "--output-format", "concise"]
    limit = ["--config", f"lint.mccabe.max-complexity = {MOST_BRANCHES}"]
    finished = subprocess.run([*command, *limit, "."], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_no_unfinished_work():
    for path in CHECKED:
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text()), path


def test_the_local_datasets_package_wins(tmp_path):
    """Another package of that name (Hugging Face's) comes later on the path of a script that is run by its name."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    find = "import sys, importlib.util as u; sys.stdout.write(u.find_spec('datasets').origin)"
    program = f"import sys; sys.path.append({str(tmp_path)!r}); {find}"
    script = ROOT / "datasets" / "__init__.py"
    finished = fresh(sys.executable, "-c", program, cwd=ROOT)
    assert finished.stdout == str(script), finished.stderr


def test_scripts_say_what_they_install():
    """A sourced file sees the caller's own arguments unless it gets others: env.sh would take --out for a list."""
    sourcing = [
        line
        for file in [*ROOT.glob("scripts/**/*.sh"), *ROOT.glob("bench/**/*.sh")]
        for line in file.read_text().splitlines()
        if line.startswith("source ") and 'env.sh"' in line
    ]
    assert len(sourcing) >= 4
    assert all(re.search(r'env\.sh" requirements[a-z-]*\.txt$', line) for line in sourcing), sourcing
