"""scripts/reproduce.py: the jobs behind a table, what is done and what is not, and a table made of replicas."""

import json
import signal
import sys
from dataclasses import replace

import masked_videos
import pytest
import replicas
import replicas_severe

from engine.errors import ConfigError
from engine.resilience.lock import RunLock
from scripts import reproduce
from scripts.data import prepare
from scripts.recipes import read_recipes
from scripts.reproduce_cells import _pretraining
from scripts.reproduce_data import DATA, lists_are_written
from scripts.reproduce_jobs import Job
from scripts.reproduce_launch import run_local
from scripts.reproduce_settings import parse_override, read_weights
from scripts.table_cells import Row

RECIPES = read_recipes()
SMALL = ["--method", "SIGMA-MLP", "--model", "ViT-B"]


def given(*words):
    return reproduce.parser(RECIPES).parse_args([*map(str, words), "--data_root", "/data"])


def planned(*words, out="/out"):
    """The jobs by name, and the cells without a recipe."""
    jobs, without = reproduce.plan(given(*words, "--output_dir", out), RECIPES)
    return {job.name: job for job in jobs}, without


def after(jobs):
    return {name: set(job.after) for name, job in jobs.items()}


# ------------------------------------------------------------------------------------------------ the graph


def test_jobs_of_a_row_by_hand():
    """Fine-tuning of SIGMA-MLP: two pre-trainings, three trainings, and a test of one of these with other views."""
    jobs, without = planned("finetuning", *SMALL)
    assert not without
    assert after(jobs) == {
        "prepare-k400": set(),
        "prepare-ssv2": set(),
        "pretrain-k400_sigma_mlp_vit_b": {"prepare-k400"},
        "pretrain-ssv2_sigma_mlp_vit_b": {"prepare-ssv2"},
        "finetune-k400_vit_b-of-k400_sigma_mlp_vit_b": {"pretrain-k400_sigma_mlp_vit_b", "prepare-k400"},
        "eval-k400_7x3_vit_b-of-k400_sigma_mlp_vit_b": {"finetune-k400_vit_b-of-k400_sigma_mlp_vit_b", "prepare-k400"},
        "finetune-ssv2_vit_b-of-k400_sigma_mlp_vit_b": {"pretrain-k400_sigma_mlp_vit_b", "prepare-ssv2"},
        "finetune-ssv2_vit_b-of-ssv2_sigma_mlp_vit_b": {"pretrain-ssv2_sigma_mlp_vit_b", "prepare-ssv2"},
    }
    place = {name: number for number, name in enumerate(jobs)}
    assert all(place[need] < place[name] for name, job in jobs.items() for need in job.after)
    trained = jobs["finetune-k400_vit_b-of-k400_sigma_mlp_vit_b"]
    tested = jobs["eval-k400_7x3_vit_b-of-k400_sigma_mlp_vit_b"]
    assert str(trained.checkpoint) == "/out/results/k400_vit_b/k400_sigma_mlp_vit_b/checkpoint-99.pth"
    assert tested.variables["CHECKPOINT"] == str(trained.checkpoint)
    data = {
        name: job.variables.get("DATA_PATH") for name, job in jobs.items() if "k400_vit_b" in name or "ssv2_s" in name
    }
    assert data == {
        "pretrain-ssv2_sigma_mlp_vit_b": "/out/lists/ssv2/train.csv",
        trained.name: "/out/lists/k400",
        "finetune-ssv2_vit_b-of-ssv2_sigma_mlp_vit_b": "/out/lists/ssv2",
    }
    # 801 epochs of training: the tables' 800, as the released scripts count
    assert trained.variables["CHECKPOINT"] == "/out/pretrain/k400_sigma_mlp_vit_b/checkpoint-799.pth"
    assert jobs["pretrain-k400_sigma_mlp_vit_b"].last.name == "checkpoint-800.pth"
    assert trained.row == {"method": "SIGMA-MLP", "backbone": "ViT-B", "pretrained_on": "K400", "epochs": 800}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "batch 640 = 8 GPUs x 40 x 2, lr 0.000375, 801 epochs"),
        (("--gpus", 1), "batch 640 = 1 GPU x 40 x 16, lr 0.000375, 801 epochs"),
        (("--gpus", 4, "--nodes", 8, "--launcher", "slurm"), "batch 640 = 32 GPUs x 20, lr 0.000375, 801 epochs"),
        (("--gpus", 4, "--batch_size", 24), "batch 640 = 4 GPUs x 20 x 8, lr 0.000375, 801 epochs"),
        (("--set", "pretrain.epochs=201", "--set", "lr=3e-4"), "batch 640 = 8 GPUs x 40 x 2, lr 0.00075, 201 epochs"),
    ],
)
def test_batch_and_learning_rate_for_the_gpus_given(words, expected):
    jobs, _ = planned("segmentation", *SMALL, "--column", "clustering DAVIS", *words)
    assert jobs["pretrain-k400_sigma_mlp_vit_b"].describes == expected


