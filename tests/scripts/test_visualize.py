"""scripts/visualize.py on small checkpoints of every kind: what it draws, what it says, and that labels are right."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from videos import read_number, write_video

from datasets.masks.masks import MaskConfig
from models import create_model
from models.sinkhorn import sinkhorn_codes
from scripts.visualization import pictures, sheets
from scripts.visualization.clips import Sampling, clip_numbers, find_videos, read_clips
from scripts.visualization.gallery import BALANCED, NEAREST, collect
from scripts.visualization.overlays import clusters_of, show_colours, show_heat, show_labels, show_visible
from scripts.visualization.prototype_sheets import TILE, cut, nearest_tubelets, prototype_sheet
from scripts.visualization.subject import Subject
from scripts.visualize import main

SMALL = {"num_frames": 4, "img_size": 32}
PRETRAINED = {"decoder_depth": 1, "num_prototypes": 6, "projection_dims": (16,), "decoder_num_classes": 8}
ARGS = {"num_frames": 4, "input_size": 32, "sampling_rate": 2, "mask_ratio": 0.75}


def make(target, **options):
    torch.manual_seed(0)
    return create_model("pretrain_videomae_mini_patch8_32", num_frames=4, target_type=target, **options).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Checkpoints, a folder of two videos, one longer than the other, and a broken one."""
    folder = tmp_path_factory.mktemp("visualize")
    (folder / "videos").mkdir()
    sigma = make("mlp", **PRETRAINED)
    models = {
        "sigma": (sigma, {"target_type": "mlp"}),
        "dino": (make("dino_v1", **PRETRAINED | {"decoder_num_classes": 384}), {"target_type": "dino_v1"}),
        "videomae": (make("pixel", decoder_depth=1), {"target_type": "pixel"}),
        "tuned": (create_model("vit_mini_patch8_32", num_frames=4, num_classes=3), {"data_set": "SSV2"}),
        "encoder": (sigma.encoder, {}),
    }
    for name, (model, args) in models.items():
        torch.save({"model": model.state_dict(), "args": ARGS | args}, folder / f"{name}.pth")
    write_video(folder / "videos" / "long.mp4", 40, width=64, height=64)
    write_video(folder / "videos" / "short.mp4", 5, first=700, width=64, height=64)
    (folder / "videos" / "broken.mp4").write_bytes(b"not a video")
    return folder


def run(capsys, checkpoint, videos, output, *options):
    """What the command prints, and the files it writes."""
    try:
        main([str(checkpoint), str(videos), "--output_dir", str(output), *map(str, options)])
        code = 0
    except SystemExit as stop:
        code = stop.code
    written = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    said = capsys.readouterr()
    return SimpleNamespace(code=code, out=said.out, err=said.err, files=written)


def named(kinds, videos):
    return {f"{video}/{kind}.{end}" for video in videos for kind in kinds for end in ("png", "mp4")}


def test_sigma(files, tmp_path, capsys):
    kinds = ("clusters", "prototypes")
    options = ("--num_prototypes", 2, "--nearest", 7, "--pictures", *kinds, "histogram")
    done = run(capsys, files / "sigma.pth", files / "videos", tmp_path / "out", *options)
    assert done.code == 0, done.err
    sheets_of_two = [name for name in done.files if name.startswith("prototypes/")]
    assert len(sheets_of_two) == 2
    assert set(done.files) - set(sheets_of_two) == named(kinds, ("long", "short")) | {"prototypes.png", "histogram.png"}
    assert "left out: " in done.out and "broken.mp4" in done.out
    with av.open(str(tmp_path / "out" / "long" / "clusters.mp4")) as film:
        frames = list(film.decode(video=0))
    assert len(frames) == 4 and frames[0].format.name == "yuv420p"
    for name in (name for name in done.files if name.endswith(".png")):
        assert min(Image.open(tmp_path / "out" / name).size) > 150, name


@pytest.mark.parametrize(
    ("name", "kinds", "missing"),
    [
        ("dino", ("masks", "prototypes"), []),
        ("videomae", ("masks",), ["prototypes", "histogram"]),
        ("tuned", ("attention",), ["masks", "prototypes", "histogram"]),
        ("encoder", ("components",), ["masks", "prototypes", "histogram"]),
    ],
)
def test_what_a_checkpoint_cannot_show_is_said(files, tmp_path, capsys, name, kinds, missing):
    video = files / "videos" / "long.mp4"
    done = run(capsys, files / f"{name}.pth", video, tmp_path / "out", "--pictures", *kinds, *missing)
    assert done.code == 0, done.err
    assert named(kinds, ["long"]) <= set(done.files)
    lines = [line for line in done.out.splitlines() if line.startswith("no ")]
    assert [line.split(":")[0] for line in lines] == [f"no {kind}" for kind in missing]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--clusters", "12"], "--clusters 12"),
        (["--clips", "-1"], "--clips -1"),
        (["--prototypes", "6"], "--prototypes 6: "),
        (["--videos"], "nothing"),
    ],
)
def test_bad_values(files, tmp_path, capsys, changes, message):
    (tmp_path / "nothing").mkdir()
    videos = tmp_path / "nothing" if "--videos" in changes else files / "videos"
    changes = [word for word in changes if word != "--videos"]
    done = run(capsys, files / "sigma.pth", videos, tmp_path / "out", *changes)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1
    assert not done.files


