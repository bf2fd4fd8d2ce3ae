"""What a command line says is what happens, or is said: sizes, options without effect, misspelt names, the help."""

import argparse
import re

import pytest
from processes import FINETUNE, PRETRAIN

from datasets.errors import AnnotationError
from engine.config import RunFacts
from engine.flags import build_parser, parse
from engine.record import describe_start
from models import ModelError
from models.methods import describe_method, method_name
from run_class_finetuning import FinetuningConfig
from run_sigma_pretraining import PretrainingConfig
from sigma_video.options import OptionError

CONFIGS = {PRETRAIN: PretrainingConfig, FINETUNE: FinetuningConfig}


def pretraining(words=""):
    return parse(PretrainingConfig, ["--data_path", "list", *words.split()])


def finetuning(words=""):
    return parse(FinetuningConfig, ["--data_path", "lists", *words.split()])


def last_line(capsys, cls, words):
    with pytest.raises(SystemExit) as end:
        parse(cls, words if isinstance(words, list) else words.split())
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


# ---------------------------------------------------------------------------------------------- the size in the name


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("", 224),
        ("--model pretrain_videomae_mini_patch16_112", 112),
        ("--model pretrain_videomae_mini_patch8_32 --input_size 32", 32),
        ("--model pretrain_sigma_base_patch16_320", 320),
    ],
)
def test_the_name_says_the_size(words, size):
    config = pretraining(words)
    assert config.clip.input_size == config.encoder.img_size == size


def test_the_short_side_of_a_test_holds_the_crop():
    assert finetuning("--model vit_base_patch16_320").views.short_side_size == 320
    assert finetuning("--model vit_mini_patch8_32").views.short_side_size == 224
    assert finetuning("--model vit_mini_patch8_32 --short_side_size 40").views.short_side_size == 40
    with pytest.raises(OptionError, match="--short_side_size 224 is smaller than --input_size 320"):
        finetuning("--model vit_base_patch16_320 --short_side_size 224")


@pytest.mark.parametrize("parsed", [pretraining, finetuning])
def test_a_size_that_contradicts_the_name_is_refused(parsed):
    kind = "vit" if parsed is finetuning else "pretrain_videomae"
    with pytest.raises(OptionError, match=f"--input_size says 32: .* --model {kind}_base_patch16_32$"):
        parsed(f"--model {kind}_base_patch16_224 --input_size 32")


# ---------------------------------------------------------------------------------------------- what is about to happen


@pytest.mark.parametrize(
    ("words", "name", "targets"),
    [
        ("", "SIGMA-MLP", "standardised pixels through a projection MLP, trained jointly"),
        ("--freeze_projection_epochs 9", "SIGMA-MLP", "projection MLP, trained jointly from epoch 9 on"),
        ("--freeze_projection_epochs 800", "SIGMA-MLP, projection frozen", "projection MLP, frozen in all epochs"),
        ("--loss_func L2 --freeze_projection_epochs 900", "regression onto a frozen projection", "in all epochs"),
        ("--mlp_preloading x.pth", "SIGMA-MLP, projection frozen", "taken from x.pth and frozen"),
        ("--target_type dino_v1", "SIGMA-DINO", "features of a frozen DINO (dino_b)"),
        ("--target_type dino_v1 --freeze_projection_epochs 800", "SIGMA-DINO", "features of a frozen DINO (dino_b)"),
        ("--target_type dino_v2 --distillation_teacher dino_l", "SIGMA with DINOv2", "frozen DINOv2 (dino_l)"),
        ("--target_type dino_v1 --teacher_weights w.pth", "SIGMA-DINO", "weights of w.pth"),
        ("--target_type pixel", "VideoMAE", "pixels, standardised per tubelet"),
        ("--target_type pixel --normalize_target False", "regression onto raw pixels", "raw pixels"),
        ("--target_type dino_v1 --loss_func L2", "regression onto DINO (dino_b)", "frozen DINO"),
        ("--loss_func L2", "regression onto a trained projection, which collapses", "projection MLP"),
        ("--loss_func L2 --mlp_preloading x.pth", "regression onto a frozen projection", "frozen"),
    ],
)
def test_the_plan_names_method_and_targets(words, name, targets):
    config = pretraining(words)
    epochs = config.optim.epochs
    assert method_name(config.targets, config.objective, epochs=epochs) == name
    plan = describe_method(config.targets, config.objective, epochs=epochs)
    assert plan["method"].startswith(f"{name} (") and targets in plan["targets"]
    assert ("--target_type pixel trains VideoMAE" in plan["method"]) == (config.targets.target_type == "mlp")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "fine-tuning: all weights are trained"),
        ("--linear_probing --finetune w.pth", "linear probe: fc_norm and head are trained, the encoder is frozen"),
        ("--eval", "test only: nothing is trained"),
        ("--eval --linear_probing", "test only: nothing is trained"),
    ],
)
def test_the_plan_names_the_task(words, said):
    assert finetuning(words).task.describe() == said