def test_weights_stand_in_for_pretraining(tmp_path):
    file = tmp_path / "w.pth"
    file.touch()
    jobs, _ = planned("segmentation", "--method", "SIGMA-DINO", "--weights", "released", "--set", "eval.num_frames=4")
    assert {name.partition("-")[0] for name in jobs if name.endswith("vit_b")} == {"eval"}
    job = jobs["eval-segmentation_davis_vit_b-of-k400_sigma_dino_vit_b"]
    assert job.variables["CHECKPOINT"].startswith("https://huggingface.co/SMSD75/SIGMA/resolve/main/pretrain/")
    assert "#sha256=c9130cda" in job.variables["CHECKPOINT"]
    assert job.row["note"].startswith("with --num_frames 4; weights https://") and "sha256" not in job.row["note"]
    assert "pretrain-k400_sigma_dino_vit_s" in jobs  # none are released for ViT-S
    own = planned("segmentation", *SMALL, "--weights", f"k400_sigma_mlp_vit_b={file}")[0]
    assert {job.variables["CHECKPOINT"] for job in own.values()} == {str(file)}


def test_a_row_of_other_epochs_is_not_made_with_a_recipe_of_800():
    rows = {epochs: Row("SIGMA-DINO", "ViT-B", "K400", epochs, {}) for epochs in (None, 800, 1600)}
    found = {epochs: recipe.name for epochs, row in rows.items() if (recipe := _pretraining(row, RECIPES))}
    assert found == dict.fromkeys((None, 800), "pretrain/k400_sigma_dino_vit_b")


def test_a_file_that_is_given_counts_before_the_released_one(tmp_path):
    (tmp_path / "w.pth").touch()
    own = f"k400_sigma_dino_vit_b={tmp_path}/w.pth"
    for words in (["released", own], [own, "released"]):
        found = read_weights(words, RECIPES)
        assert found["k400_sigma_dino_vit_b"] == str(tmp_path / "w.pth") and len(found) > 1


