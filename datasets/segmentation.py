"""Videos with a mask for every frame: DAVIS 2016 and 2017, YouTube-VOS, and folders laid out like theirs.

Letters: T H W frames and pixels. A mask is (H, W) uint8: the label of every pixel, 0 for the background.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from sigma_video.options import Options, Rule, option

from .errors import AnnotationError

IMAGES = ("JPEGImages/480p", "JPEGImages")
MASKS = ("Annotations/480p", "Annotations")
SPLITS = ("ImageSets/2017/{}.txt", "{}.txt", "ImageSets/480p/{}.txt")
SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_MODES = ("P", "L", "1")  # PIL's modes in which a pixel is one number


@dataclass(frozen=True, kw_only=True)
class MaskedVideosConfig(Options):
    """Where the videos and their masks lie, and which labels the masks have."""

    data_root: str = option(help="folder with JPEGImages, Annotations and the list of the split", metavar="ROOT")
    split: str = option("val", "name of the split: its list has a sequence a line")
    masks: str = option("", "folder of the masks below --data_root; default: Annotations/480p, else Annotations")
    labels: str = option(
        "objects",
        "objects: the ids in the masks; categories: of these objects by ROOT/meta.json, as in YouTube-VOS",
        choices=("objects", "categories"),
    )
    void_label: int = option(
        255,
        "label of pixels that count neither way; -1: there is none",
        rule=Rule(lambda label: -1 <= label <= 255, "must be -1 or a label from 1 to 255"),
    )


@dataclass(frozen=True)
class MaskedVideo:
    """A sequence: image and mask of every frame, in order.

    Attributes:
        table: (256,) uint8, label of every value in the mask files.
        known: values that the mask files may have.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    table: np.ndarray = field(repr=False)
    known: frozenset[int] = field(repr=False)

    def read_images(self, frames: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        """(T, H, W, 3) uint8 of these frames, resized to (H, W) whatever their aspect ratio, bilinear.

        Raises:
            AnnotationError: an image that cannot be decoded.
        """
        pictures = []
        for frame in frames:
            with _open(self.images[frame]) as image:
                pictures.append(np.asarray(_decoded(image, self.images[frame]).convert("RGB").resize(size[::-1], 2)))
        return np.stack(pictures)

    def read_masks(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """(T, H, W) uint8 labels of these frames; with `size` (H, W) resized, nearest.

        Raises:
            AnnotationError: a mask that cannot be decoded, or with a label that it may not have.
        """
        return np.stack([self._read_mask(self.masks[frame], size) for frame in frames])

    def image_size(self) -> tuple[int, int]:
        """Height and width of the first frame, which all others share."""
        with _open(self.images[0]) as image:
            return image.size[1], image.size[0]

    def _read_mask(self, path: Path, size: tuple[int, int] | None) -> np.ndarray:
        with _open(path) as image:
            if image.mode not in LABEL_MODES:
                raise AnnotationError(
                    f"{path}: a mask holds one label a pixel, this image is {image.mode}: make it a palette or grey PNG"
                )
            _decoded(image, path)
            values = np.asarray(image if size is None else image.resize(size[::-1], 0)).astype(np.uint8)
        strange = sorted(set(np.unique(values).tolist()) - self.known)
        if strange:
            raise AnnotationError(
                f"{path}: label {strange[0]} is of no object of {self.name} in meta.json ({len(self.known) - 1} "
                "labels): use the meta.json of these masks, or --labels objects"
            )
        return self.table[values]


def find_masked_videos(config: MaskedVideosConfig) -> tuple[list[MaskedVideo], Path]:
    """The sequences of a split, every mask there and of its image's size, and the split's list.

    Raises:
        AnnotationError: names the file that is missing or wrong, and the remedy.
    """
    root = Path(config.data_root)
    if not root.is_dir():
        raise AnnotationError(f"--data_root {root}: no such folder; it holds JPEGImages and Annotations")
    listed = _first(root, [pattern.format(config.split) for pattern in SPLITS], "--split")
    images = _first(root, IMAGES, "--data_root")
    masks = _first(root, [config.masks] if config.masks else MASKS, "--masks")
    try:
        names = listed.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{listed}: not a text in UTF-8; write the name of a sequence a line") from error
    if not names:
        raise AnnotationError(f"{listed}: names no sequence; write one a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise AnnotationError(f"{listed}: names {twice} twice; leave one of them out")
    categories = _read_categories(root / "meta.json") if config.labels == "categories" else None
    return [_find_one(name, images / name, masks / name, listed, categories) for name in names], listed


def _first(root: Path, candidates: Sequence[str], flag: str) -> Path:
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise AnnotationError(f"{flag}: {root} has no {' and no '.join(candidates)}; check --data_root and {flag}")


def _find_one(
    name: str, images: Path, masks: Path, listed: Path, categories: dict[str, dict[int, int]] | None
) -> MaskedVideo:
    found = sorted(path for path in images.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise AnnotationError(f"{images}: no images of the sequence; unpack them, or take {name} out of {listed}")
    if not masks.is_dir():
        raise AnnotationError(f"{masks}: no masks of the sequence; unpack them, or take {name} out of {listed}")
    files = tuple(masks / f"{image.stem}.png" for image in found)
    for image, mask in zip(found, files, strict=True):
        if not mask.is_file():
            raise AnnotationError(f"{mask}: {image.name} has no mask; add it, or take {name} out of {listed}")
        sizes = _size_of(image), _size_of(mask)
        if sizes[0] != sizes[1]:
            raise AnnotationError(
                f"{mask}: {sizes[1][0]} x {sizes[1][1]} pixels, its image is {sizes[0][0]} x {sizes[0][1]}; use the "
                f"masks of these images, or take {name} out of {listed}"
            )
    if len({_size_of(image) for image in found}) > 1:
        raise AnnotationError(f"{images}: frames of several sizes; take {name} out of {listed}")
    table, known = np.arange(256, dtype=np.uint8), frozenset(range(256))
    if categories is not None:
        if name not in categories:
            raise AnnotationError(f"meta.json: no sequence {name}; use that of these masks, or --labels objects")
        table = np.zeros(256, dtype=np.uint8)
        for value, label in {**categories[name], 255: 255}.items():  # 255 is void, never an object's id
            table[value] = label
        known = frozenset({0, 255, *categories[name]})
    return MaskedVideo(name, tuple(found), files, table, known)


def _read_categories(path: Path) -> dict[str, dict[int, int]]:
    """By sequence: object id -> 1-based index of its category among the sorted names of all."""
    try:
        videos: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["videos"]
        objects = {
            name: {int(key): value["category"] for key, value in v["objects"].items()} for name, v in videos.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnnotationError(
            f"{path}: --labels categories needs YouTube-VOS's videos -> objects -> category there ({error!r}); or use "
            "--labels objects"
        ) from error
    names = sorted({category for ids in objects.values() for category in ids.values()})
    return {name: {key: 1 + names.index(category) for key, category in ids.items()} for name, ids in objects.items()}


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, UnidentifiedImageError) as error:
        raise AnnotationError(f"{path}: cannot be read as an image ({error}); copy it again") from error


def _decoded(image: Image.Image, path: Path) -> Image.Image:
    try:
        image.load()
    except (OSError, SyntaxError) as error:  # what PIL raises for a damaged PNG
        raise AnnotationError(f"{path}: damaged ({error}); copy it again") from error
    return image


def _size_of(path: Path) -> tuple[int, int]:
    with _open(path) as image:
        return image.size
