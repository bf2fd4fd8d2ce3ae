"""The worked examples of CONTRIBUTING.md: taken from the page, put into a copy of the code, and used."""

import ast
import importlib.util
import json
import re
import runpy
import shutil
import sys
import textwrap

import numpy as np
import pytest
import torch
from processes import FINETUNE, PRETRAIN, PROBE, ROOT, run_in_processes
from runs import load, records

from datasets.lists.entries import ListPart
from models.targets import IMAGENET_STD

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
STEP = re.compile(
    r"^(In|New file) `([\w/]+\.py)`(?:, (below|a row of|an import)(?: `(\w+)`)?)?:\n\n```py\n(.*?)^```", re.M | re.S
)
STEPS = STEP.findall(PAGE)
PACKAGES = ("models", "datasets", "engine", "inference", "evaluation", "programs", "sigma_video")


def end_of(source, test):
    """The offset behind the last node at the top of a file for which `test` is true."""
    node = [node for node in ast.parse(source).body if test(node)][-1]
    return len("".join(source.splitlines(keepends=True)[: node.end_lineno]))


def named(name):
    def test(node):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        return name in [getattr(target, "id", getattr(target, "name", None)) for target in targets]

    return test


def follow(folder, kind, file, place, name, code):
    """One step of the page, in a copy of the code."""
    path = folder / file
    if kind == "New file":
        assert not path.exists()
        path.write_text(code)
        return
    source = path.read_text()
    if place == "an import":
        at = end_of(source, lambda node: isinstance(node, ast.Import | ast.ImportFrom))
    elif place == "below":
        at, code = end_of(source, named(name)), f"\n\n{code}"
    else:  # behind the last row of a table, a tuple or a dict: before the bracket that closes it
        at = end_of(source, named(name))
        table = source[:at].rstrip()
        rows, rest = table[:-1].rstrip(), f"{table[-1]}\n{source[at:]}"
        source, at = f"{rows.rstrip(',')},\n{rest}", len(rows.rstrip(",")) + 2
        code = textwrap.indent(code.rstrip().rstrip(",") + ",\n", "    ")
    path.write_text(source[:at] + code + source[at:])


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy of the code in which every step of the page was done."""
    folder = tmp_path_factory.mktemp("contribution")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("run_*.py"):
        shutil.copy(file, folder)
    for step in STEPS:
        follow(folder, *step)
    return folder


def edited(followed, file):
    """A file of the copy as a module beside the code's own."""
    package = ".".join(file.split("/")[:-1])
    name = f"{package}.example_{file.split('/')[-1].removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, followed / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def test_every_example_of_the_page_is_followed():
    headings = [heading for heading in re.findall(r"^## (.+)$", PAGE, re.M) if heading.startswith(("A ", "An "))]
    assert headings == ["A data set", "A target", "An objective", "An evaluation"]
    assert len(STEPS) == PAGE.count("\n```py\n") == 12


def test_the_data_set_is_read(followed, tmp_path):
    row = edited(followed, "datasets/catalogue.py").get_dataset_spec("Jester")
    assert (row.num_classes, row.sampler, row.flip, row.published_size("val")) == (27, "uniform", False, 14_787)
    (tmp_path / "jester-v1-labels.csv").write_text("Swiping Left\nDoing other things\n")
    (tmp_path / "train.csv").write_text("34870;Doing other things\n56557;Swiping Left\n")
    found = edited(followed, "datasets/lists/formats/community.py").read_jester(tmp_path / "train.csv", ListPart())
    assert [(entry.path, entry.label) for entry in found.entries] == [
        ("34870", "Doing other things"),
        ("56557", "Swiping Left"),
    ]
    assert found.class_names == ("Swiping Left", "Doing other things")


