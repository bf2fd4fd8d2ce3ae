"""scripts/app.py: what the page is made of, what is refused, and the page itself in a browser."""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT, free_port
from videos import write_video

import sigma_video
from engine.errors import CheckpointError, ConfigError
from models import create_model
from scripts import app, visualize
from scripts.webapp.answers import MB, Limits, load_answers

LIMITS = Limits(megabytes=1, seconds=2)
NAMES = ["walk", "run", "jump", "wave", "bend", "<b>skip</b>"]
ARGS = {"num_frames": 4, "input_size": 32, "sampling_rate": 2, "mask_ratio": 0.75, "test_num_segment": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A classifier, pre-trained models of both kinds, and videos: fine, too long, too large, broken; a picture."""
    folder = tmp_path_factory.mktemp("app")
    torch.manual_seed(0)
    small = {"num_frames": 4, "encoder_depth": 1, "decoder_depth": 1}
    models = {
        "tuned": create_model("vit_mini_patch8_32", num_frames=4, depth=1, num_classes=6, init_scale=1.0),
        "videomae": create_model("pretrain_videomae_mini_patch8_32", target_type="pixel", loss_func="L2", **small),
        "sigma": create_model("pretrain_videomae_mini_patch8_32", num_prototypes=6, projection_dims=(16,), **small),
    }
    facts = {"tuned": {"class_names": NAMES}, "videomae": {}, "sigma": {}}
    targets = {"tuned": {"data_set": "SSV2"}, "videomae": {"target_type": "pixel"}, "sigma": {"target_type": "mlp"}}
    for name, model in models.items():
        torch.save({"model": model.state_dict(), "args": ARGS | targets[name], **facts[name]}, folder / f"{name}.pth")
    write_video(folder / "fine.mp4", 40, width=64, height=64)
    write_video(folder / "other.mp4", 44, width=96, height=48)
    write_video(folder / "long.mp4", 75, width=64, height=64)
    (folder / "large.mp4").write_bytes(b"0" * (MB + 1))
    (folder / "broken.mp4").write_bytes(b"not a video")
    Image.new("RGB", (32, 32)).save(folder / "picture.png")
    return folder


def shown(answers, video, folder):
    folder.mkdir(exist_ok=True)
    return {picture.kind: picture for picture in answers.pictures(video, folder)}


def test_classes_are_those_of_the_prediction(files):
    answers = load_answers(str(files / "tuned.pth"), LIMITS, device="cpu")
    found = answers.classes(files / "fine.mp4")
    scores = sigma_video.load(files / "tuned.pth", device="cpu").predict(files / "fine.mp4").scores
    assert list(found) == [NAMES[label] for label in np.argsort(-scores)[:5]]
    assert list(found.values()) == sorted(scores.tolist(), reverse=True)[:5]
    assert answers.kinds == ("clusters", "components", "attention")
    assert [line.split(":")[0] for line in answers.left_out] == ["masks", "prototypes"]


@pytest.mark.parametrize(
    ("name", "kinds", "left_out"),
    [
        ("videomae", ("masks", "clusters", "components", "attention"), ["classes", "prototypes"]),
        pytest.param(
            "sigma",
            ("masks", "prototypes", "clusters", "components", "attention"),
            ["classes"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pictures_are_those_of_the_command(files, tmp_path, name, kinds, left_out):
    answers = load_answers(str(files / f"{name}.pth"), LIMITS, device="cpu")
    assert (answers.kinds, answers.classifier) == (kinds, None)
    assert [line.split(":")[0] for line in answers.left_out] == left_out
    found = shown(answers, files / "fine.mp4", tmp_path / "page")
    assert tuple(found) == kinds
    compared = ("masks",) if name == "videomae" else ("prototypes",)
    video, output = str(files / "fine.mp4"), tmp_path / "command"
    with contextlib.redirect_stdout(io.StringIO()):
        visualize.main([str(files / f"{name}.pth"), video, "--output_dir", str(output), "--pictures", *compared])
    for kind in compared:
        for file in (found[kind].sheet, found[kind].film):
            assert file.read_bytes() == (output / "fine" / file.name).read_bytes()


def test_labels_without_names_are_numbers_and_the_page_says_so(files, tmp_path):
    content = torch.load(files / "tuned.pth")
    del content["class_names"]
    torch.save(content, tmp_path / "unnamed.pth")
    answers = load_answers(str(tmp_path / "unnamed.pth"), LIMITS, device="cpu")
    assert re.fullmatch("class [0-5]", next(iter(answers.classes(files / "fine.mp4"))))
    assert any(line.startswith("names of the classes: ") for line in answers.left_out)


def test_videos_that_are_refused(files):
    answers = load_answers(str(files / "videomae.pth"), LIMITS, device="cpu")
    answers.check(files / "fine.mp4")
    messages = {
        "long": r"is 2\.5 s long, this page takes at most 1 MB and 2 s",
        "large": r"has 1\.0 MB, this page",
        "broken": "broken.mp4: ",
        "picture": "give a video",
    }
    for name, message in messages.items():
        file = next(files.glob(f"{name}.*"))
        with pytest.raises((ConfigError, RuntimeError), match=message):
            answers.check(file)
    with pytest.raises(CheckpointError, match=r"broken\.mp4"):
        load_answers(str(files / "broken.mp4"), LIMITS, device="cpu")


def test_places_that_nothing_can_listen_on():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: .* give another --port"):
            app.listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="--port 65536: from 1 to 65535"):
        app.listen("127.0.0.1", 65536)
    with pytest.raises(ConfigError, match=r"--host 192\.0\.2\.1 "):
        app.listen("192.0.2.1", free_port())


def test_a_missing_package(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "scripts.webapp.page", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        app.main([str(files / "tuned.pth")])
    signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    assert "the package gradio: install the extra `app`" in said


# ------------------------------------------------------------------------------------------------- in a browser

LOADED = """() => {
    const shown = [...document.querySelectorAll('video, .sheet img')].filter(part => part.offsetParent && part.src)
    return shown.length && shown.every(part => part.naturalWidth || part.videoWidth)
        ? shown.map(part => part.closest('#clusters, #components, #attention').id) : false
}"""
COLOURS = """() => {
    const colour = name => getComputedStyle(document.querySelector(name))
    return [colour('gradio-app').backgroundColor, colour('#state p').color]
}"""
# Everything that the line beside the video says, in order: some of it stands there for a moment only. And how much of
# the camera has been recorded.
LISTEN = """() => {
    const line = () => document.querySelector('#state p')?.innerText
    window.said = [line()]
    new MutationObserver(() => {
        if (line() && line() != said.at(-1)) said.push(line())
    }).observe(document.body, {childList: true, characterData: true, subtree: true})
    const start = MediaRecorder.prototype.start
    window.recorded = 0
    MediaRecorder.prototype.start = function(...options) {
        this.addEventListener('dataavailable', event => recorded += event.data.size)
        start.apply(this, options)
    }
}"""
WIDE = "[...document.querySelectorAll('body *')].filter(part => part.getBoundingClientRect().right > innerWidth + 1)"


@contextlib.contextmanager
def running(checkpoint, folder, *options):
    """The command, and the address of its page; its files are below `folder`."""
    port = free_port()
    words = [sys.executable, "-u", str(ROOT / "scripts" / "app.py"), str(checkpoint), "--port", str(port), *options]
    where = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(words, env=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "Ctrl-C ends it" in process.stdout.readline(), process.communicate()[1]
        yield process, f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("gradio", reason="Gradio is not installed (the extra `app`)")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if program is None:
        pytest.skip("no Chromium")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with driver.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *camera])
        yield started
        started.close()


def visit(browser, address, requests, scheme="light"):
    page = browser.new_context(color_scheme=scheme, permissions=["camera", "microphone"]).new_page()
    page.set_default_timeout(180_000)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_selector("input[type=file]", state="attached")
    page.wait_for_selector("#state p")
    page.evaluate(LISTEN)
    return page


def give(page, video):
    """Upload a video; returns how much the page has said before."""
    page.wait_for_selector("input[type=file]", state="attached")
    before = page.evaluate("said.length")
    page.set_input_files("input[type=file]", str(video))
    return before


def answer(page, before):
    """What the page says in the end."""
    page.wait_for_function("before => said.length > before && /^(Done|Not shown)/.test(said.at(-1))", arg=before)
    return page.evaluate("said.at(-1)")


def look_at(page, video):
    """What the page says of a video in the end."""
    return answer(page, give(page, video))


def says_classes(page, expected):
    """Whether the page names the classes of `Answers.classes`, in their order, with their shares."""
    said = page.inner_text("#classes")
    places = [said.index(name) for name in expected]
    return places == sorted(places) and re.findall(r"\d+%", said) == [f"{100 * p:.0f}%" for p in expected.values()]


def contrast(one, other):
    """Of two CSS colours, as of WCAG 2.1."""

    def luminance(colour):
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        return float(
            np.dot((0.2126, 0.7152, 0.0722), np.where(parts > 0.04, ((parts + 0.055) / 1.055) ** 2.4, parts / 12.92))
        )

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def uploads(folder):
    """Videos that visitors gave, and what was made of them on the way."""
    drawn = {"clusters", "components", "attention"}  # which Gradio keeps for a while
    kept = [
        file for file in folder.rglob("*") if file.is_file() and not ("gradio" in file.parts and file.stem in drawn)
    ]
    return [file for file in kept if "sigma-app-" in str(file) and file.suffix in (".mp4", ".webm", ".png")]


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_classifier(files, tmp_path, browser, scheme):
    requests = []
    with running(files / "tuned.pth", tmp_path, "--max_mb", "1", "--max_seconds", "2") as (process, address):
        page = visit(browser, address, requests, scheme)
        assert look_at(page, files / "fine.mp4").startswith("Done: the video was deleted.")
        assert says_classes(
            page, load_answers(str(files / "tuned.pth"), LIMITS, device="cpu").classes(files / "fine.mp4")
        )
        for kind in ("clusters", "components", "attention"):  # pictures below the window are loaded when they come near
            page.locator(f"#{kind}").scroll_into_view_if_needed()
        found = page.wait_for_function(LOADED).json_value()
        assert sorted(found) == sorted(2 * ["clusters", "components", "attention"])
        assert "masks: it has no decoder" in page.inner_text("#left_out")
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        outside = page.evaluate(f"{WIDE}.filter(part => !part.closest('.sheet')).map(part => part.outerHTML)")
        assert not outside  # but for the sheets, which are moved sideways
        background, text = page.evaluate(COLOURS)
        assert contrast(background, text) > 7
        assert (contrast(background, "0 0 0") > 10) == (scheme == "light")
        assert not uploads(tmp_path)
        assert "2.5 s long" in look_at(page, files / "long.mp4")
        assert not page.locator("#classes").is_visible() and not page.locator("#clusters").is_visible()
        assert "broken.mp4" not in look_at(page, files / "broken.mp4")
        assert not uploads(tmp_path)
        give(page, files / "large.mp4")
        page.wait_for_selector("text=/exceed the maximum allowed size/i")
        remains = "getComputedStyle(document.querySelector('#video .error'), '::after').content"
        assert "takes at most 1 MB and 2 s" in page.evaluate(remains)
        assert not uploads(tmp_path)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == "stopped; its files are deleted\n"
    assert not list(tmp_path.glob("sigma-app-*"))
    assert requests and all(url.startswith((address, "data:", "blob:")) for url in requests)


@pytest.mark.long
def test_visitors_at_the_same_time_and_a_recording(files, tmp_path, browser):
    """Each gets the answer to his own video, in turn, two of the same video as well; one more records his."""
    requests, names = [], ("fine", "fine", "other")
    answers = load_answers(str(files / "tuned.pth"), Limits(100, 60), device="cpu")
    with running(files / "tuned.pth", tmp_path) as (_, address):
        pages = [visit(browser, address, requests) for _ in names]
        idle, leaving = (visit(browser, address, requests) for _ in range(2))
        before = [give(page, files / f"{name}.mp4") for page, name in zip(pages, names, strict=True)]
        give(leaving, files / "other.mp4")
        leaving.wait_for_function("said.includes('Waiting: one video at a time ...')")
        leaving.context.close()
        for page, name, number in zip(pages, names, before, strict=True):
            assert answer(page, number).startswith("Done")
            assert page.evaluate("said[1]").startswith("Waiting")
            assert says_classes(page, answers.classes(files / f"{name}.mp4")), name
        assert idle.evaluate("said") == ["No video yet."] and not idle.locator("#classes, #clusters").first.is_visible()
        films = [page.locator("#clusters video").get_attribute("src") for page in pages]
        assert films[0] != films[2]
        page = pages[0]
        before = page.evaluate("said.length")
        page.locator("[data-testid=source-select] button").last.click()
        page.get_by_text("Click to Access Webcam").click()
        record = page.get_by_label("start recording")
        record.click()
        page.wait_for_function("recorded > 20000")  # bytes; on a busy machine the camera starts late
        record.click()
        assert answer(page, before).startswith("Done")
        deadline = time.monotonic() + 60
        while uploads(tmp_path) and time.monotonic() < deadline:  # of him who left
            time.sleep(0.5)
        assert not uploads(tmp_path)


@pytest.mark.long
def test_commands_that_end_at_once(files, capsys):
    pytest.importorskip("gradio", reason="Gradio is not installed (the extra `app`)")
    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        for words in ([files / "tuned.pth", "--port", port], [files / "broken.mp4", "--port", str(free_port())]):
            with pytest.raises(SystemExit) as stop:
                app.main([str(word) for word in words])
            assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    signal.signal(signal.SIGTERM, before)
