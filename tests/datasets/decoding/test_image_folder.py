"""Folders of frames and single pictures are read as videos are."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from datasets.decoding.image_folder import frame_names
from datasets.decoding.open import open_video
from datasets.errors import DecodeError

NAMES = ["img_{:05d}.jpg", "frame_{:06d}.jpg", "{}.png", "{:04d}.webp", "IMG-{}.JPEG", "clip7_frame{:03d}.png"]


def write_picture(path, grey, size=(24, 16), **options):
    Image.new("RGB", size, (grey, grey, grey)).save(path, **options)


def greys(path, indices):
    with open_video(path) as video:
        frames = video.get_frames(indices)
    assert frames.shape[1:] == (3, 16, 24)
    return [round(frame.float().mean().item() / 20) for frame in frames]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [0, 1])
def test_frames_come_in_the_order_of_their_numbers(name, first, tmp_path):
    for number in range(12):
        write_picture(tmp_path / name.format(first + number), 20 * number)
    for other in (".DS_Store", "._" + name.format(0), "labels.txt", "Thumbs.db"):
        (tmp_path / other).write_text("not a picture")
    with open_video(tmp_path) as video:
        assert (video.num_frames, video.fps, video.decoder) == (12, None, "frames")
    assert greys(tmp_path, [0, 2, 10, 11, 3, 3]) == [0, 2, 10, 11, 3, 3]


@pytest.mark.parametrize(
    "names",
    [
        ["0.0", "0.25", "0.5", "0.75", "1.0", "1.25"],  # seconds
        ["t_0.5s", "t_1s", "t_1.5s", "t_2s", "t_10.25s"],
        ["9.5", "10", "10.125", "10.5"],
        ["0.02", "0.1", "0.18", "0.3"],
        ["take1.8", "take1.9", "take1.10", "take1.11"],  # counters
        ["cam1.9", "cam1.10", "cam2.9", "cam2.10"],
        ["a1.0", "a1.5", "a1.10", "a1.15", "a1.20"],
        ["2020.01.02_9", "2020.01.02_10", "2020.01.10_1"],
        ["frame_2", "frame_10", "frame_0100"],
        ["shot.0009", "shot.0010", "shot.0100"],
    ],
)
def test_numbers_in_names_are_compared_as_numbers(names, tmp_path):
    for name in names:
        write_picture(tmp_path / f"{name}.png", 0)
    assert frame_names(tmp_path) == [f"{name}.png" for name in names]


def test_optical_flow_beside_the_frames_is_left_out(tmp_path):
    for number in range(3):
        write_picture(tmp_path / f"img_{number:05d}.jpg", 20 * number)
        for name in ("flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg", "x_{:05d}.jpg", "y_{:05d}.jpg"):
            write_picture(tmp_path / name.format(number), 200)
    assert frame_names(tmp_path) == [f"img_{number:05d}.jpg" for number in range(3)]


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ([], "without pictures"),
        (["notes.txt"], "without pictures"),
        (["flow_x_1.jpg"], "optical flow only"),
        (["img_1.jpg", "frame_1.jpg"], "names of several kinds.*frame_1.jpg or img_1.jpg"),
        (["1.jpg", "01.jpg"], "two pictures for one frame: 01.jpg, 1.jpg"),
        (["1.jpg", "1.png"], "two pictures for one frame"),
    ],
)
def test_ambiguous_frame_names_are_refused(names, error, tmp_path):
    for name in names:
        write_picture(tmp_path / name, 0) if not name.endswith("txt") else (tmp_path / name).write_text("")
    with pytest.raises(DecodeError, match=error) as caught:
        open_video(tmp_path)
    assert caught.value.path == str(tmp_path)


def test_another_size_in_a_folder_names_the_picture(tmp_path):
    write_picture(tmp_path / "1.png", 0)
    write_picture(tmp_path / "2.png", 0)
    write_picture(tmp_path / "3.png", 0, size=(30, 20))
    assert greys(tmp_path, [0, 1]) == [0, 0]
    with open_video(tmp_path) as video, pytest.raises(DecodeError, match="24x16 to 30x20") as caught:
        video.get_frames([0, 1, 2])
    assert caught.value.path == str(tmp_path / "3.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("kind", ["truncated", "empty", "html", "missing"])
def test_broken_pictures(kind, suffix, tmp_path):
    path = tmp_path / f"1.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "html": b"<html>" * 30}[kind])
    with pytest.raises(DecodeError) as caught, open_video(path) as video:
        video.get_frames([0])
    assert caught.value.path == str(path)
    assert caught.value.reason and "\n" not in caught.value.reason
    if kind != "missing":
        with pytest.raises(DecodeError) as caught, open_video(tmp_path) as video:
            video.get_frames([0])
        assert caught.value.path == str(path)


def ramp():
    return (np.arange(24 * 16).reshape(16, 24) * 0.6).astype(np.uint8)


@pytest.mark.parametrize("kind", ["grey", "16 bits", "alpha", "grey with alpha", "palette", "bits", "cmyk"])
def test_pictures_of_every_kind_become_rgb(kind, tmp_path):
    grey = Image.fromarray(ramp())
    picture, suffix = {
        "grey": (grey, "png"),
        "16 bits": (Image.fromarray(ramp().astype(np.uint16) * 257), "png"),
        "alpha": (Image.merge("RGBA", [grey] * 3 + [Image.new("L", grey.size, 9)]), "png"),
        "grey with alpha": (Image.merge("LA", [grey, Image.new("L", grey.size, 9)]), "png"),
        "palette": (grey.convert("P"), "png"),
        "bits": (grey.point(lambda value: 255 * (value > 100)).convert("1"), "png"),
        "cmyk": (grey.convert("RGB").convert("CMYK"), "tiff"),
    }[kind]
    picture.save(tmp_path / f"1.{suffix}")
    with open_video(tmp_path / f"1.{suffix}") as video:
        frames = video.get_frames([0, 0])
    assert frames.shape == (2, 3, 16, 24)
    expected = 255 * (ramp() > 100) if kind == "bits" else ramp().astype(int)
    assert np.abs(frames[1].numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photos_are_turned_upright(orientation, tmp_path):
    """EXIF orientation 6: the camera was held so that the picture has to be turned clockwise."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = 255
    quarter_turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # against the clock, from upright to stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.rot90(upright, quarter_turns).copy()).save(tmp_path / "1.png", exif=exif)
    with open_video(tmp_path / "1.png") as video:
        assert np.array_equal(video.get_frames([0])[0].permute(1, 2, 0), upright)