def test_none_of_the_videos_can_be_decoded(files, tmp_path, capsys):
    done = run(capsys, files / "sigma.pth", files / "videos" / "broken.mp4", tmp_path / "out")
    assert done.code == 2 and "broken.mp4" in done.err


# ------------------------------------------------------------------------------------------------- clips


def test_clips_follow_one_another_around_the_middle():
    assert clip_numbers(100, 4, 2, 1).tolist() == [[46, 48, 50, 52]]
    assert clip_numbers(20, 4, 2, 2).tolist() == [[2, 4, 6, 8], [10, 12, 14, 16]]
    assert clip_numbers(20, 4, 2, 0).tolist() == clip_numbers(20, 4, 2, 9).tolist()
    assert clip_numbers(5, 4, 2, 3).tolist() == [[0, 2, 2, 2]]


def test_frames_and_their_times(files):
    clips = read_clips(str(files / "videos" / "long.mp4"), None, Sampling(4, 64, 2, None, 2))
    numbers = [[read_number(frame) for frame in clip] for clip in clips.frames]
    assert numbers == clips.numbers.tolist()
    assert clips.when(1, 0) == f"{numbers[1][0] / 30:.2f} s"
    spread = read_clips(str(files / "videos" / "long.mp4"), None, Sampling(4, 64, None, None, 1))
    assert np.diff(spread.numbers[0]).tolist() == [10, 10, 10]


def test_videos_of_a_list_have_its_spans(files, tmp_path):
    lines = '{"path": "long.mp4", "start": 0.5, "end": 1.0}\n{"path": "short.mp4"}\n'
    (tmp_path / "list.jsonl").write_text(lines)
    found = find_videos(str(tmp_path / "list.jsonl"), root=str(files / "videos"))
    assert [span for _, span in found] == [(0.5, 1.0), None]
    clips = read_clips(*found[0], Sampling(4, 64, 2, None, 1))
    assert clips.numbers.min() >= 15 and clips.numbers.max() < 30


def test_frames_a_second_are_kept_apart_by_the_videos_rate(files):
    """7.5 of 30 frames a second: every 4th."""
    clips = read_clips(str(files / "videos" / "long.mp4"), None, Sampling(4, 64, None, 7.5, 1))
    assert np.diff([read_number(frame) for frame in clips.frames[0]]).tolist() == [4, 4, 4]
    assert (clips.stride, clips.rate) == (4, 7.5)


@pytest.mark.parametrize(
    ("frames", "tubelet", "columns"),
    [
        (16, 2, [0, 2, 4, 6, 8, 10, 12, 14]),
        (32, 2, [0, 4, 8, 12, 16, 20, 24, 28]),
        (6, 2, [0, 2, 4]),
        (3, 1, [0, 1, 2]),
    ],
)
def test_columns_of_a_sheet_are_first_frames_of_tubelets(frames, tubelet, columns):
    assert pictures.columns_of(frames, tubelet) == columns


# ------------------------------------------------------------------------------------------------- prototypes


@pytest.fixture(scope="module")
def gallery(files):
    model = make("mlp", **PRETRAINED)
    model.prototypes.data[0] += 4 * model.prototypes.data[1:].mean(0)
    masks = MaskConfig(mask_ratio=0.75)
    subject = Subject(model, "a model", masks, clusters=3, seed=0, device=torch.device("cpu"))
    paths = [str(files / "videos" / name) for name in ("long.mp4", "short.mp4")]
    videos = [read_clips(path, None, Sampling(4, 32, 2, None, 2)) for path in paths]
    return subject, videos, collect(subject, videos, num_nearest=5)