def test_cells_without_a_recipe_are_told_and_rows_that_nobody_prints_are_left_out():
    fewer = {name: recipe for name, recipe in RECIPES.items() if "ucfrep" not in name}
    planned_jobs, without = reproduce.plan(given("severe", *SMALL, "--output_dir", "/out"), fewer)
    jobs = {job.name: job for job in planned_jobs}
    assert without == ["SIGMA-MLP ViT-B, UCF-RC"] and len([name for name in jobs if "-of-" in name]) == 7
    subset = jobs["eval-severe_gym99_1000_vit_b-of-k400_sigma_mlp_vit_b"]
    assert (
        subset.row["column"] == "Gym 10^3"
        and "column" not in jobs["eval-severe_fxs1_vit_b-of-k400_sigma_mlp_vit_b"].row
    )
    subsets = {"gym99-1000": "1000", "ucf101-1000": "1000", "fxs1": "FXS1", "ubs1": "UBS1"}
    for name, subset in subsets.items():
        assert jobs[f"prepare-{name}"].command[-4:] == ("--subset", subset, "--out", f"/out/lists/{name}")
    assert "--subset" not in jobs["prepare-gym99"].command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["linear", "--model", "ViT-S"], "no cell with a recipe that fits --model ViT-S"),
        (["ablation"], "ablation: its list of videos is not public; docs/ablations.md has a recipe for every row"),
        (["linear", "--column", "DAVIS"], "--column DAVIS: linear has SSv2, K400"),
        (["linear", "--nodes", "2"], "--nodes 2: --launcher local"),
        (["linear", "--gpus", "7"], "the 2048 clips of pretrain/k400_videomae_vit_b cannot be divided among 7: take 4"),
        (["linear", *SMALL, "--set", "epoch=3"], "--set epoch: no job of this table has the flag --epoch"),
        (["linear", *SMALL, "--set", "pretrain.epochs=3"], "pretrain/k400_sigma_mlp_vit_b: --warmup_epochs 40 leaves"),
        (["linear", "--set", "pretain.lr=3"], "pretain is no kind or recipe. Did you mean pretrain?"),
        (["linear", "--set", "output_dir=x"], "output_dir: the jobs set data_path"),
        (
            ["linear", "--weights", "k400_sigma_dino=x"],
            "is no recipe of scripts/pretrain. Did you mean k400_sigma_dino_vit",
        ),
        (
            ["linear", "--weights", "k400_sigma_dino_vit_b=/no/file"],
            "/no/file: not there; give k400_sigma_dino_vit_b=FILE",
        ),
    ],
)
def test_options_that_no_job_can_use(words, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        planned(*words)


def test_unknown_table_and_method(capsys):
    for words in (["linea"], ["linear", "--method", "SIGMA-DIN"]):
        with pytest.raises(SystemExit, match="2"):
            given(*words)
        assert "Did you mean" in capsys.readouterr().err


def test_parts_of_set():
    assert parse_override("opt_betas=0.9 0.95", RECIPES).words == ("--opt_betas", "0.9", "0.95")
    assert parse_override("no_compile", RECIPES).words == ("--no_compile",)
    one = parse_override("ssv2_vit_b.lr=1e-3", RECIPES)
    assert [name for name, recipe in RECIPES.items() if one.fits(recipe)] == ["finetune/ssv2_vit_b"]


@pytest.mark.parametrize(
    ("folders", "file", "form"),
    [
        (("frame_lists", "Charades_v1_rgb"), "train.csv", "charades"),
        (("Charades", "Charades_v1_480"), "Charades_v1_train.csv", "charades-actions"),
    ],
)
def test_both_lists_of_charades(folders, file, form, tmp_path):
    for name in folders:
        (tmp_path / "charades" / name).mkdir(parents=True)
    (tmp_path / "charades" / folders[0] / file).touch()
    assert not DATA["charades"].missing(tmp_path)
    words = DATA["charades"].command(tmp_path, tmp_path / "out")
    lists, videos = (str(tmp_path / "charades" / name) for name in folders)
    assert words[2:] == ("--from", form, lists, "--videos", videos, "--out", str(tmp_path / "out"))


# ------------------------------------------------------------------------------------------------ what is done


def record(folder, metric="miou_hungarian", **more):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"task": "segmentation-clustering", "metric": metric, "value": 30.0, "clips": 2, "data_set": "DAVIS"}
    (folder / f"{metric}.json").write_text(json.dumps({**content, **more}))


