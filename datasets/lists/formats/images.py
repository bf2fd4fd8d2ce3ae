"""Data sets of images in their official layouts: ImageNet-1K as ILSVRC packs it, CIFAR-100 as its authors' pickles."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...decoding.image_folder import read_pickle
from ...decoding.media_names import is_image, is_left_out
from ...errors import AnnotationError, DecodeError
from ..entries import Entry, ListPart, Parsed
from ..text_files import at, csv_rows

_IMAGENET = "ILSVRC/Data/CLS-LOC"  # in Kaggle's archive; elsewhere train and val lie in the folder itself
_SOLUTION = "LOC_val_solution.csv"
_CIFAR = "cifar-100-python"


def find_imagenet(folder: Path) -> Path | None:
    """The folder with `train` and `val` of ImageNet-1K in its official layout; None if it is none."""
    packed = folder / _IMAGENET
    if packed.is_dir():
        return packed
    return folder if (folder / _SOLUTION).is_file() and (folder / "train").is_dir() else None


def find_cifar100(folder: Path) -> Path | None:
    """The folder with the pickles of CIFAR-100; None if there are none."""
    places = (folder / _CIFAR, folder)
    return next((place for place in places if place.name == _CIFAR and (place / "meta").is_file()), None)


def read_imagenet(file: Path, part: ListPart) -> Parsed:
    """A folder a class, called by its WordNet number; validation images in such folders too, or flat, with their
    classes in `LOC_val_solution.csv`. Classes are numbered in the order of their numbers."""
    root = find_imagenet(file)
    if root is None:
        raise AnnotationError(f"{file}: no {_IMAGENET} in it, nor {_SOLUTION} beside train: not ImageNet-1K's layout.")
    _need_part(file, part)
    where = root / ("train" if part.part == "train" else "val")
    names = _folders(root / "train")
    if not names:
        raise AnnotationError(f"{root / 'train'}: no folders of classes in it. Unpack ILSVRC's training images there.")
    if _folders(where):
        images: Iterator[tuple[str, str]] = (
            (os.path.join(name, image), name) for name in names for image in _images(where / name)
        )
    else:
        images = _solution(next((p for p in (file / _SOLUTION, root / _SOLUTION) if p.is_file()), file / _SOLUTION))
    prefix = str(where.relative_to(file))
    entries = (
        Entry(number, os.path.join(prefix, path), name, written=os.path.join(where.name, path))
        for number, (path, name) in enumerate(images, start=1)
    )
    return Parsed(f"ImageNet-1K, {where.name}", entries, tuple(names), str(file), unit="image")


def _need_part(file: Path, part: ListPart) -> None:
    if not part.part:
        raise AnnotationError(f"{file}: the folder holds both parts. Say which one: part 'train' or 'test'.")


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: no such folder. Unpack ILSVRC's images there.")
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_left_out(entry.name))


def _images(folder: Path) -> Sequence[str]:
    return sorted(e.name for e in os.scandir(folder) if is_image(e.name) and not is_left_out(e.name))


def _solution(file: Path) -> Iterator[tuple[str, str]]:
    """Name and class of each validation image, by name."""
    if not file.is_file():
        raise AnnotationError(f"{file} does not exist: it has the classes of the validation images. Put it there.")
    rows = csv_rows(file, ",")
    next(rows, None)  # the header
    found = {}
    for number, row in rows:
        if len(row) < 2 or not row[1].split():
            raise AnnotationError(f"{at(file, number)}: not `ImageId,CLASS x y x y`.")
        found[f"{row[0]}.JPEG"] = row[1].split()[0]
    yield from sorted(found.items())


def read_cifar100(file: Path, part: ListPart) -> Parsed:
    """The Python version of CIFAR-100: `train`, `test` and `meta`, with fine labels."""
    root = find_cifar100(file)
    if root is None:
        raise AnnotationError(f"{file}: no {_CIFAR} with train, test and meta in it, the Python version of CIFAR-100.")
    _need_part(file, part)
    name = "train" if part.part == "train" else "test"
    try:
        labels, names = read_pickle(str(root / name)).get(b"fine_labels"), read_pickle(str(root / "meta"))
    except DecodeError as error:
        raise AnnotationError(f"{error}. Unpack CIFAR-100's archive again.") from error
    texts = names.get(b"fine_label_names")
    if not isinstance(labels, list) or not isinstance(texts, list) or not all(isinstance(t, bytes) for t in texts):
        raise AnnotationError(f"{root}: no fine labels in it, as CIFAR-100 has.")
    parent = str(root.parent)
    entries = (Entry(number + 1, f"{_CIFAR}/{name}#{number}", int(label)) for number, label in enumerate(labels))
    return Parsed(f"CIFAR-100, {name}", entries, tuple(t.decode() for t in texts), parent, unit="image")
