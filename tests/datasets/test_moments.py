"""Labels of a training clip of Charades: those of its frames, and no others of the video."""

import numpy as np
import pytest
from PIL import Image
from videos import read_number

from datasets.classification import TrainDataset, ValDataset
from datasets.lists.read import read_list
from datasets.lists.subsets import select
from datasets.moments import Moments

LENGTH, CLIP, STRIDE = 40, 3, 4
SEEN = {0: (0, 39), 1: (3, 9), 2: (20, 20), 3: (30, 45)}  # class: its first and last frame; one ends behind the video
CSV = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


def number_of(frame):
    """Of a picture that `folders` wrote."""
    return round(frame.float().mean().item()) // 5


@pytest.fixture(scope="module")
def listed(tmp_path_factory, write_video):
    """The list of one video as frames, as a file, and as frames whose actions are in seconds."""
    root = tmp_path_factory.mktemp("charades")
    write_video(root / "file.mp4", LENGTH, fps=10)
    (root / "pictures").mkdir()
    for frame in range(LENGTH):
        Image.new("RGB", (48, 48), (5 * frame,) * 3).save(root / "pictures" / f"pictures-{frame + 1:06d}.png")
    lines = ["original_vido_id video_id frame_id path labels"]
    for frame in range(LENGTH):
        labels = ",".join(str(k) for k, (first, last) in SEEN.items() if first <= frame <= last)
        lines.append(f'pictures 0 {frame} pictures/pictures-{frame + 1:06d}.png "{labels}"')
    (root / "frames.csv").write_text("\n".join(lines) + "\n")
    for name, rate in (("file", 10), ("pictures", 24)):
        times = {k: (max(first - 0.1, 0) / rate, (last + 0.1) / rate) for k, (first, last) in SEEN.items()}
        actions = ";".join(f"c{k:03d} {start:.4f} {end:.4f}" for k, (start, end) in times.items())
        (root / f"{name}.csv").write_text(f"{CSV}{name},,,,,,,,,{actions},4\n")
    names = ("frames", "file", "pictures")
    return {name: read_list(root / f"{name}.csv", root=str(root), labels="classes") for name in names}


@pytest.mark.parametrize("name", ["frames", "file", "pictures"])
def test_a_clip_has_the_labels_between_its_first_and_its_last_frame(listed, name):
    videos = listed[name].with_targets(4)
    options = {"sampler": "strided", "num_frames": CLIP, "sampling_rate": STRIDE}
    dataset = TrainDataset(videos, transform=lambda frames, rng: frames, seed=0, **options)
    read = number_of if name != "file" else read_number
    sets = set()
    for epoch in range(25):
        item = dataset[epoch, 0]
        shown = [read(frame) for frame in item["clip"][0]]
        assert np.diff(shown).tolist() == [STRIDE] * (CLIP - 1)
        union = [int(any(first <= n <= last for n in range(shown[0], shown[-1] + 1))) for first, last in SEEN.values()]
        assert item["label"] == union, shown
        sets.add(tuple(union))
    assert len(sets) > 3  # also of frames between those that are shown
    validated = ValDataset(videos, transform=lambda frames: frames, **options)[0]
    assert validated["label"] == [1, 1, 1, 1]  # the whole video counts


def test_moments_go_with_their_videos():
    moments = Moments("frames", [[(0, 1, 0)], [(2, 3, 1)], [(4, 5, 2)]], 24)
    assert moments.of([2, 0]).by_video == ([(4, 5, 2)], [(0, 1, 0)])


def test_parts_of_a_list_keep_their_moments(listed):
    videos = listed["frames"]
    assert select(videos, [0]).moments == videos.moments.of([0])
    assert videos.moments.classes(0, np.arange(9, 21)) == (0, 1, 2)
    assert videos.moments.classes(0, np.array([19.5])) == (0,)