def test_done_is_what_has_outputs_of_this_command(tmp_path):
    """A test with one of two numbers is not done; outputs of other flags, or of other weights, are refused."""
    words = ["segmentation", *SMALL, "--column", "clustering DAVIS"]
    jobs, _ = planned(*words, out=tmp_path)
    names = ["prepare-k400", "pretrain-k400_sigma_mlp_vit_b", "eval-segmentation_davis_vit_b-of-k400_sigma_mlp_vit_b"]
    assert list(jobs) == names and not any(job.is_done() for job in jobs.values())
    lists, trained, tested = jobs.values()
    for job in jobs.values():
        job.mark()
    assert not any(job.is_done() for job in jobs.values())
    for part in ("train", "val", "test"):
        assert not lists_are_written(lists.folder)
        (lists.folder / f"{part}.csv").touch()
    assert not lists.is_done()
    (lists.folder / "missing.txt").touch()
    (trained.folder / "checkpoint-799.pth").touch()
    assert lists.is_done() and not trained.is_done()
    record(tested.folder)
    assert not tested.is_done()
    record(tested.folder, "miou_overclustering_precision")
    assert tested.is_done()
    assert reproduce.still_needed(list(jobs.values()), {lists.name, tested.name}) == set()
    assert reproduce.still_needed(list(jobs.values()), {lists.name}) == {trained.name, tested.name}

    changed, _ = planned(*words, "--set", "pretrain.seed=3", out=tmp_path)
    with pytest.raises(ConfigError, match="another --output_dir"):  # of which slurm has one in its queue
        changed[names[1]].refuse_another()
    for name in names[1:]:
        with pytest.raises(
            ConfigError, match=r"as it is; now .* --seed 3\): choose another --output_dir|remove the fol"
        ):
            changed[name].is_done()
    measured = reproduce.measured(tmp_path)[0]["segmentation"]
    assert {row.method: row.cells["clustering DAVIS"].measured for row in measured if row.method == "SIGMA-MLP"} == {
        "SIGMA-MLP": 30.0
    }


def test_two_results_of_one_cell_and_missing_data_are_told_before_work(tmp_path):
    words = ["segmentation", *SMALL, "--column", "clustering DAVIS", "--output_dir", tmp_path]
    wanted = r"missing /data/DAVIS with JPEGImages, Annotations.*; /data/k400 with annotations/"
    with pytest.raises(ConfigError, match=wanted):
        reproduce.main(given(*words), RECIPES)
    row = {"method": "SIGMA-MLP", "backbone": "ViT-B"}
    for name in ("a", "b"):
        record(tmp_path / "results" / name)
        (tmp_path / "results" / name / "row.json").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match="clustering DAVIS: two results of one cell"):
        reproduce.main(given(*words), RECIPES)


def lists_job(folder, name, *, after=(), fails=False):
    """A job that writes three lists, or ends with an error."""
    code = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir(exist_ok=True, parents=True)\n"
    code += (
        "raise SystemExit('error: no space')"
        if fails
        else "[(p / f'{n}.csv').touch() for n in ('train', 'val', 'test')]"
    )
    code += "; (p / 'missing.txt').touch()"
    command = (sys.executable, "-I", "-c", code, str(folder / name))
    return Job(name=name, folder=folder / name, command=command, after=tuple(after))


def test_a_job_that_fails_stops_those_that_need_it_and_no_others(tmp_path, capsys):
    jobs = [lists_job(tmp_path, "a", fails=True), lists_job(tmp_path, "b", after=["a"]), lists_job(tmp_path, "c")]
    assert [job.name for job in run_local(jobs, tmp_path / "logs")] == ["a", "b"]
    printed = capsys.readouterr().out
    assert "a: failed with exit code 1: error: no space" in printed and "b: left out, it needs a" in printed
    assert [job.is_done() for job in jobs] == [False, False, True]
    assert not run_local([lists_job(tmp_path, "a"), jobs[1]], tmp_path / "logs")


