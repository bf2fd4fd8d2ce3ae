"""Features that are kept on disk: the same for any number of ranks, and never those of something else."""

import csv
import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from processes import gloo_world

from datasets.loading.batch import Batch
from engine.distributed.world import World
from engine.errors import CheckpointError, ConfigError, NonFiniteError
from engine.resilience.lock import RunLock
from inference import features
from inference.features import Plan, Row, extract

KEY = {"checkpoint": "abc", "list": {"fingerprint": "123"}, "views": {"shown": "2x1", "size": (4, 4)}}
SAMPLES, VIEWS, WIDTH = 23, 2, 3
PIXELS = np.random.default_rng(0).integers(256, size=(SAMPLES, VIEWS, 2, 3, 4, 4), dtype=np.uint8)


def plan(folder, **changes):
    rows = [Row(f"/d/{n}.mp4", None if n % 2 else (n / 2, n + 1.0), n % 5) for n in range(SAMPLES)]
    values = {"folder": folder, "key": KEY, "rows": rows, "views": VIEWS, "width": WIDTH, "batch": 4}
    return Plan(**values | changes)


def batches(places):
    for start in range(0, len(places), 4):
        some = list(places[start : start + 4])
        yield Batch(torch.from_numpy(PIXELS[some]).flatten(0, 1), torch.tensor(some), views=VIEWS)


def encode(clips):
    """Means of the channels; how many samples a batch has shows in the last bits, as with real encoders."""
    return clips.mean(dim=(2, 3, 4)) * (1 + len(clips) * 1e-3)


ALONE = World(0, 1, 0, torch.device("cpu"))


def expected():
    clips = torch.cat([batch.to("cpu").clip for batch in batches(range(SAMPLES))])
    parts = [encode(part) for part in clips.split(4 * VIEWS)]
    return torch.cat(parts).reshape(SAMPLES, VIEWS, WIDTH).numpy()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD", 8)


def test_features_are_those_of_the_list_in_its_order(tmp_path):
    found = extract(plan(tmp_path / "f"), ALONE, batches=batches, encode=encode)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    assert np.array_equal(found, expected())
    rows = list(csv.DictReader((tmp_path / "f" / "index.csv").open()))
    assert rows[2] == {"row": "2", "path": "/d/2.mp4", "start": "1.0", "end": "3.0", "label": "2"}
    assert rows[3]["start"] == "" and len(rows) == SAMPLES
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["features.npy", "index.csv", "meta.json"]


def _on_ranks(world, folder):
    found = extract(plan(folder), world, batches=batches, encode=encode)
    return torch.from_numpy(np.array(found))


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_gives_the_same_bits(tmp_path, size):
    for found in gloo_world(_on_ranks, tmp_path / "f", size=size):
        assert np.array_equal(found.numpy(), expected())


def test_what_was_stopped_goes_on_and_what_is_there_is_not_made_again(tmp_path):
    calls = []

    def counting(clips):
        calls.append(len(clips))
        if len(calls) == 5:
            raise RuntimeError("out of memory")
        return encode(clips)

    def run():
        return extract(plan(tmp_path / "f"), ALONE, batches=batches, encode=counting)

    with pytest.raises(RuntimeError, match="out of memory"):
        run()  # in the third shard
    assert np.array_equal(run(), expected()) and len(calls) == 5 + 2
    assert np.array_equal(run(), expected()) and len(calls) == 5 + 2


