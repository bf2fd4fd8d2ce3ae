"""Testing: every video once, softmax of each view, then the mean; the same on any number of ranks."""

import json

import numpy as np
import pytest
import torch
from processes import FINETUNE, gloo_world, run_script
from runs import load
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from datasets.classification import ViewDataset
from datasets.errors import DecodeError
from datasets.lists.read import read_list
from datasets.loading.batch import Batch
from datasets.loading.loaders import build_eval_loader
from datasets.transforms.normalization import normalize_clips
from datasets.transforms.presets import ViewTransform
from engine.distributed.ddp import autocast
from engine.distributed.world import World
from engine.evaluation import Evaluator, predict, predict_batch
from engine.tasks.classification import Classification
from engine.tasks.scores import top_k
from engine.tasks.task import VideoPredictions
from models import create_model

CLASSES = Classification()
HERE = World(0, 1, 0, torch.device("cpu"))
MODEL = {"img_size": 32, "num_frames": 4, "num_classes": 3, "depth": 1, "init_scale": 1.0}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Output folder of a run whose classes' probabilities differ from video to video."""
    folder = tmp_path_factory.mktemp("trained")
    finished = run_script(FINETUNE, *data.flags(FINETUNE, folder, epochs=1, warmup_epochs=0, init_scale=1, lr=0.05))
    assert finished.code == 0, finished.stderr
    return folder


def views_of(data, file="test.csv"):
    """The data set that the scripts' flags in conftest mean: 2 clips x 2 crops."""
    videos = read_list(data.folder / file, require_labels=True)
    transform = ViewTransform(32, 32, 2)
    return ViewDataset(videos, transform=transform, sampler="dense", num_frames=4, sampling_rate=4, num_clips=2)


