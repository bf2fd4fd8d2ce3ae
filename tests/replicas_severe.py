"""Small replicas of the data sets of SEVERE in their official layouts."""

import json
from pathlib import Path

import av
import numpy as np
from PIL import Image
from scipy.io import savemat
from videos import write_video

UCFREP = {  # part -> video -> its boundaries, frames counted from 1
    "train": {
        "v_BenchPress_g01_c01": (3, 11, 20, 28),
        "v_HandStandPushups_g02_c03": (1, 9, 18, 26, 35),
        "v_Biking_g05_c02": (2, 14, 27),
    },
    "val": {
        "v_BenchPress_g21_c01": (1, 10, 19, 27, 36),
        "v_HandStandPushups_g22_c02": (4, 12, 20, 29),
        "v_Biking_g25_c01": (1, 13, 24, 37),
    },
}


def write_annotation(file: Path, bounds: tuple[int, ...], **changes: object) -> None:
    """A MAT file as UCFRep has them; `changes` take the place of fields."""
    length = bounds[-1] - bounds[0] + 1
    label = {
        "duration": length,
        "start_frame": bounds[0],
        "end_frame": bounds[-1],
        "temporal_bound_num": len(bounds),
        "temporal_bound": np.array(bounds, np.min_scalar_type(bounds[-1]))[:, None],  # uint8 for short videos
        "offset_next_estimate": np.zeros((1, length), np.int32),
        "offset_pre_estimate": np.zeros((1, length), np.int32),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"label": {**label, **changes}})


def frame_of(number: int, bounds: tuple[int, ...], size: tuple[int, int] = (48, 36)) -> np.ndarray:
    """A white bar whose place is the phase of the cycle."""
    phase = np.interp(number, bounds, np.arange(len(bounds))) % 1
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, int(phase * width) : int(phase * width) + 8] = 255
    return picture


def ucfrep(root: Path, *, as_files: tuple[str, ...] = ("v_Biking_g25_c01",)) -> dict[str, dict[str, tuple[int, ...]]]:
    """UCFRep below `root`: frames as pictures, and some videos as UCF101 has them, with the folder's own spelling."""
    for part, videos in UCFREP.items():
        for name, bounds in videos.items():
            write_annotation(root / "annotations" / part / f"{name}.mat", bounds)
            folder = root / "imgs" / part / name.split("_")[1].replace("StandP", "standP")
            if name in as_files:
                folder.mkdir(parents=True, exist_ok=True)
                write_video(folder / f"{name}.avi", bounds[-1] + 3)
                continue
            (folder / name).mkdir(parents=True)
            for number in range(1, bounds[-1] + 3):
                Image.fromarray(frame_of(number, bounds)).save(folder / name / f"{number:06d}.png")
    return UCFREP


def passing(root: Path, *, train: int, val: int, size: int = 16, seed: int = 0) -> None:
    """UCFRep below `root`, of squares that pass from left to right 2 to 12 times, in 8 to 24 frames each.

    Start, height, brightness and ground differ from video to video, and the cycles of one by up to a tenth. Length and
    count are drawn apart, so that neither says the other.
    """
    random = np.random.default_rng(seed)
    for number in range(train + val):
        part, cycles = "val" if number >= train else "train", int(random.integers(2, 13))
        lengths = np.rint(random.uniform(8, 24) * random.uniform(0.9, 1.1, cycles)).astype(int)
        bounds = np.cumsum([int(random.integers(1, 9)), *lengths])
        name = f"v_Passing_g{number // 90 + 1:02d}_c{number % 90 + 1:02d}"
        write_annotation(root / "annotations" / part / f"{name}.mat", tuple(bounds.tolist()))
        file = root / "imgs" / part / "Passing" / f"{name}.avi"
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_passes(file, bounds, random=random, size=size)


