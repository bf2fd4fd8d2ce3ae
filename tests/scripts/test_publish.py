"""scripts/publish.py: the folder, its card with the results of these weights alone, licences, and the upload."""

import base64
import http.server
import json
import threading

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session
from processes import ROOT

import hubconf
import sigma_video
from engine.checkpointing.read_weights import read_weights
from engine.errors import ConfigError
from engine.results import hash_of
from inference.load import load
from models import create_model
from models.weights.load import native_state, weights_hash
from models.weights.rebuild import rebuild
from scripts import publish
from scripts.zoo_rows import read_zoo

NAMES = ["walk", "run", "jump"]
CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(32) % 8 > 1).expand(2, -1)
ARGS = {
    "model": "vit_mini_patch8_32",
    "num_frames": 4,
    "input_size": 32,
    "data_set": "SSV2",
    "epochs": 7,
    "short_side_size": 32,
    "output_dir": "/home/someone/output",
    "finetune": "/home/someone/weights.pth",
    "class_weights": "/home/someone/class_weights.txt",
}


def checkpoint(folder, kind="classifier", **content):
    """A tiny model of random weights, and its file."""
    torch.manual_seed(5)
    if kind == "classifier":
        model = create_model("vit_mini_patch8_32", num_frames=4, depth=1, num_classes=3, init_scale=1.0)
    else:
        options = {"target_type": "pixel", "loss_func": "L2"} if kind == "videomae" else {"num_prototypes": 5}
        options |= {"decoder_depth": 1, "encoder_depth": 1, "projection_dims": [16]}
        model = create_model("pretrain_videomae_mini_patch8_32", num_frames=4, **options)
    folder.mkdir(exist_ok=True)
    names = NAMES if kind == "classifier" else []
    facts = {"args": ARGS, "class_names": names, "licence": "cc-by-nc-4.0", **content}
    torch.save({"model": model.state_dict(), **facts}, folder / "checkpoint-6.pth")
    return model.eval(), folder / "checkpoint-6.pth"


