"""Tiny tasks of mteb, in a process of their own: `python mveb_tasks.py CHECKPOINT OUT VIDEO...`.

A test's process cannot import mteb: it has this project's `datasets` in the place of Hugging Face's. The last line of
stdout is JSON: the scores of each task, and the embeddings of the videos beside those of `VideoModel.features`. Before
it comes what scripts/mveb.py says of tasks, of which it gets the tiny one in the place of one of the hub.
"""

import contextlib
import json
import runpy
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the last: its `datasets` is not meant here

import mteb
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.pair_classification import AbsTaskPairClassification

import datasets
import sigma_video
from sigma_video.inference.mveb import VideoEncoder
from sigma_video.inference.views import Views

CHECKPOINT, OUT, *VIDEOS = sys.argv[1:]
ABOUT = {"description": "Tiny.", "dataset": {"path": "tiny", "revision": "1"}, "eval_langs": ["eng-Latn"]}


def table(**columns):
    """Rows as in a download: every other video is kept as a file, the others as bytes."""
    made = datasets.Dataset.from_dict(columns)
    for name in made.column_names:
        if name.startswith("video"):
            made = made.cast_column(name, datasets.Video())
    return made


def stored(path, number):
    return {"path": path, "bytes": None} if number % 2 else {"path": "in a table.mp4", "bytes": Path(path).read_bytes()}


STORED = [stored(path, number) for number, path in enumerate(VIDEOS)]
LABELS = [number % 2 for number in range(len(VIDEOS))]
ROWS = {
    "classification": {"video": STORED, "label": LABELS},
    "clustering": {"video": STORED, "label": LABELS},
    "pairs": {
        "video1": STORED,
        "video2": STORED[2:] + STORED[:2],
        "label": [number < 3 for number in range(len(LABELS))],
    },
}


class Tiny:
    def load_data(self, **options):
        rows = table(**ROWS[self.kind])
        self.dataset = datasets.DatasetDict(train=rows, test=rows)
        self.data_loaded = True


def about(kind, type_, main_score):
    return mteb.TaskMetadata(
        name=f"Tiny{kind}",
        type=type_,
        category="v2c",
        eval_splits=["test"],
        main_score=main_score,
        modalities=["video"],
        **ABOUT,
    )


class Classification(Tiny, AbsTaskClassification):
    kind, input_column_name, n_experiments, samples_per_label = "classification", "video", 2, 3
    metadata = about("Classification", "VideoClassification", "accuracy")


class Clustering(Tiny, AbsTaskClustering):
    kind, input_column_name, label_column_name, max_fraction_of_documents_to_embed = (
        "clustering",
        "video",
        "label",
        None,
    )
    metadata = about("Clustering", "VideoClustering", "v_measure")


class Pairs(Tiny, AbsTaskPairClassification):
    kind, input1_column_name, input2_column_name, label_column_name = "pairs", "video1", "video2", "label"
    metadata = about("Pairs", "VideoPairClassification", "max_ap")


calls = []


class Recording(VideoEncoder):
    def encode(self, inputs, **options):
        found = super().encode(inputs, **options)
        calls.append(found.tolist())
        return found


model = sigma_video.load(CHECKPOINT, device="cpu")
encoder = Recording(model, "tests/tiny", views=Views(2, 1))
tasks, settings = [Classification(), Clustering(), Pairs()], {"encode_kwargs": {"batch_size": 3}}
results = mteb.evaluate(encoder, tasks, cache=mteb.ResultCache(OUT), show_progress_bar=False, **settings)
main = runpy.run_path(sys.path[-1] + "/scripts/mveb.py", run_name="command")["main"]
for name in ("HMDB51Clasification", "HMDB51ZeroShot", "HMDB51Classification"):
    with contextlib.suppress(SystemExit):
        main([CHECKPOINT, name, OUT, "--device", "cpu"])
mteb.get_task = lambda name: Classification()
main([CHECKPOINT, "TinyClassification", OUT, "--device", "cpu", "--views", "2x1"])
scores = {result.task_name: result.get_score() for result in results.task_results}
expected = model.features(VIDEOS, views=(2, 1)).tolist()
sys.stdout.write(json.dumps({"scores": scores, "calls": calls, "expected": expected}) + "\n")
