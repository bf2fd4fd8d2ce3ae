"""Small replicas of DAVIS and YouTube-VOS: moving squares on a textured ground, with masks of every frame."""

import json

import numpy as np
from PIL import Image

COLOURS = [(90, 90, 90), (220, 40, 40), (40, 60, 220), (40, 200, 60)]


def draw(root, name, *, frames=6, size=(48, 64), objects=2, below="/480p"):
    """A sequence; returns its masks (T, H, W)."""
    random = np.random.RandomState(len(name) + frames)
    ground = random.randint(0, 60, (*size, 3))
    masks = np.zeros((frames, *size), np.uint8)
    for t in range(frames):
        for label in range(1, objects + 1):
            x = 4 + 3 * t if label == 1 else size[1] - 18 - 3 * t
            masks[t, 6 + 14 * (label - 1) : 18 + 14 * (label - 1), x : x + 14] = label
        picture = (ground + np.array(COLOURS)[masks[t]]).clip(0, 255).astype(np.uint8)
        for kind in ("JPEGImages", "Annotations"):
            (root / f"{kind}{below}" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / f"JPEGImages{below}" / name / f"{t:05d}.jpg", quality=95)
        write_mask(masks[t], root / f"Annotations{below}" / name / f"{t:05d}.png")
    return masks


def write_mask(mask, path):
    """A palette PNG."""
    image = Image.fromarray(mask)
    image.putpalette([value for colour in COLOURS for value in colour] * 64)  # 256 colours, else labels above are cut
    image.save(path)


def davis(root, names=("bear", "dog", "goat"), **drawn):
    """DAVIS 2017's layout."""
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("".join(f"{name}\n" for name in names))
    return {name: draw(root, name, **drawn) for name in names}


def youtube_vos(root):
    """YouTube-VOS's layout: `a1` shows two dogs, `b2` a cat and a dog."""
    root.mkdir(exist_ok=True)
    (root / "val.txt").write_text("a1\nb2\n")
    categories = {"a1": {"1": "dog", "2": "dog"}, "b2": {"1": "dog", "2": "cat"}}
    videos = {
        n: {"objects": {i: {"category": c, "frames": []} for i, c in ids.items()}} for n, ids in categories.items()
    }
    (root / "meta.json").write_text(json.dumps({"videos": videos}))
    return {name: draw(root, name, below="") for name in categories}