def result(folder, weights, **numbers):
    """What a test leaves."""
    folder.mkdir(parents=True)
    tested = {"": {"file": str(weights), "key": "model", "sha256": hash_of(weights)}}
    settings = {"test_num_segment": 2, "test_num_crop": 3, "task": "classification"}
    rest = {"weights": tested, "list": {"file": "x", "fingerprint": "0123456789ab"}, "settings": settings}
    (folder / "test.json").write_text(json.dumps({"videos": 24777, **numbers, **rest}))
    (folder / "run.json").write_text(json.dumps([{"args": {"data_set": "SSV2"}, "commit": "c0ffee"}]))


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        publish.main(list(map(str, words)))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A classifier, and the folder that it was published into, with results of it and of other weights."""
    folder = tmp_path_factory.mktemp("published")
    model, file = checkpoint(folder / "run")
    _, other = checkpoint(folder / "other", epoch=1)
    result(folder / "results" / "a", file, **{"test/top1": 70.9, "test/top5": 92.5, "test/loss": 1.2})
    result(folder / "results" / "b", other, **{"test/top1": 99.0})
    words = ["--results", folder / "results", "--base_model", "videomae-base-ssv2", "--name", "org/model"]
    publish.main(list(map(str, [folder / "run", folder / "out", *words])))
    return model, folder / "out"


def test_card(published):
    """Read by the hub's own parser. The run's folder stands for its newest checkpoint, whose hash the result has."""
    _, folder = published
    text = (folder / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.library_name) == ("cc-by-nc-4.0", "transformers")
    assert data.pipeline_tag == "video-classification"
    assert (data.base_model, data.datasets, data.model_name) == ("MCG-NJU/videomae-base-ssv2", ["ssv2"], "model")
    assert [(r.metric_type, r.metric_value, r.dataset_type) for r in data.eval_results] == [
        ("accuracy", 70.9, "ssv2"),
        ("top_5_accuracy", 92.5, "ssv2"),
    ]
    (said,) = [r.metric_name for r in data.eval_results if r.metric_type == "accuracy"]
    assert said == "top1, fine-tuned, 2x3 views, 24777 videos, list 0123456789ab, commit c0ffee"
    assert f"| SSV2, {said} | 70.9 |" in text and "99" not in text.partition("## Results")[2].partition("##")[0]
    assert "\n# model\n" in text and '"org/model"' in text and "THIS_FOLDER" not in text
    assert "| `--epochs` | 7 |" in text and "walk, run, jump" in text
    for file in folder.iterdir():
        assert b"/home/someone" not in file.read_bytes(), file


def test_our_own_reader_gives_equal_logits(published):
    model, folder = published
    loaded = load(folder)
    assert torch.equal(loaded.model(CLIP), model(CLIP))
    assert loaded.class_names == tuple(NAMES) and loaded.licence == "cc-by-nc-4.0"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sigma", "videomae"])
def test_a_pretraining_model_keeps_its_decoder(kind, tmp_path):
    model, file = checkpoint(tmp_path / "run", kind)
    digest = weights_hash(model.state_dict())  # a forward pass in training mode would change prototypes
    publish.main([str(file), str(tmp_path / "out"), "--datasets", "Kinetics-400"])
    whole = tmp_path / "out" / publish.WHOLE
    assert whole.is_file() == (kind == "sigma")
    place = whole if kind == "sigma" else tmp_path / "out"
    weights = read_weights(place)
    assert weights_hash(native_state(weights.tensors)) == digest
    again = rebuild(native_state(weights.tensors), {**weights.args, "num_frames": 4})
    assert torch.equal(again(CLIP, MASK)["predicted"], model(CLIP, MASK)["predicted"])
    encoder = load(tmp_path / "out")
    assert torch.equal(encoder.tokens(CLIP), model.encoder(CLIP))
    card = ModelCard((tmp_path / "out" / "README.md").read_text())
    assert card.data.pipeline_tag == "feature-extraction" and card.data.datasets == ["kinetics-400"]
    assert (publish.WHOLE in card.text) == (kind == "sigma") and card.data.eval_results is None


def test_licences():
    """Recorded in the checkpoint, of the base model, given: one, or none is published."""

    def chosen(recorded, given="", base=""):
        return publish.licence_of(recorded, given=given, base_model=base, zoo=read_zoo())

    assert chosen("") == chosen("unknown") == chosen("", base="SMSD75/SIGMA") == chosen("", base="a/b") == ""
    assert (
        chosen("mit") == chosen("", "mit") == chosen("", base="fmthoker/SMILE") == chosen("mit", "MIT License") == "mit"
    )
    assert chosen("", base="videomae-base") == chosen("cc-by-nc-4.0", "CC BY-NC 4.0") == "cc-by-nc-4.0"
    assert chosen("none stated", "apache-2.0") == "apache-2.0"
    for recorded, base in (("cc-by-nc-4.0", ""), ("", "videomae-base"), ("cc-by-nc-4.0", "MCG-NJU/videomae-base")):
        for other in ("apache-2.0", "cc-by-nc-sa-4.0", "cc-by-4.0"):
            with pytest.raises(ConfigError, match=rf"--licence {other}: these weights are under cc-by-nc-4\.0 \("):
                chosen(recorded, other, base)
    for given in ("", "mit", "cc-by-nc-4.0"):
        with pytest.raises(ConfigError, match=r"two licences: mit \(as the .* and cc-by-nc-4\.0 \(--base_model"):
            chosen("mit", given, "videomae-base")


def test_what_is_refused(tmp_path, capsys):
    """One line, exit code 2, and nothing written."""
    _, file = checkpoint(tmp_path / "run")
    _, other = checkpoint(tmp_path / "other", epoch=1)
    result(tmp_path / "results", other, **{"test/top1": 99.0})
    out = tmp_path / "out"
    assert "none of the 1 results" in refused(capsys, file, out, "--results", tmp_path / "results")
    assert "are under cc-by-nc-4.0" in refused(capsys, file, out, "--licence", "MIT")
    result(tmp_path / "results" / "diverged", file, **{"test/top1": float("nan")})
    assert "top1 is nan" in refused(capsys, file, out, "--results", tmp_path / "results")
    assert "Give --name" in refused(capsys, file, out, "--push")
    assert "ORG/NAME" in refused(capsys, file, out, "--name", "one/two/three")
    assert "--model_key" in refused(capsys, file, out, "--results", tmp_path / "results", "--model_key", "model_ema")
    for name in ("org/..", "org/a--b", "org/a.git", "org/" + "x" * 97, "org/.x", "alone"):
        assert f"--name {name}: a repository is ORG/NAME" in refused(capsys, file, out, "--name", name)
    for name in ("!!!", "../../etc", "", "\u00fcber"):
        assert f"--datasets {name!r}: " in refused(capsys, file, out, "--datasets", name)
    for name in ("/home/someone/run", "two words", "a/b/c"):
        assert f"--base_model {name}: neither" in refused(capsys, file, out, "--base_model", name)
    assert "Did you mean videomae-base" in refused(capsys, file, out, "--base_model", "videomae-bas")
    assert "already" in refused(capsys, file, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "other", "results"}


# ------------------------------------------------------------------------------------------------ the hub


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as a new repository needs; keeps the files of the commit."""

    files: dict[str, bytes] = {}  # noqa: RUF012  # of all requests, which are instances
    commits = True

    def do_GET(self):
        if self.path.startswith("/api/models/org/old"):
            self.answer(200, {"id": "org/old", "modelId": "org/old", "siblings": [], "tags": []})
        else:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        place = f"http://127.0.0.1:{self.server.server_port}/org/new"
        if self.path == "/api/repos/create":
            self.answer(200, {"url": place, "name": "org/new", "id": "1"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer(
                200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        elif "/commit/" in self.path and self.commits:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(200, {"success": True, "commitOid": "a" * 40, "commitUrl": f"{place}/commit/{'a' * 40}"})
        elif "/commit/" in self.path:
            self.answer(403, {"error": "You have no right to do that"})
        else:
            self.answer(200, {"errors": [], "warnings": []})

    def answer(self, code, content, headers=None):
        body = json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub here, and a token that is none."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    Hub.files.clear()
    close_session()  # it may have been opened under another test's proxies
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
        yield Hub
        httpd.shutdown()


@pytest.mark.slow
def test_pushed(hub, tmp_path, capsys, monkeypatch):
    _, file = checkpoint(tmp_path / "run")
    publish.main([str(file), str(tmp_path / "quiet")])
    assert not hub.files
    publish.main([str(file), str(tmp_path / "out"), "--name", "org/new", "--push"])
    assert capsys.readouterr().out.splitlines()[-1].endswith("/org/new")
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(hub, "commits", False)
    line = refused(capsys, file, tmp_path / "kept", "--name", "org/new", "--push")
    assert "is written" in line and f"hf upload org/new {tmp_path / 'kept'}" in line
    assert (tmp_path / "kept" / "model.safetensors").is_file()


def test_what_stands_in_the_way_of_a_push(hub, tmp_path, capsys, monkeypatch):
    """Said before anything is read or written."""
    words = [tmp_path / "absent.pth", tmp_path / "out", "--push", "--name"]
    assert "org/old: a repository of this name exists" in refused(capsys, *words, "org/old")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in refused(capsys, *words, "org/new")
    monkeypatch.delenv("HF_TOKEN")
    assert "no token" in refused(capsys, *words, "org/new")
    assert not hub.files


# ------------------------------------------------------------------------------------------------ other readers


@pytest.mark.slow
def test_the_package_and_torch_hub_give_equal_logits(published):
    model, folder = published
    for read in (sigma_video.load, sigma_video.from_pretrained, hubconf.from_pretrained):
        loaded = read(str(folder), device="cpu")
        assert torch.equal(loaded.loaded.model(CLIP), model(CLIP)) and loaded.class_names == tuple(NAMES)
    ours = torch.hub.load(str(ROOT), "from_pretrained", str(folder), source="local", device="cpu")
    assert torch.equal(ours.loaded.model(CLIP), model(CLIP))


@pytest.mark.slow
@torch.no_grad()
def test_transformers_gives_equal_logits(published):
    """By AutoModel, AutoVideoProcessor and pipeline; once its epsilon is that of the weights, as the card says."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model, folder = published
    auto = transformers.AutoModelForVideoClassification.from_pretrained(folder).eval()
    auto.fc_norm.eps = 1e-6
    torch.testing.assert_close(auto(CLIP.transpose(1, 2)).logits, model(CLIP), rtol=0, atol=1e-5)
    encoder = transformers.AutoModel.from_pretrained(folder).eval()
    pooled = encoder(CLIP.transpose(1, 2)).last_hidden_state.mean(1)
    torch.testing.assert_close(model.fc_norm(pooled), model.forward_features(CLIP), rtol=0, atol=1e-5)

    frames = np.random.default_rng(0).integers(
        0, 256, (4, 32, 32, 3), dtype=np.uint8
    )  # no resizing: its filter differs
    processor = transformers.AutoVideoProcessor.from_pretrained(folder)
    inputs = processor(frames, return_tensors="pt")["pixel_values"]
    clip = sigma_video.load(folder, device="cpu", sampling_rate=1)
    logits = model(inputs.transpose(1, 2))
    torch.testing.assert_close(auto(inputs).logits, logits, rtol=0, atol=1e-5)
    ours = clip.predict(frames, views=(1, 1))
    classify = transformers.pipeline("video-classification", model=str(folder))
    classify.model.fc_norm.eps = 1e-6
    theirs = {answer["label"]: answer["score"] for answer in classify(frames, top_k=3)}
    assert theirs == pytest.approx(ours.top(3), abs=1e-5)
    assert theirs == pytest.approx(dict(zip(NAMES, logits.softmax(1)[0].tolist(), strict=True)), abs=1e-5)
