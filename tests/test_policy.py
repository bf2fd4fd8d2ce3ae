"""Rules of the code base that no type checker knows: what may import what, and what documents may say."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
from processes import ROOT, fresh

SOURCES = sorted(
    path for folder in ("models", "datasets", "engine") for path in (ROOT / folder).rglob("*.py")
) + sorted(ROOT.glob("run_*.py"))
CHECKED = [*SOURCES, *sorted((ROOT / "sigma_video").glob("*.py")), ROOT / "hubconf.py"]

MAY_IMPORT = {  # besides the standard library and the package itself
    "datasets": {"torch", "torchvision", "timm", "numpy", "PIL", "av", "decord", "torchcodec", "fsspec", "sigma_video"},
    "models": {"torch", "einops", "timm", "numpy", "sigma_video", "onnx", "onnxruntime", "onnxscript", "triton"},
    "engine": {"torch", "numpy", "safetensors", "wandb", "deepspeed"},
}
BELOW = {  # room of models -> the others it may import; layers < vit, decoder < sigma, classifier
    "attention": set(),
    "tokens": set(),
    "positions": set(),
    "sinkhorn": set(),
    "projection": set(),
    "layers": {"attention", "tokens"},
    "targets": {"tokens"},
    "objectives": {"sinkhorn"},
    "vit": {"layers", "positions", "tokens"},
    "decoder": {"layers", "positions", "tokens", "vit"},
    "sigma": {"decoder", "tokens", "vit", "layers", "objectives"},
    "classifier": {"vit", "layers"},
    "registry": {"classifier", "decoder", "objectives", "projection", "sigma", "sinkhorn", "targets", "vit"},
    "teachers": {"registry", "targets", "tokens"},
    "weights": {"classifier", "positions", "registry", "sigma", "targets", "vit"},
    "analysis": {"classifier", "positions", "sigma", "targets", "teachers", "tokens"},
}
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


@pytest.mark.parametrize("room", BELOW)
def test_order_inside_models(room):
    files = [ROOT / "models" / f"{room}.py", *(ROOT / "models" / room).glob("*.py")]
    names = [name for file in files if file.exists() for name in imports(file) if name.startswith("models.")]
    assert {name.split(".")[1] for name in names} - {room} <= BELOW[room]


def test_models_know_no_rank_no_options_and_no_files():
    for path in sorted((ROOT / "models").rglob("*.py")):
        for name in imports(path):
            assert not any(name == word or name.startswith(word + ".") for word in NOT_IN_MODELS), (path, name)


def test_entry_scripts_are_imported_by_nothing():
    for path in SOURCES:
        assert not any(name.startswith("run_") for name in imports(path)), path


# What needs them says what to install.
OPTIONAL = {"onnx", "onnxruntime", "onnxscript", "torchcodec", "fsspec", "triton", "wandb", "deepspeed"}


def test_third_party_imports_are_required():
    """Whatever the code imports is in requirements.txt, under its distribution's name."""
    required = set(re.findall(r"^[A-Za-z0-9_-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    required = {name.lower().replace("_", "-") for name in required}
    ours = {"models", "datasets", "engine", "sigma_video"}
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
    """No print, no `type=bool`, no handler that catches everything or does nothing, no function of over 80 lines."""
    tree = tree_of(path)
    assert not calls(tree, "print")
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "type":
            assert getattr(node.value, "id", None) != "bool", f"line {node.value.lineno}: bool('False') is True"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            assert not all(isinstance(step, ast.Pass) for step in node.body), f"line {node.lineno}: except: pass"
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{node.name}: {node.end_lineno - node.lineno + 1} lines"


def test_no_unfinished_work():
    for path in CHECKED:
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text()), path


def test_the_local_datasets_package_wins(tmp_path):
    """Another package of that name (Hugging Face's) comes later on the path of a script that is run by its name."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    program = f"import sys; sys.path.append({str(tmp_path)!r}); import datasets; sys.stdout.write(datasets.__file__)"
    script = ROOT / "datasets" / "__init__.py"
    finished = fresh(sys.executable, "-c", program, cwd=ROOT)
    assert finished.stdout == str(script), finished.stderr