@torch.inference_mode()
def test_tubelets_are_assigned_as_sinkhorn_balances_them_all(gallery):
    subject, videos, found = gallery
    embedded = torch.cat([subject.embeddings(clips).flatten(0, 1) for clips in videos])
    unit = torch.nn.functional.normalize
    scores = unit(embedded, dim=-1) @ unit(subject.prototypes, dim=-1).T
    objective = subject.model.objective
    codes = sinkhorn_codes(scores, epsilon=objective.epsilon, num_iters=objective.num_iters)
    assert found.how == BALANCED and len(scores) == 3 * 32
    assert np.concatenate([part.ravel() for part in found.assigned]).tolist() == codes.tolist()
    assert found.counts[BALANCED].tolist() == codes.bincount(minlength=6).tolist()
    assert found.counts[NEAREST].tolist() == scores.argmax(1).bincount(minlength=6).tolist()
    assert torch.equal(found.nearest.similarity, scores.topk(5, dim=0).values.T)
    assert torch.equal(scores.T.gather(1, found.nearest.token), found.nearest.similarity)  # some tubelets are equal
    assert found.most_used(2) == sorted(range(6), key=lambda k: (-codes.tolist().count(k), -k))[:2]


def test_a_tubelet_is_shown_where_it_comes_from(gallery):
    subject, videos, found = gallery
    assert found.locate(70, (2, 4, 4)) == (1, 0, 0, 1, 2)  # of the third clip, the first of the second video
    for (tile, caption), token in zip(
        nearest_tubelets(found, subject, 2), found.nearest.token[2].tolist(), strict=True
    ):
        video, clip, slot, row, column = found.locate(token, (2, 4, 4))
        assert caption.startswith(f"{videos[video].name}\n{videos[video].when(clip, 2 * slot)}, ")
        frame = videos[video].frames[clip, 2 * slot].permute(1, 2, 0).numpy()
        inside = tile[TILE // 2 - 8 : TILE // 2 + 8, TILE // 2 - 8 : TILE // 2 + 8].mean()
        assert abs(inside - frame[8 * row : 8 * row + 8, 8 * column : 8 * column + 8][2:6, 2:6].mean()) < 12


def test_the_legend_of_prototypes_says_which_colour_is_whose(gallery):
    """The first colour is that of the prototype that the video has most; each is seen where its tubelets are."""
    subject, _, found = gallery
    seen = {}

    def keep(text, rows, frames, **_):
        seen.update(text=text, rows=rows, frames=frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "finish", keep)
        pictures.show_prototypes(found, subject, 0)
    assigned = found.assigned[0]
    counts = np.bincount(assigned.ravel(), minlength=6)
    shown = [int(name.split()[1].rstrip(":")) for _, name in seen["text"].legend]
    assert shown == sorted(np.flatnonzero(counts), key=lambda k: (-counts[k], -k))
    side = pictures.SIDE // 4
    for colour, name in seen["text"].legend:
        prototype = int(name.split()[1].rstrip(":"))
        assert name.endswith(f": {100 * counts[prototype] / counts.sum():.1f} %")
        clip, slot, row, column = np.argwhere(assigned == prototype)[0]
        place = 4 * clip + 2 * slot, row * side + side // 2, column * side + side // 2
        expected = 0.45 * seen["frames"][place].astype(float) + 0.55 * np.array(colour)
        assert np.abs(seen["rows"]["prototypes"][place] - expected).max() <= 1


def test_the_rank_of_a_prototype_counts_those_with_more_tubelets(gallery, monkeypatch):
    subject, _, found = gallery
    monkeypatch.setattr("scripts.visualization.prototype_sheets.tiles", lambda text, *_, **__: text)
    counts = found.counts[BALANCED].tolist()
    for prototype in range(6):
        rank = sorted(counts, reverse=True).index(counts[prototype]) + 1
        assert f" %: rank {rank} of 6. " in prototype_sheet(found, subject, prototype).notes[0]


def test_too_few_tubelets_to_balance(gallery, monkeypatch):
    subject, videos, _ = gallery
    monkeypatch.setattr("scripts.visualization.gallery.ENOUGH", 1000)
    found = collect(subject, videos[:1], num_nearest=3)
    assert found.how == NEAREST and list(found.counts) == [NEAREST] and "too few" in found.describe()


def test_predictions_cover_every_token():
    """Without targets the decoder predicts each token, under a mask that hides it."""
    model = make("dino_v1", **PRETRAINED | {"decoder_num_classes": 384})
    subject = Subject(model, "a model", MaskConfig(mask_ratio=0.5), clusters=3, seed=0, device=torch.device("cpu"))
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        found = subject._predict_all(model, clip)
    assert (found.abs().sum(-1) > 0).all()


# ------------------------------------------------------------------------------------------------- drawing


def test_clusters_find_what_is_there_the_largest_first():
    rng = np.random.default_rng(0)
    truth = np.zeros((2, 4, 4), int)
    truth[:, :2, :2], truth[1, 3] = 1, 2
    tokens = rng.normal(size=(3, 20))[truth] * 5 + rng.normal(size=(2, 4, 4, 20)) * 0.1
    found = clusters_of(tokens.astype(np.float32), 3, seed=0)
    assert adjusted_rand_score(truth.ravel(), found.ravel()) == 1
    assert (np.diff(np.bincount(found.ravel())) <= 0).all()
    with pytest.raises(ValueError, match="--clusters 40"):
        clusters_of(tokens, 40, seed=0)


def test_colours_lie_where_the_tubelets_are():
    frames = np.full((4, 8, 8, 3), 100, np.uint8)
    labels = np.array([[[-1, 0], [1, 0]], [[0, 0], [0, -1]]])
    shown = show_labels(frames, labels)
    changed = (shown != frames).any(-1)
    expected = (labels >= 0).repeat(2, 0).repeat(4, 1).repeat(4, 2)
    assert np.array_equal(changed, expected)
    assert not np.array_equal(shown[0, 4, 0], shown[0, 0, 4])
    visible = show_visible(frames, labels < 0)
    assert np.array_equal((visible != frames).any(-1), ~expected)


def test_components_and_attention_are_seen_where_they_are():
    """Colours are red, green and blue; the higher a value, the brighter."""
    colours = np.zeros((1, 1, 2, 3))
    colours[0, 0, 0], colours[0, 0, 1] = (1, 0.2, 0), (0, 0.6, 1)
    shown = show_colours(colours, 4, 2)
    assert shown.shape == (2, 4, 4, 3) and shown[1, 0, 0].tolist() == [255, 51, 0]
    assert shown[0, 3, 3].tolist() == [0, 153, 255]
    heat = show_heat(np.full((2, 8, 8, 3), 100, np.uint8), np.array([[[2.0, 3.0], [2.0, 3.0]]]), low=2, high=3)
    assert heat[:, :, 0].tolist() == [[[40, 40, 42]] * 8] * 2  # 0.4 of grey and 0.6 of (0, 0, 4)
    assert heat[:, :, 7].tolist() == [[[191, 193, 138]] * 8] * 2  # and of (252, 255, 164)


def test_attention_is_told_in_multiples_of_an_even_share(files):
    """As the mean over all tokens is one, the range of the legend holds it."""
    model = create_model("vit_mini_patch8_32", num_frames=4, num_classes=3).eval()
    subject = Subject(model, "a model", MaskConfig(), clusters=3, seed=0, device=torch.device("cpu"))
    clips = read_clips(str(files / "videos" / "long.mp4"), None, Sampling(4, 32, 2, None, 1))
    text, _ = pictures.show_attention(subject, clips, np.zeros((4, 32, 32, 3), np.uint8))
    low, *_, high = (float(name) for _, name in text.legend)
    assert 0 < low <= 1 <= high


def test_the_tubelet_is_in_the_middle_of_its_picture():
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[8:16, 24:32] = (10, 200, 30)
    tile = cut(frame, 8, 24, height=8, width=8)
    assert tile.shape == (TILE, TILE, 3)
    assert np.abs(tile[TILE // 2, TILE // 2].astype(int) - (10, 200, 30)).max() < 3
    assert tile[TILE // 2, TILE - 5].tolist() == [223, 223, 223]  # beyond the border of the frame


def test_text_stays_inside_and_pictures_keep_their_pixels():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (40, 60, 3), dtype=np.uint8) for _ in range(3)]
    text = sheets.Text(
        "a title " * 12, ["a_name_without_a_blank_" * 30], [((1, 2, 3), f"number {n}") for n in range(9)]
    )
    page = sheets.sheet(text, {"first row": pictures, "second": pictures[::-1]}, ["a", "b", "c"])
    edge = np.concatenate([page[:, :4].ravel(), page[:, -4:].ravel(), page[:4].ravel(), page[-4:].ravel()])
    assert (edge == 255).all()
    left = sheets.MARGIN + sheets.NAMES
    for column, picture in enumerate(pictures):
        start = left + column * (60 + sheets.GAP)
        column_of_page = page[:, start : start + 60]
        starts = np.flatnonzero((column_of_page[:, 0] == picture[0, 0]).all(-1))
        rows = [top for top in starts if np.array_equal(column_of_page[top : top + 40], picture)]
        assert len(rows) == (2 if column == 1 else 1)  # reversed, the middle one stays
    panels = {"one": np.stack(pictures), "another with a long name": np.stack(pictures[::-1])}
    film = sheets.film(text, panels, ["0 s", "1 s", "2 s"])
    assert film.shape[0] == 3 and film.shape[1] % 2 == film.shape[2] % 2 == 0
    assert (film[0] != film[1]).any(-1).any(1).sum() > 40