def test_a_job_that_failed_without_outputs_may_be_made_with_other_flags(tmp_path):
    (tmp_path / "a").mkdir()
    failing = replace(lists_job(tmp_path, "a", fails=True), identity={"set": ["--epochs", "x"]})
    other = replace(lists_job(tmp_path, "a"), identity={"set": ["--epochs", "3"]})
    assert run_local([failing], tmp_path / "logs") == [failing]
    assert not other.is_done() and not run_local([other], tmp_path / "logs")
    assert other.is_done() and json.loads((tmp_path / "a" / "job.json").read_text()) == other.identity
    with pytest.raises(ConfigError, match="another command"):
        failing.is_done()


@pytest.mark.slow
def test_the_command_ends_with_what_is_missing(tmp_path, capsys):
    """Annotations that are no lists: no job of the row can run, and the table is there without it."""
    for name in ("k400/annotations", "k400/videos", "DAVIS"):
        (tmp_path / name).mkdir(parents=True)
    words = ["segmentation", *SMALL, "--column", "clustering DAVIS", "--output_dir", tmp_path / "out"]
    args = reproduce.parser(RECIPES).parse_args([*map(str, words), "--data_root", str(tmp_path)])
    assert reproduce.main(args, RECIPES) == 1
    printed = capsys.readouterr()
    assert "failed with exit code 2: error: " in printed.out
    missing = [line for line in printed.err.splitlines() if line.startswith("missing: ")]
    assert len(missing) == 3 and missing[0].startswith("missing: prepare-k400, log ")
    assert printed.err.splitlines()[-1].startswith("error: 3 of 3 jobs failed: the same command goes on")
    assert (tmp_path / "out" / "segmentation.md").is_file()


def test_a_signal_goes_to_the_job_which_ends_as_it_wants(tmp_path):
    """Both have ended then, and the job did what it does on TERM."""
    code = """if True:
        import os, pathlib, signal, sys, time
        def save(*_):
            time.sleep(0.2)
            pathlib.Path(sys.argv[1], 'saved').touch()
            raise SystemExit(75)
        signal.signal(signal.SIGTERM, save)
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
    """
    command = (sys.executable, "-I", "-c", code, str(tmp_path / "a"))

    def hangs(*_):
        raise AssertionError("it waits for what cannot end")

    of_term, before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGALRM, hangs)
    signal.alarm(20)
    try:
        with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            run_local([Job(name="a", folder=tmp_path / "a", command=command)], tmp_path / "logs")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "a" / "saved").is_file()
    assert signal.getsignal(signal.SIGTERM) == of_term


