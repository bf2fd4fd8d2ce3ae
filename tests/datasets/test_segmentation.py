"""Videos with masks: official layouts, labels, and what is wrong with them before any work."""

import numpy as np
import pytest
from masked_videos import davis, draw, write_mask, youtube_vos
from PIL import Image

from datasets.errors import AnnotationError
from datasets.segmentation import MaskedVideosConfig, find_masked_videos


def found(root, **options):
    return find_masked_videos(MaskedVideosConfig(data_root=str(root), **options))


def test_davis(tmp_path):
    drawn = davis(tmp_path)
    videos, listed = found(tmp_path)
    assert [video.name for video in videos] == ["bear", "dog", "goat"]
    assert listed == tmp_path / "ImageSets/2017/val.txt"
    for video in videos:
        np.testing.assert_array_equal(video.read_masks(range(6)), drawn[video.name])
        assert video.image_size() == (48, 64)
        images = video.read_images([0, 5], (32, 32))
        assert images.shape == (2, 32, 32, 3) and images.dtype == np.uint8
        np.testing.assert_array_equal(video.read_masks([5], (24, 32))[0], drawn[video.name][5][1::2, 1::2])


def test_a_list_beside_the_folders(tmp_path):
    draw(tmp_path, "cow", below="")
    (tmp_path / "val.txt").write_text("cow\n")
    assert [video.name for video in found(tmp_path)[0]] == ["cow"]


def test_masks_of_another_folder(tmp_path):
    davis(tmp_path, ["dog"])
    (tmp_path / "Annotations_unsupervised").mkdir()
    (tmp_path / "Annotations" / "480p").rename(tmp_path / "Annotations_unsupervised" / "480p")
    with pytest.raises(AnnotationError, match=r"--masks: .* has no Annotations/480p; check"):
        found(tmp_path, masks="Annotations/480p")
    assert found(tmp_path, masks="Annotations_unsupervised/480p")[0][0].masks[0].is_file()


def test_categories_are_looked_up_once(tmp_path):
    """cat 1, dog 2, by sorted names: the ids 1 -> 2 and 2 -> 1 of `b2` would merge if they were renamed in place."""
    drawn = youtube_vos(tmp_path)
    videos = {video.name: video for video in found(tmp_path, labels="categories")[0]}
    np.testing.assert_array_equal(videos["a1"].read_masks(range(6)), 2 * (drawn["a1"] > 0))
    np.testing.assert_array_equal(videos["b2"].read_masks(range(6)), np.array([0, 2, 1])[drawn["b2"]])
    ids = {video.name: video for video in found(tmp_path)[0]}
    np.testing.assert_array_equal(ids["a1"].read_masks(range(6)), drawn["a1"])


def remove_mask(root):
    (root / "Annotations/480p/dog/00003.png").unlink()


def remove_masks(root):
    (root / "Annotations/480p/dog").rename(root / "elsewhere")


def smaller_mask(root):
    write_mask(np.zeros((24, 32), np.uint8), root / "Annotations/480p/dog/00002.png")


def coloured_mask(root):
    Image.new("RGB", (64, 48)).save(root / "Annotations/480p/dog/00001.png")


def damaged_mask(root):
    path = root / "Annotations/480p/dog/00001.png"
    path.write_bytes(path.read_bytes()[:80])


def no_images(root):
    (root / "JPEGImages/480p/dog").rename(root / "elsewhere")


def twice(root):
    (root / "ImageSets/2017/val.txt").write_text("dog\ndog\n")


def empty_list(root):
    (root / "ImageSets/2017/val.txt").write_text("\n")


def no_split(root):
    (root / "ImageSets/2017/val.txt").unlink()


def latin_list(root):
    (root / "ImageSets/2017/val.txt").write_bytes(b"dog\nb\xe4r\n")


WRONG = {
    latin_list: "val.txt: not a text in UTF-8",
    remove_mask: "Annotations/480p/dog/00003.png: 00003.jpg has no mask; add it, or take dog out of",
    remove_masks: "Annotations/480p/dog: no masks of the sequence; unpack them, or take dog out of",
    smaller_mask: "dog/00002.png: 32 x 24 pixels, its image is 64 x 48; use the masks of these images",
    coloured_mask: "dog/00001.png: a mask holds one label a pixel, this image is RGB: make it a palette",
    damaged_mask: "dog/00001.png: (damaged|cannot be read)",
    no_images: "JPEGImages/480p/dog: no images of the sequence; unpack them, or take dog out of",
    twice: "val.txt: names dog twice; leave one of them out",
    empty_list: "val.txt: names no sequence; write one a line",
    no_split: "--split: .* has no ImageSets/2017/val.txt and no val.txt .*check --data_root and --split",
}


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_what_is_wrong_is_said(tmp_path, spoil):
    davis(tmp_path)
    spoil(tmp_path)
    with pytest.raises(AnnotationError, match=WRONG[spoil]):
        for video in found(tmp_path)[0]:
            video.read_masks(range(6))


def test_an_object_without_a_category(tmp_path):
    youtube_vos(tmp_path)
    write_mask(np.full((48, 64), 3, np.uint8), tmp_path / "Annotations/b2/00001.png")
    with pytest.raises(AnnotationError, match=r"b2/00001.png: label 3 is of no object of b2 in meta.json"):
        found(tmp_path, labels="categories")[0][1].read_masks([1])
    (tmp_path / "meta.json").write_text("{}")
    with pytest.raises(AnnotationError, match=r"meta\.json: --labels categories needs .*or use --labels objects"):
        found(tmp_path, labels="categories")