def test_the_plan_names_the_weights(tmp_path):
    assert describe_start(pretraining("--seed 3"), None, 0) == "random: from scratch (--seed 3)"
    assert describe_start(pretraining("--finetune w.pth"), None, 0) == "of w.pth"
    resumed = describe_start(pretraining("--finetune w.pth"), tmp_path / "checkpoint-3.pth", 12)
    assert resumed == f"resumed from {tmp_path / 'checkpoint-3.pth'} after 12 steps; w.pth is not used"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "crops of at least 25% of the frame (as SIGMA; VideoMAE takes 8%: --finetuning_crops False)"),
        ("--finetuning_crops False", "crops of at least 8% of the frame (as VideoMAE)"),
        ("--min_crop_area 0.5", "crops of at least 50% of the frame,"),
        ("--aa none", "no RandAugment"),
        ("--reprob 0", "no random erasing"),
    ],
)
def test_the_plan_names_the_crops(words, said):
    assert said in finetuning(words).augmentation.describe()


def test_runs_show_their_plan(pretrained, finetuned):
    rows = (pretrained / "console.txt").read_text().partition(" plan\n")[2].splitlines()[:4]
    assert [row.split()[0] for row in rows] == ["task", "method", "targets", "weights"]
    assert "pre-training" in rows[0] and "SIGMA-MLP" in rows[1] and "12 prototypes" in rows[1]
    assert rows[3].endswith("random: from scratch (--seed 0)")
    rows = (finetuned / "console.txt").read_text().partition(" plan\n")[2].splitlines()[:4]
    assert [row.split()[0] for row in rows] == ["task", "targets", "clips", "weights"]
    assert "fine-tuning" in rows[0] and "3 classes, labels smoothed by 0.1, mixed by Mixup 0.8" in rows[1]
    assert "at least 25% of the frame" in rows[2]


# ---------------------------------------------------------------------------------------------- said, or refused


def test_a_probe_of_random_weights_is_refused():
    with pytest.raises(OptionError, match=r"--linear_probing .* random: give --finetune PATH, or --random_encoder"):
        finetuning("--linear_probing")
    assert finetuning("--linear_probing --resume c.pth").task.linear_probing
    assert "encoder is random" in finetuning("--linear_probing --random_encoder").task.describe()
    with pytest.raises(OptionError, match=r"--random_encoder .* w.pth: leave one of them out"):
        finetuning("--linear_probing --random_encoder --finetune w.pth")