def test_the_target_is_its_formula(followed):
    module, tubelet = edited(followed, "models/targets.py"), (3, 2, 2)
    clip, masked = torch.randn(2, 3, 6, 4, 4), torch.tensor([[0, 5], [7, 3]])
    for normalize in (False, True):
        target = module.DifferenceTarget(tubelet, normalize=normalize)
        found = target(clip, masked)
        assert found.shape == (2, 2, target.dim) == (2, 2, 2 * 2 * 2 * 3)
        for b, places in enumerate(masked.tolist()):
            for m, place in enumerate(places):
                t, row, column = place // 4, place // 2 % 2, place % 2
                pixels = clip[b, :, 3 * t : 3 * t + 3, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                moved = (pixels[:, 1:] - pixels[:, :-1]) * torch.tensor(IMAGENET_STD)[:, None, None, None]
                moved = moved.flatten(1)
                if normalize:
                    moved = (moved - moved.mean(1, keepdim=True)) / (moved.std(1, keepdim=True) + 1e-6)
                torch.testing.assert_close(found[b, m].reshape(-1, 3), moved.T)
    with pytest.raises(Exception, match=r"--tubelet_size 1: .* needs two frames"):
        module.DifferenceTarget((1, 2, 2))


def test_the_objective_is_its_formula(followed):
    module = edited(followed, "models/objectives.py")
    predicted, features = torch.randn(2, 5, 7, requires_grad=True), torch.randn(2, 5, 7)
    loss = module.OBJECTIVES["cosine"]()(predicted, features)["loss"]
    angles = [
        p @ f / (p.norm() * f.norm()) for p, f in zip(predicted.flatten(0, 1), features.flatten(0, 1), strict=True)
    ]
    torch.testing.assert_close(loss, 1 - sum(angles) / 10)
    loss.backward()
    assert predicted.grad.abs().min() > 0


def nearest_mean(queries, bank, labels, number):
    """By loops: the cosine of a query's mean view with the mean of a class's."""

    def unit(views):
        mean = views.mean(0)
        return mean / np.linalg.norm(mean)

    means = {k: np.mean([unit(v) for v, label in zip(bank, labels, strict=True) if label == k], 0) for k in set(labels)}
    return [
        [unit(query) @ means[k] / np.linalg.norm(means[k]) if k in means else -2 for k in range(number)]
        for query in queries
    ]


def test_the_evaluation_is_its_formula(followed):
    module, rng = edited(followed, "evaluation/probing/centroids.py"), np.random.default_rng(0)
    queries, bank = rng.normal(size=(5, 2, 6)), rng.normal(size=(9, 1, 6))
    labels = np.array([0, 0, 1, 3, 3, 3, 1, 0, 3])
    found = module.centroid_scores(queries, bank, labels, num_classes=5, device=torch.device("cpu"))
    np.testing.assert_allclose(found, nearest_mean(queries, bank, labels.tolist(), 5), rtol=1e-5)


def run_copy(followed, script, *words):
    """An entry script of the copy, whose packages take the place of those that this process has imported."""

    def target():
        for name in [name for name in sys.modules if name.split(".")[0] in (*PACKAGES, "run_probing")]:
            del sys.modules[name]
        sys.path.insert(0, str(followed))
        sys.argv = [str(followed / script), *map(str, words)]
        runpy.run_path(sys.argv[0], run_name="__main__")

    (finished,) = run_in_processes(target)
    assert finished.code == 0, finished.stderr
    return finished.stderr


@pytest.mark.slow
def test_target_and_objective_train(followed, data, tmp_path):
    """The loss of a step is the cosine's, the plan names both, and the checkpoint is read as what it is."""
    chosen = {"target_type": "difference", "loss_func": "cosine", "num_prototypes": None, "projection_dims": None}
    said = run_copy(followed, PRETRAIN, *data.flags(PRETRAIN, tmp_path, **chosen))
    assert "cosine distance on differences of frames (cosine distance, --loss_func cosine" in said
    assert "differences of frames, standardised per tubelet (--target_type difference)" in said
    losses = [record["train/loss"] for record in records(tmp_path) if "train/loss" in record]
    assert len(losses) >= 4 and 0.5 < losses[0] < 1.5 and losses[-1] != losses[0]
    checkpoint = load(tmp_path / "checkpoint-1.pth")
    assert checkpoint["args"]["target_type"] == "difference"
    assert len(checkpoint["model"]["decoder.head.weight"]) == 3 * 8 * 8  # of one difference in tubelets of two frames


@pytest.mark.slow
def test_data_set_and_evaluation_run(followed, data, tmp_path):
    """A fine-tuning takes sampling, flips and classes from the row; the probe's record holds the formula's accuracy."""
    names = [f"gesture {k}" for k in range(27)]
    (tmp_path / "jester-v1-labels.csv").write_text("\n".join(names) + "\n")
    for part, videos in (("train", data.videos[:6]), ("val", data.videos[6:9]), ("test", data.videos[9:])):
        rows = [f"{video};{names[k % 3]}\n" for k, video in enumerate(videos)]
        (tmp_path / f"{part}.csv").write_text("".join(rows))
    lists = {"data_set": "Jester", "data_path": tmp_path, "list_format": "jester"}
    out = tmp_path / "out"
    said = run_copy(followed, FINETUNE, *data.flags(FINETUNE, out, epochs=1, warmup_epochs=0, **lists))
    assert "Jester" in said and len((out / "test_classes.csv").read_text().splitlines()) == 1 + 27
    small = {"device": "cpu", "num_frames": 4, "input_size": 32, "short_side_size": 32, "num_workers": 0}
    words = ["--probe", "centroid", "--random_weights", "0", "--model", "vit_mini_patch8_32", "--any_length"]
    words += [word for name, value in {**lists, **small}.items() for word in (f"--{name}", value)]
    run_copy(followed, PROBE, *words, "--output_dir", tmp_path / "probe")
    (file,) = (tmp_path / "probe").glob("probe-centroid-*.json")
    kept = tmp_path / "probe" / "features"
    bank, queries = (np.load(next(kept.glob(f"*-{part}-*/features.npy"))) for part in ("train", "test"))
    scores = nearest_mean(queries, bank, [0, 1, 2, 0, 1, 2], 27)
    assert json.loads(file.read_text())["value"] == pytest.approx(100 * np.mean(np.argmax(scores, 1) == [0, 1, 2]))