def test_shards_of_another_batch_size_are_not_used(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    np.save(folder / "rows-00000000-00000005.npy", np.zeros((5, VIEWS, WIDTH), "float32"))
    (folder / "meta.json").write_text(json.dumps(plan(folder).meta(complete=False)))
    assert np.array_equal(extract(plan(folder), ALONE, batches=batches, encode=encode), expected())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"key": {**KEY, "checkpoint": "other"}}, "another checkpoint:"),
        ({"key": {**KEY, "list": {"fingerprint": "456"}}}, "another list:"),
        ({"key": {**KEY, "views": {"shown": "5x3"}}, "views": 15}, "another views:"),
        ({"dtype": "float16"}, "another dtype:"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_features_of_something_else_are_refused_and_left(tmp_path, change, word, complete):
    folder = tmp_path / "f"
    extract(plan(folder), ALONE, batches=batches, encode=encode)
    (folder / "meta.json").write_text(json.dumps(plan(folder).meta(complete=complete)))
    before = (folder / "features.npy").read_bytes()
    with pytest.raises(ConfigError, match=rf"{word}.*--rebuild_features"):
        extract(plan(folder, **change), ALONE, batches=batches, encode=encode)
    assert (folder / "features.npy").read_bytes() == before


def test_they_are_made_anew_where_that_is_asked_for(tmp_path):
    extract(plan(tmp_path / "f"), ALONE, batches=batches, encode=encode)
    other = plan(tmp_path / "f", key={**KEY, "checkpoint": "other"})
    found = extract(other, ALONE, batches=batches, encode=lambda clips: 2 * encode(clips), rebuild=True)
    assert np.array_equal(found, 2 * expected())


def test_half_precision_keeps_what_it_can_hold(tmp_path):
    found = extract(plan(tmp_path / "f", dtype="float16"), ALONE, batches=batches, encode=encode)
    assert np.array_equal(found, expected().astype("float16"))
    for dtype, remedy in (("float16", "--feature_dtype float32"), ("float32", "not usable")):
        big = {"float16": 1e6, "float32": float("nan")}[dtype]
        with pytest.raises(NonFiniteError, match=rf"/d/0.mp4.*{remedy}"):
            extract(
                plan(tmp_path / dtype, dtype=dtype), ALONE, batches=batches, encode=lambda c, by=big: by + encode(c)
            )


def test_a_sample_that_another_took_the_place_of_is_an_error(tmp_path):
    def failing(places):
        for batch in batches(places):
            batch.failures = [("/d/7.mp4", "no frames", 0)] if 7 in batch.index.tolist() else []
            yield batch

    with pytest.raises(ConfigError, match=r"/d/7.mp4: no frames"):
        extract(plan(tmp_path / "f"), ALONE, batches=failing, encode=encode)


def test_folders_that_hold_something_else_are_not_touched(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    with pytest.raises(ConfigError, match="not a folder of features"):
        extract(plan(tmp_path / "mine"), ALONE, batches=batches, encode=encode, rebuild=True)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "meta.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"meta.json: not readable"):
        extract(plan(tmp_path / "f"), ALONE, batches=batches, encode=encode)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(ConfigError, match="features of 23 samples take"):
        extract(plan(tmp_path / "small"), ALONE, batches=batches, encode=encode)


def test_two_at_once_are_refused_and_a_complete_folder_needs_no_lock(tmp_path):
    """The second one leaves the first one's folder as it is; a part makes nothing anew."""
    other = RunLock(tmp_path / "f")
    other.acquire()
    with pytest.raises(ConfigError, match=r"f: process .* makes features in this folder. Wait for it to end"):
        extract(plan(tmp_path / "f"), ALONE, batches=batches, encode=encode)
    assert [file.name for file in (tmp_path / "f").iterdir()] == ["run.lock"]
    other.release()
    extract(plan(tmp_path / "f"), ALONE, batches=batches, encode=encode)
    extract(plan(tmp_path / "f"), ALONE, batches=batches, encode=encode, rebuild=True)
    assert not (tmp_path / "f" / "run.lock").exists()
    other.acquire()
    assert np.array_equal(extract(plan(tmp_path / "f"), ALONE, batches=batches, encode=encode), expected())
    with pytest.raises(ConfigError, match="a part does not remake"):
        extract(plan(tmp_path / "f"), ALONE, batches=batches, encode=encode, rebuild=True, share=(0, 2))


def test_parts_have_locks_of_their_own(tmp_path):
    """One part twice, all beside a part, parts cut another way: refused. Other parts go on; the dead hold no lock."""
    folder = tmp_path / "f"

    def make(*share, **changes):
        return extract(plan(folder, **changes), ALONE, batches=batches, encode=encode, share=share)

    other = RunLock(folder, name="run.lock.part-1-of-2")
    other.acquire()
    for share in ((0, 2), (0, 1), (2, 3)):
        with pytest.raises(ConfigError, match=r"makes features in this folder.*remove .*run\.lock\.part-1-of-2$"):
            make(*share)
    assert [file.name for file in folder.iterdir()] == [other.path.name]  # no lock of those refused
    (folder / "meta.json").write_text(json.dumps(plan(folder).meta(complete=False)))
    (folder / "rows-00000000-00000008.tmp").write_bytes(b"half")  # the other one is writing it
    assert make(1, 2) is None
    names = {"meta.json", other.path.name, "rows-00000000-00000008.tmp", "rows-00000008-00000016.npy"}
    assert {file.name for file in folder.iterdir()} == names
    other.release()
    with pytest.raises(ConfigError, match=r"rows-00000008-00000016.npy: made with another --batch_size"):
        make(0, 2, batch=5)
    whole = RunLock(folder)
    whole.acquire()
    with pytest.raises(ConfigError, match=r"remove .*run\.lock$"):
        make(0, 2)
    whole.release()
    left = json.dumps({**other._content(), "pid": 2**22 + 1, "process_start": 1})  # killed
    other.path.write_text(left)
    make(0, 2)
    other.path.write_text(left)
    assert np.array_equal(make(0, 1), expected())
    assert sorted(file.name for file in folder.iterdir()) == ["features.npy", "index.csv", "meta.json"]