def _write_passes(file: Path, bounds: np.ndarray, *, random: np.random.Generator, size: int) -> None:
    """A square that is at the same place at every boundary; what leaves on the right is back on the left."""
    start, top = random.uniform(), int(random.integers(size // 2))
    brightness, ground = random.uniform(180, 255), random.normal(random.uniform(30, 70), 6, (size, size))
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in range(1, bounds[-1] + 4):
            left = size * (start + np.interp(frame, bounds, np.arange(len(bounds))))
            behind = np.mod(np.arange(size) - left, size)  # of the left edge, for every column
            share = np.maximum((size / 3 - behind).clip(0, 1), (behind - (size - 1)).clip(0, 1))  # that it covers
            picture = ground.copy()
            picture[top : top + size // 2] += share * (brightness - picture[top : top + size // 2])
            picture = np.repeat(picture[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _square(folder: Path, name: str, *, frames: int = 20, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / name, frames, first=first)


def gym(root: Path, labels: tuple[int, ...]) -> tuple[Path, Path]:
    """FineGym's lists `ID label`, IDs without an extension, and the clips; returns both folders."""
    (root / "annotations").mkdir(parents=True)
    for part, start in (("train", 0), ("val", 1000)):
        lines = []
        for number in range(2 * len(labels)):
            video = f"0LtLS9wROrk_E_{start + number:06d}_{start + number + 9:06d}_A_0003_0005"
            _square(root / "subactions", f"{video}.avi", first=number)
            lines.append(f"{video} {labels[number % len(labels)]}\n")
        names = (f"gym99_{part}.txt", "test.txt") if part == "val" else (f"gym99_{part}.txt",)
        for name in names:
            (root / "annotations" / name).write_text("".join(lines))
    return root / "annotations", root / "subactions"


def ucf101(root: Path) -> tuple[Path, Path]:
    """UCF101, split 1, with all of its 101 classes by number, and videos of two of them."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    names = ["ApplyEyeMakeup", *(f"Class{'ABCDEFGHIJ'[k // 10]}{'abcdefghij'[k % 10]}" for k in range(1, 100)), "YoYo"]
    (lists / "classInd.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(names, start=1)))
    for part, groups in (("train", (8, 9)), ("test", (1,))):
        files = [f"{name}/v_{name}_g{group:02d}_c01.avi" for group in groups for name in (names[0], names[-1])]
        for place, file in enumerate(files):
            _square(root / "UCF-101" / file.partition("/")[0], file.partition("/")[2], first=place)
        numbers = {name: number for number, name in enumerate(names, start=1)}
        lines = [f"{file} {numbers[file.partition('/')[0]]}" if part == "train" else file for file in files]
        (lists / f"{part}list01.txt").write_text("".join(f"{line}\n" for line in lines))
    return lists, root / "UCF-101"


def something_something(root: Path) -> tuple[Path, Path]:
    """SSv2's json lists, with all of its 174 classes by number, and videos of two of them."""
    names = [f"Moving [something] {number}" for number in range(174)]
    (root / "labels").mkdir(parents=True)
    numbers = {name.replace("[", "").replace("]", ""): str(number) for number, name in enumerate(names)}
    (root / "labels" / "labels.json").write_text(json.dumps(numbers))
    for part, first in (("train", 1), ("validation", 100)):
        rows = [{"id": str(first + k), "template": names[(0, 173)[k % 2]], "placeholders": ["a"]} for k in range(4)]
        for place, row in enumerate(rows):
            _square(root / "videos", f"{row['id']}.mp4", first=place)
        (root / "labels" / f"something-something-v2-{part}.json").write_text(json.dumps(rows))
    return root / "labels", root / "videos"


def charades(root: Path) -> tuple[Path, Path]:
    """Charades_v1_train.csv and Charades_v1_test.csv, and the videos."""
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    for part, names in (("train", ("AAAA1", "BBBB2", "CCCC3", "DDDD4")), ("test", ("EEEE5", "FFFF6", "GGGG7"))):
        rows = []
        for place, name in enumerate(names):
            _square(root / "Charades_v1_480", f"{name}.mp4", frames=40, first=place)
            actions = ("c000 0.00 0.40;c156 0.30 1.20", "c156 0.50 0.90", "")[place % 3]
            rows.append(f'{name},S,Kitchen,6,7,Yes,"He, then",a;b,"Once; twice.",{actions},1.33\n')
        (root / "Charades").mkdir(exist_ok=True)
        (root / "Charades" / f"Charades_v1_{part}.csv").write_text(header + "".join(rows))
    return root / "Charades", root / "Charades_v1_480"