def test_pictures_in_shards(tmp_path):
    write_picture(tmp_path / "1.png", 100)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(tmp_path / "1.png", "n01/1.png")
    assert greys(f"{tmp_path}/a.tar#n01/1.png", [0, 0]) == [5, 5]


@pytest.mark.parametrize("suffix", ["webp", "png", "tif"])
@pytest.mark.parametrize("place", ["alone", "in a folder", "in a shard"])
def test_an_animation_is_no_picture(suffix, place, tmp_path):
    """FFmpeg does not read animated WebP, and Pillow gives the first picture: that would be a video of one frame."""
    pictures = [Image.fromarray(np.full((16, 24, 3), 40 * level, np.uint8)) for level in range(5)]
    (tmp_path / "v").mkdir()
    path = tmp_path / "v" / f"1.{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    asked = {"alone": path, "in a folder": path.parent, "in a shard": f"{tmp_path}/a.tar#1.{suffix}"}[place]
    if place == "in a shard":
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            tar.add(path, path.name)
    with open_video(asked) as video, pytest.raises(DecodeError, match=rf"1\.{suffix}: 5 pictures in one .*convert it"):
        video.get_frames([0])


def test_previews_beside_a_photo_do_not_count(tmp_path):
    large, small = Image.new("RGB", (24, 16), (200, 0, 0)), Image.new("RGB", (12, 8))
    large.save(tmp_path / "1.tif", save_all=True, append_images=[small])
    large.save(tmp_path / "1.jpg", format="MPO", save_all=True, append_images=[large])
    for name in ("1.tif", "1.jpg"):
        with open_video(tmp_path / name) as video:
            frames = video.get_frames([0])
        assert frames.shape == (1, 3, 16, 24) and abs(int(frames[0, 0].min()) - 200) < 3