def test_two_commands_do_not_run_in_one_folder(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    with pytest.raises(ConfigError, match="writes into this folder"), reproduce.locked(tmp_path):
        pytest.fail("both hold it")
    lock.release()


# ------------------------------------------------------------------------------------------------ end to end

TINY = {  # flags that make every job short
    "pretrain.model": "pretrain_videomae_mini_patch8_32",
    "pretrain.epochs": 1,
    "pretrain.decoder_depth": 1,
    "pretrain.batch_size": 2,
    "input_size": 32,
    "num_frames": 4,
    "warmup_epochs": 0,
    "update_freq": 1,
    "num_prototypes": 12,
    "projection_dims": 32,
    "num_workers": 0,
}
MODEL = "vit_mini_patch8_32"
TRAINED = {"finetune.model": MODEL, "epochs": 1, "short_side_size": 32, "init_scale": 1}
TRAINED |= {
    f"{kind}.{flag}": value for kind in ("finetune", "eval") for flag, value in (("batch_size", 2), ("num_sample", 1))
}
PROBES = [f"linear_{name}_vit_b" for name in ("k400", "hmdb51", "ucf101", "in1k", "cifar100")]
OWN = {  # of a table: some replicas have two classes, and the features of images are of the model that the weights name
    "finetuning": {"eval.model": MODEL, "k400_vit_b.nb_classes": 2, "k400_7x3_vit_b.nb_classes": 2},
    "linear": {f"{recipe}.model": MODEL for recipe in PROBES[:3]}
    | {f"{recipe}.nb_classes": 2 for recipe in PROBES if "ucf101" not in recipe}
    | {"any_length": None},
    "severe": {"eval.model": MODEL},
}


def tiny_words(table, data, out, *more, **flags):
    words = [table, *SMALL, "--data_root", data, "--output_dir", out, *more]
    words += ["--device", "cpu", "--gpus", 1, "--batch_size", 2]
    for flag, value in {**TINY, **flags}.items():
        words += ["--set", flag if value is None else f"{flag}={value}"]
    return words


def runs_twice(words, number, capsys):
    """The table as it is printed the second time, when nothing runs."""
    for expected in ("to do", "done"):
        args = reproduce.parser(RECIPES).parse_args([str(word) for word in words])
        assert reproduce.main(args, RECIPES) == 0, capsys.readouterr().out
        printed = capsys.readouterr().out
        jobs = [line.split("  ")[1] for line in printed.splitlines() if line.startswith(("  to do  ", "  done  "))]
        assert len(jobs) == number and jobs.count(expected) >= number - 2  # lists that are put there are done before
        assert ("nothing to do" in printed) is (expected == "done")
    return printed


def replica(folder):
    replicas.kinetics(folder / "k400")
    masked_videos.davis(folder / "DAVIS", names=("bear", "dog"), frames=6)
    return folder


@pytest.mark.long
def test_a_row_of_replicas_twice(tmp_path, capsys):
    """From raw videos to the table; the second time nothing runs. What was changed is marked in the table."""
    words = tiny_words("segmentation", replica(tmp_path / "data"), tmp_path / "out", "--column", "overclustering DAVIS")
    printed = runs_twice(words, 3, capsys)
    row = next(line for line in printed.splitlines() if line.startswith("| SIGMA-MLP | ViT-B"))
    values = json.loads(next((tmp_path / "out/results").rglob("*miou_overclustering_precision.json")).read_text())
    assert f"52.9; {values['value']:.1f} [2]" in row and row.count("[") == 2
    assert "pretrain/k400_sigma_mlp_vit_b with --model pretrain_videomae_mini_patch8_32" in printed
    assert (tmp_path / "out/segmentation.md").read_text() in printed


def all_replicas(folder, out):
    """The data of Benchmarks I and III, and lists of the few samples, which are drawn from published lists alone."""
    for name in ("kinetics", "hmdb51", "imagenet", "cifar100"):
        getattr(replicas, name)(folder / {"kinetics": "k400"}.get(name, name))
    replicas_severe.something_something(folder / "ssv2")
    lists = {"ucf101": replicas_severe.ucf101(folder / "ucf101")}
    lists["gym"] = replicas_severe.gym(folder / "gym99", (0, *range(6, 17), *range(74, 89), 98))
    replicas_severe.charades(folder / "charades")
    replicas_severe.ucfrep(folder / "ucfrep")
    for form, name in (("ucf101", "ucf101-1000"), ("gym", "gym99-1000")):
        found, videos = map(str, lists[form])
        prepare.main(["--from", form, found, "--videos", videos, "--out", str(out / "lists" / name)])
    return folder


@pytest.mark.long
@pytest.mark.parametrize(("table", "number"), [("finetuning", 8), ("linear", 11), ("severe", 17)])
def test_a_row_of_every_column_of_replicas_twice(table, number, tmp_path, capsys):
    """SIGMA-MLP with ViT-B: every cell that is printed for it gets a value."""
    out = tmp_path / "out"
    words = tiny_words(table, all_replicas(tmp_path / "data", out), out, **TRAINED, **OWN[table])
    printed = runs_twice(words, number, capsys)
    own = [row for row in reproduce.measured(out)[0][table] if (row.method, row.backbone) == ("SIGMA-MLP", "ViT-B")]
    values = {(row.pretrained_on, name): c.measured for row in own for name, c in row.cells.items() if c.published}
    assert values and None not in values.values()
    assert (out / f"{table}.md").read_text() in printed
