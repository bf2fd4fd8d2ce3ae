"""Small replicas of data sets of SEVERE in their official layouts: UCFRep."""

from pathlib import Path

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
        "temporal_bound": np.array(bounds, np.uint8)[:, None],
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