@pytest.mark.parametrize(
    ("parsed", "words", "said"),
    [
        (pretraining, "--resume c.pth --finetune w.pth", "--resume c.pth .* --finetune w.pth are not used"),
        (pretraining, "--min_lr 1", "--min_lr 1 is above --lr 0.00015: after the warm-up the rate rises"),
        (pretraining, "--lr 1e-6", "--min_lr 1e-05 is above --lr 1e-06"),
        (pretraining, "--warmup_lr 1", "--warmup_lr 1 is above --lr 0.00015"),
        (pretraining, "--target_type pixel --num_prototypes 3000", "--num_prototypes: .* VideoMAE has no prototypes"),
        (
            pretraining,
            "--target_type dino_v1 --loss_func L2 --sinkhorn_eps 0.1 --sinkhorn_iterations 3",
            "--sinkhorn_eps, --sinkhorn_iterations: without effect",
        ),
        (pretraining, "--target_type pixel --projection_dims 8", "--projection_dims: .* no projection network"),
        (pretraining, "--center_teacher", "--center_teacher: .* --target_type mlp has no frozen teacher"),
        (pretraining, "--normalize_target False", "--normalize_target: .* False is for --target_type pixel"),
        (pretraining, "--momentum 0.5", "--momentum: .* --opt adamw has none"),
        (pretraining, "--opt sgd --opt_betas 0.9 0.95", "--opt_betas: .* --opt sgd has none"),
        (pretraining, "--warmup_steps 10 --warmup_epochs 2", "--warmup_epochs: .* --warmup_steps 10 replaces it"),
        (pretraining, "--run_name x", "--run_name: .* no --log_dir"),
        (pretraining, "--save_ckpt_freq 5", "--save_ckpt_freq: .* no --output_dir"),
        (pretraining, "--nonfinite_limit 5", "--nonfinite_limit: .* --on_nonfinite stop"),
        (pretraining, "--pretrained_clip 16 224", "--pretrained_clip: .* no --finetune"),
        (finetuning, "--model_ema_decay 0.9", "--model_ema_decay: .* no --model_ema"),
        (finetuning, "--linear_probing --finetune w --layer_decay 0.5", "--layer_decay: .* only fc_norm and head"),
        (finetuning, "--random_encoder", "--random_encoder: .* no --linear_probing"),
        (finetuning, "--mixup 0 --cutmix 0 --mixup_mode elem", "--mixup_mode: .* mixing is off"),
        (finetuning, "--mixup_prob 0 --mixup 0.5", "--mixup: .* --mixup_prob 0 mixes nothing"),
        (finetuning, "--mixup 0 --mixup_switch_prob 0.1", "--mixup_switch_prob: .* one of them is off"),
        (finetuning, "--reprob 0 --recount 3", "--recount: .* --reprob 0 erases nothing"),
        (finetuning, "--aa none --train_interpolation bilinear", "--train_interpolation: .* --aa none"),
        (finetuning, "--min_crop_area 0.5 --finetuning_crops True", "--finetuning_crops: .* --min_crop_area replaces"),
        (finetuning, "--data_set SSV2 --sampling_rate 4", "--sampling_rate: .* uniform sampling"),
    ],
)
def test_what_has_no_effect_is_said(parsed, words, said):
    (note,) = [note for note in parsed(words).notes if re.search(said, note)]
    assert "\n" not in note


@pytest.mark.parametrize("cls", CONFIGS.values())
def test_nothing_is_said_of_what_was_not_given(cls):
    config = parse(cls, ["--data_path", "x", "--output_dir", "y"])
    assert config.notes == ()
    assert not {"notes", "essential", "released"} & RunFacts().beside(config).keys()


def test_a_training_command_that_tests_its_result_is_not_commented_on():
    assert finetuning("--eval --lr 1e-9 --mixup 0 --cutmix 0 --mixup_mode elem").notes == ()


# ---------------------------------------------------------------------------------------------- misspelt


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--batchsize 4", "unknown flag --batchsize. Did you mean --batch_size?"),
        ("--batch-size=4", "unknown flag --batch-size. Did you mean --batch_size?"),
        ("--datapath x", "unknown flag --datapath. Did you mean --data_path"),  # not: --data_path is required
        ("-lr 1", "unknown flag -lr. Did you mean --lr?"),
        ("--learning_rate 1", "unknown flag --learning_rate."),
        ("--xyzzy", "unknown flag --xyzzy. --help lists all flags."),
        ("\u2014lr 1", "type --lr"),
        (
            "--data_path x --mask_type tubes",
            "'tubes': choose from tube, random, motion, motion_vectors. Did you mean tube",
        ),
        ("--data_path x --list_format kinetcs", "Did you mean kinetics?"),
        ("--data_path x --list_format SSV2", "Did you mean ssv2?"),
        ("--data_path x --target_type dino", "Did you mean dino_v"),
        ("--data_path x --use_checkpoint True", "--use_checkpoint takes no value: leave out 'True'"),
        ("--data_path x y", "'y' belongs to no flag"),
        ("--data_path x --epochs ten", "argument --epochs: invalid int value: 'ten'"),
        ("", "the following arguments are required: --data_path"),
    ],
)
def test_misspelt_words_get_the_right_one(capsys, words, said):
    assert said in last_line(capsys, PretrainingConfig, words)