def test_written_predictions_equal_video_by_video_ones(data, trained):
    model = create_model("vit_mini_patch8_32", img_size=32, num_frames=4, num_classes=3).eval()
    model.load_state_dict(load(trained / "checkpoint-0.pth")["model"])
    expected, labels = [], []
    dataset = views_of(data)
    for item in map(dataset.__getitem__, range(len(dataset))):
        with torch.no_grad():
            logits = torch.cat([model(normalize_clips(view[None])) for view in item["clip"]]).double().numpy()
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected.append((powers / powers.sum(axis=1, keepdims=True)).mean(axis=0))
        labels.append(item["label"])
    written = np.load(trained / "test_predictions.npz")
    np.testing.assert_allclose(written["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(written["labels"], labels)
    assert np.ptp(written["probabilities"], axis=0).max() > 1e-3
    result = json.loads((trained / "test.json").read_text())
    assert result["videos"] == 7 and result["views"] == 4
    assert result["test/top1"] == pytest.approx(100 * accuracy_score(labels, np.argmax(expected, axis=1)))


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks(size, data, trained, tmp_path):
    flags = data.flags(FINETUNE, tmp_path, eval=True, finetune=trained / "checkpoint-0.pth", init_scale=1)
    ranks = run_script(FINETUNE, *flags, size=size)
    assert [rank.code for rank in ranks] == [0] * size, ranks[-1].stderr
    ours, theirs = (np.load(folder / "test_predictions.npz") for folder in (tmp_path, trained))
    np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=1e-6)
    np.testing.assert_array_equal(ours["labels"], theirs["labels"])


def test_eval_takes_the_run_s_own_result(data, trained):
    """The command of the training, with --eval added."""
    before = json.loads((trained / "test.json").read_text())
    (trained / "test.json").unlink()
    flags = data.flags(FINETUNE, trained, eval=True, finetune="gone.pth", init_scale=1)
    finished = run_script(FINETUNE, *flags)
    assert finished.code == 0, finished.stderr
    after = json.loads((trained / "test.json").read_text())
    assert after.pop("weights")[""]["file"] == str(trained / "checkpoint-0.pth")
    assert before.pop("weights")[""]["file"] == str(trained / "checkpoint-0.pth")
    assert after == before


def predict_share(world, dataset, num_videos):
    torch.manual_seed(0)
    model = create_model("vit_mini_patch8_32", **MODEL)
    loader = build_eval_loader(dataset, batch_size=2, rank=world.rank, world_size=world.size)
    return predict(
        model,
        loader,
        world=world,
        num_videos=num_videos,
        autocast=autocast(world.device, "none"),
        clips_at_once=3,
        scores=CLASSES.scores,
    )


def test_maximum_over_views():
    """Each class by itself: the highest probability of any view."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    loader = [Batch(clip=logits, index=torch.arange(2), label=torch.zeros(2, 5, dtype=torch.int64), views=3)]
    options = {"world": HERE, "num_videos": 2, "autocast": autocast(HERE.device, "none"), "clips_at_once": 4}
    found = predict(torch.nn.Identity(), loader, scores=torch.sigmoid, pooling="max", **options)
    expected = torch.sigmoid(logits).reshape(2, 3, 5)
    np.testing.assert_array_equal(found.scores, expected.max(dim=1).values)
    np.testing.assert_array_equal(found.views, expected)
    mean = predict(torch.nn.Identity(), loader, scores=torch.sigmoid, **options)
    np.testing.assert_allclose(mean.scores, expected.mean(dim=1), rtol=1e-6)


def test_more_ranks_than_videos(data, tmp_path):
    lines = (data.folder / "test.csv").read_text().splitlines(keepends=True)
    (tmp_path / "two.csv").write_text("".join(lines[:2]))
    dataset = views_of(data, tmp_path / "two.csv")
    alone = predict_share(HERE, dataset, 2)
    predictions, *others = gloo_world(predict_share, dataset, 2, size=3)
    np.testing.assert_allclose(predictions.scores, alone.scores, atol=1e-6)
    assert predictions.num_views == alone.num_views == 4 and others == [None, None]


def predict_with_a_bad_video(world, dataset):
    try:
        return predict_share(world, dataset, 1)
    except DecodeError as error:
        return str(error)


def test_a_bad_video_of_one_rank_ends_all_with_its_name(data, tmp_path):
    """In evaluation no video is replaced. The other rank would else end with a lost connection."""
    (tmp_path / "bad.mp4").write_bytes(bytes(5000))
    (tmp_path / "test.csv").write_text(f"{data.videos[0]} 0\n{tmp_path / 'bad.mp4'} 1\n")
    dataset = views_of(data, tmp_path / "test.csv")
    first, second = gloo_world(predict_with_a_bad_video, dataset)
    assert first == second and str(tmp_path / "bad.mp4") in first


def test_probabilities_are_computed_in_float32():
    """Whatever the model computes in: in bf16 they would be right to three digits, and not sum to 1."""
    logits = torch.randn(12, 40, generator=torch.Generator().manual_seed(0)).bfloat16() * 3
    batch = Batch(clip=logits, index=torch.arange(4), label=torch.zeros(4, dtype=torch.int64), views=3)
    found = predict_batch(
        torch.nn.Identity(), batch, autocast=autocast(HERE.device, "bf16"), clips_at_once=5, scores=CLASSES.scores
    )
    expected = logits.double().softmax(dim=1).reshape(4, 3, 40)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-8)


def test_written_results_are_those_of_the_metrics(data, tmp_path):
    """`test.json` has each metric by its name: top-1, top-5 and mean per class are three numbers here."""
    labels = torch.tensor([0, 0, 0, 0, 1, 2])
    logits = torch.eye(7)[[0, 0, 0, 1, 1, 6]] + torch.tensor([[0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]])
    logits[5, 2] = -1  # its class comes last
    batches = [Batch(clip=logits, index=torch.arange(6), label=labels)]
    listed = tmp_path / "test.csv"
    listed.write_text("".join(f"{number}.mp4 {label}\n" for number, label in enumerate(labels.tolist())))
    evaluator = Evaluator(
        HERE,
        task=CLASSES,
        loaders={"test": batches},
        lists={"test": read_list(listed)},
        autocast=autocast(HERE.device, "none"),
        clips_at_once=4,
        in_step=False,
    )
    evaluator.test({"": torch.nn.Identity()}, output_dir=str(tmp_path), views_are="1 clip", origin=lambda: {"more": 1})
    result = json.loads((tmp_path / "test.json").read_text())
    assert result["test/top1"] == pytest.approx(100 * 4 / 6) and result["test/top5"] == pytest.approx(100 * 5 / 6)
    assert result["test/mean_per_class"] == pytest.approx(100 * (3 / 4 + 1 + 0) / 3)
    own = logits.double().log_softmax(dim=1)[torch.arange(6), labels]
    assert result["test/loss"] == pytest.approx(-own.mean().item(), rel=1e-5)
    assert (result["videos"], result["views"], result["views_are"], result["more"]) == (6, 1, "1 clip", 1)


def test_a_video_too_many_or_too_few_is_an_error(data):
    dataset = views_of(data)
    with pytest.raises(RuntimeError, match="7 predictions for 8 videos"):
        predict_share(HERE, dataset, 8)
    with pytest.raises(RuntimeError, match="7 predictions for 6 videos"):
        predict_share(HERE, dataset, 6)
    twice = torch.utils.data.ConcatDataset([dataset, dataset])
    with pytest.raises(RuntimeError, match="each must be predicted exactly once"):
        predict_share(HERE, twice, 14)


def test_the_mode_of_the_model_is_kept_and_no_gradients_are(data):
    torch.manual_seed(0)
    model = create_model("vit_mini_patch8_32", **MODEL, drop_path_rate=0.9, fc_drop_rate=0.9)
    loader = build_eval_loader(views_of(data), batch_size=4)
    options = {"world": HERE, "num_videos": 7, "clips_at_once": 16, "scores": CLASSES.scores}
    results = []
    for mode in (True, False):
        model.train(mode)
        results.append(predict(model, loader, autocast=autocast(HERE.device, "none"), **options).scores)
        assert model.training is mode
    np.testing.assert_array_equal(*results)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def uneven():
    """Predictions of 60 videos of six classes, the first much more frequent and much easier."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(40, int), np.repeat(np.arange(1, 6), 4)])
    scores = rng.random((60, 6)) + np.where(np.arange(6) == 0, 0.3, 0)
    scores[np.arange(60), labels] += 0.25
    return of_one_view((scores / scores.sum(1, keepdims=True)).astype(np.float32), labels)


def of_one_view(probabilities, labels):
    return VideoPredictions(probabilities, labels, probabilities[:, None])


def test_metrics_equal_scikit_learn(uneven):
    p, y = uneven.scores, uneven.targets
    for k in (1, 2, 5):
        assert top_k(p, y, k) == pytest.approx(100 * top_k_accuracy_score(y, p, k=k))
    metrics = CLASSES.metrics(uneven)
    assert metrics["mean_per_class"] == pytest.approx(100 * balanced_accuracy_score(y, p.argmax(1)))
    assert abs(metrics["mean_per_class"] - metrics["top1"]) > 10
    assert metrics["top1"] == top_k(p, y, 1) and metrics["top5"] == top_k(p, y, 5)
    assert metrics["loss"] == pytest.approx(-np.log(p[np.arange(60), y]).mean(), rel=1e-5)


def test_metrics_with_few_classes_and_absent_ones():
    metrics = CLASSES.metrics(of_one_view(np.array([[0.9, 0.1, 0], [0.6, 0.4, 0]], np.float32), np.array([0, 1])))
    assert metrics["top5"] == 100  # of three classes
    assert metrics["mean_per_class"] == 50  # class 2 does not occur
    certain_and_wrong = of_one_view(np.array([[1, 0]], np.float32), np.array([1]))
    assert np.isfinite(CLASSES.metrics(certain_and_wrong)["loss"])