def test_a_blank_behind_a_backslash(capsys):
    assert "behind the backslash" in last_line(capsys, PretrainingConfig, ["--data_path", "x", " "])


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ("--data_set Kinetcs", AnnotationError, "Did you mean Kinetics-400?"),
        ("--data_set ssv2", AnnotationError, "Did you mean SSV2?"),
        ("--data_set K400", AnnotationError, "Did you mean Kinetics-400?"),
        ("--data_set nonsense", AnnotationError, "unknown. Choose from Kinetics-400, SSV2"),
        ("--model pretrain_videomae_base_patch16_224", ModelError, "is for pre-training: classifiers are called vit_"),
        ("--model vit_base_patch16_100", OptionError, "--input_size 100 is not a multiple of patch_size 16"),
        ("--model vit_bas_patch16_224", ModelError, "Did you mean vit_base_patch16_224"),
        ("--model vit-base-patch16-224", ModelError, "Did you mean vit_base_patch16_224?"),
    ],
)
def test_misspelt_names_get_the_right_one(words, error, said):
    with pytest.raises(error, match=re.escape(said)):
        finetuning(words)


# ---------------------------------------------------------------------------------------------- flags of others


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (PretrainingConfig, "--color_jitter 0.4 --train_interpolation bicubic --imagenet_default_mean_and_std"),
        (PretrainingConfig, "--start_epoch 0 --world_size 8 --dist_url env:// --gray_scale_prob 0.0 --memory_size 0"),
        (PretrainingConfig, "--kwindow 1 --gray_scale_prob 0"),
        (FinetuningConfig, "--color_jitter 0.4 --crop_pct 0.9 --resplit --num_segments 1 --save_ckpt --examples 0"),
        (FinetuningConfig, "--imagenet_default_mean_and_std --start_epoch 0 --world_size 8 --dist_url env://"),
    ],
)
def test_released_flags_change_nothing(cls, words):
    needed = ["--data_path", "x", "--output_dir", "y"]
    assert parse(cls, [*needed, *words.split()]) == parse(cls, needed)


@pytest.mark.parametrize(
    ("cls", "words", "said"),
    [
        (PretrainingConfig, "--start_epoch 5", "--start_epoch 5: the epoch is part of a checkpoint: use --resume"),
        (PretrainingConfig, "--dist_url tcp://a:1", "set MASTER_ADDR and MASTER_PORT"),
        (PretrainingConfig, "--dist_on_itp", "start with torchrun or srun"),
        (PretrainingConfig, "--gray_scale_prob 0.2", "not in the paper"),
        (PretrainingConfig, "--kwindow 3", "not in the paper"),
        (PretrainingConfig, "--memory_size 100", "not in the paper"),
        (FinetuningConfig, "--num_segments 2", "--num_frames"),
        (FinetuningConfig, "--no_save_ckpt", "leave out --output_dir"),
        (FinetuningConfig, "--model_prefix encoder.", "leave it out"),
        (FinetuningConfig, "--examples 1000", "prepare.py --subset"),
    ],
)
def test_released_flags_that_would_change_something_are_refused(capsys, cls, words, said):
    assert said in last_line(capsys, cls, f"--data_path x {words}")


# ---------------------------------------------------------------------------------------------- the help


@pytest.mark.parametrize("cls", CONFIGS.values())
def test_every_flag_has_a_sentence_and_its_default(cls):
    parser = build_parser(cls)
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or action.dest == "help":
            continue
        assert len(re.sub(r"\(default.*", "", action.help).split()) >= 3, action.option_strings
        if "opposite of" not in action.help:
            assert re.search(r"default|\(required\)", action.help), action.option_strings


@pytest.mark.parametrize(
    ("cls", "first"),
    [
        (
            PretrainingConfig,
            "data_path output_dir model finetune target_type mask_ratio batch_size epochs lr num_workers",
        ),
        (FinetuningConfig, "data_path data_set output_dir model finetune eval batch_size epochs lr num_workers"),
    ],
)
def test_the_help_begins_with_the_ten_that_matter(cls, first):
    lines = build_parser(cls).format_help().splitlines()
    assert lines[0].startswith("usage: ") and lines[1] == ""  # the usage is one line
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    assert flags[:10] == [f"--{name}" for name in first.split()]
