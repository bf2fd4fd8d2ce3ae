"""Frozen image teachers: against a ViT written out in float64, from files in every layout that is about."""

import math
import time
import urllib.request

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from models import ModelError
from models.targets import TEACHERS
from models.teachers import ImageTeacher, build_teacher, find_teacher, load_teacher, teacher_dim

V1, V2 = ("dino_v1", "dino_s"), ("dino_v2", "dino_s")
SIZE = {V1: 32, V2: 56}
PATCH = {V1: 16, V2: 14}
TUBELET = (2, 8, 8)
NUM_REGISTERS, WIDTH, DEPTH, HEADS = 4, 384, 12, 6


# ---- Files in the official layouts, by the names and shapes that facebookresearch/dino and dinov2 wrote them with.


def official_file(pair, *, width=WIDTH, depth=DEPTH, patch=None, registers=NUM_REGISTERS):
    """Random tensors under the names of `dino_deitsmall16_pretrain.pth` or `dinov2_vits14_reg4_pretrain.pth`."""
    v2 = pair[0] == "dino_v2"
    patch = patch or PATCH[pair]
    side = 518 // patch if v2 else 224 // patch
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + side**2, width)}
    if v2:
        shapes |= {"mask_token": (1, width)}
        if registers:
            shapes |= {"register_tokens": (1, registers, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        layer = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }
        if v2:
            layer |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in layer.items()}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    generator = torch.Generator().manual_seed(7)
    return {name: values(name, shape, generator) for name, shape in shapes.items()}


def values(name, shape, generator):
    """Of a size at which every tensor has its say in the result."""
    noise = torch.randn(shape, generator=generator)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.2 * noise
    if "gamma" in name:
        return 0.5 + 0.2 * noise
    return noise * (0.5 if "token" in name or name == "pos_embed" else 0.2 if name.endswith("bias") else 0.05)


def full_checkpoint(backbone, *, wrapper):
    """What DINO's training script saves: student, teacher, optimizer, with heads."""
    head = {"head.mlp.0.weight": torch.ones(8, WIDTH), "head.last_layer.weight_g": torch.ones(5, 1)}
    student = {f"module.backbone.{name}": torch.zeros_like(value) for name, value in backbone.items()}
    teacher = {f"{wrapper}backbone.{name}": value for name, value in backbone.items()}
    teacher |= {f"{wrapper}{name}": value for name, value in head.items()}
    return {"student": student, "teacher": teacher, "optimizer": {"state": {}}, "epoch": 800}


def timm_registers(file):
    """timm's layout of a DINOv2: registers renamed, the class token's position added to it, no mask token."""
    file = {name: value for name, value in file.items() if name != "mask_token"}
    file["reg_token"] = file.pop("register_tokens")
    file["cls_token"] = file["cls_token"] + file["pos_embed"][:, :1]
    file["pos_embed"] = file["pos_embed"][:, 1:]
    return file


# ---- The reference: a ViT in float64 from the papers' formulas, which reads the official layout itself.


def cubic_weights(old, new):
    """(new, old) bicubic resampling, a = -1/2, the kernel widened to the step where the grid shrinks."""
    step = old / new
    stretch = max(step, 1.0)
    distance = np.abs(np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * step) / stretch
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def linear_weights(old, new):
    """(new, old) bilinear interpolation between pixel centres, clamped at the border."""
    weights = np.zeros((new, old))
    for i in range(new):
        place = min(max((i + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        low = min(int(place), old - 1)
        weights[i, low] += 1 - (place - low)
        weights[i, min(low + 1, old - 1)] += place - low
    return weights


def resampled(places, weights):
    """(y * x, F) on a square grid -> (h * w, F)."""
    side = math.isqrt(len(places))
    grid = places.reshape(side, side, -1)
    return np.einsum("hy,wx,yxf->hwf", weights, weights, grid).reshape(-1, grid.shape[-1])


def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weight + bias


def reference_frame(p, frame):
    """Patch tokens of one frame (3, H, W) after the final norm: (y * x, F)."""
    kernel = p["patch_embed.proj.weight"]
    size = kernel.shape[-1]
    side = frame.shape[-1] // size
    patches = [
        frame[:, y * size : (y + 1) * size, x * size : (x + 1) * size].ravel() for y in range(side) for x in range(side)
    ]
    table = p["pos_embed"][0]
    old = math.isqrt(len(table) - 1)
    places = table[1:] if old == side else resampled(table[1:], cubic_weights(old, side))
    image = np.stack(patches) @ kernel.reshape(len(kernel), -1).T + p["patch_embed.proj.bias"] + places
    first = [p["cls_token"][0] + table[:1], *([p["register_tokens"][0]] if "register_tokens" in p else [])]
    x = np.concatenate([*first, image])
    num_first = len(x) - len(image)
    for i in range(DEPTH):
        b = {name.removeprefix(f"blocks.{i}."): v for name, v in p.items() if name.startswith(f"blocks.{i}.")}
        normed = layer_norm(x, b["norm1.weight"], b["norm1.bias"])
        qkv = (normed @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]).reshape(len(x), 3, HEADS, -1)
        q, k, v = qkv.transpose(1, 2, 0, 3)
        scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
        attended = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(x), -1)
        x = x + b.get("ls1.gamma", 1.0) * (attended @ b["attn.proj.weight"].T + b["attn.proj.bias"])
        hidden = layer_norm(x, b["norm2.weight"], b["norm2.bias"]) @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        hidden = hidden * (1 + torch.erf(torch.from_numpy(hidden) / math.sqrt(2)).numpy()) / 2
        x = x + b.get("ls2.gamma", 1.0) * (hidden @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"])
    return layer_norm(x, p["norm.weight"], p["norm.bias"])[num_first:]


def reference(file, clip, mask, *, side, tubelet=TUBELET):
    """(B, M, F) standardised features of the masked tokens."""
    p = {name: value.double().numpy() for name, value in file.items()}
    out = []
    for frames, masked in zip(clip.double().numpy(), mask.numpy(), strict=True):
        tokens = [reference_frame(p, frames[:, t]) for t in range(0, frames.shape[1], tubelet[0])]
        own = math.isqrt(len(tokens[0]))
        if own != side:
            tokens = [resampled(x, linear_weights(own, side)) for x in tokens]
        all_tokens = np.concatenate(tokens)
        mean, std = all_tokens.mean(0), np.sqrt(all_tokens.var(0, ddof=1)) + 1e-6
        out.append(((all_tokens - mean) / std)[masked])
    return np.stack(out)


# ---- Fixtures


@pytest.fixture(scope="module")
def files():
    return {pair: official_file(pair) for pair in (V1, V2)}


def make(pair, weights, *, dtype=torch.float32, tubelet=TUBELET, num_frames=4, size=None):
    size = size or SIZE[pair]
    grid = (num_frames // tubelet[0], size // tubelet[1], size // tubelet[2])
    return build_teacher(*pair, img_size=size, tubelet=tubelet, grid=grid, dtype=dtype, weights=weights)


def inputs(pair, *, side=None, batch=2):
    generator = torch.Generator().manual_seed(3)
    size = SIZE[pair]
    clip = torch.randn(batch, 3, 4, size, size, generator=generator)
    num_tokens = 2 * (side or size // TUBELET[1]) ** 2
    mask = torch.stack([torch.randperm(num_tokens, generator=generator) < num_tokens * 3 // 4 for _ in range(batch)])
    return clip, mask


@pytest.fixture(scope="module")
def teachers(files):
    return {pair: make(pair, files[pair]) for pair in (V1, V2)}


@pytest.fixture(scope="module")
def networks():
    """For loads that fail."""
    return {
        pair: timm.create_model(find_teacher(*pair).architecture, img_size=SIZE[pair], num_classes=0)
        for pair in (V1, V2)
    }


@pytest.fixture(params=[V1, V2], ids=lambda pair: pair[0])
def pair(request):
    return request.param


# ---- Features


def test_features_equal_the_reference(pair, files, teachers):
    """Position tables of 224 and of 518 pixels resampled, features resized from 2x2 to 4x4 and from 4x4 to 7x7."""
    clip, mask = inputs(pair)
    features = teachers[pair](clip, mask)
    assert features.dtype == torch.float32
    expected = reference(files[pair], clip, mask, side=SIZE[pair] // 8)
    np.testing.assert_allclose(features, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("patch", [28, 14], ids=["smaller grid", "same grid"])
def test_other_student_grids(patch, files, teachers):
    """4x4 features of the teacher on a student's grid of 2x2, and on one of 4x4, where nothing is resized."""
    side = SIZE[V2] // patch
    teacher = ImageTeacher(teachers[V2].network, tubelet=(2, patch, patch), grid=(2, side, side))
    clip, mask = inputs(V2, side=side, batch=1)
    expected = reference(files[V2], clip, mask, side=side, tubelet=(2, patch, patch))
    np.testing.assert_allclose(teacher(clip, mask), expected, rtol=0, atol=5e-5)


def test_position_table_of_the_right_size_is_left_alone(files):
    """At 224 pixels, DINO as it was trained."""
    teacher = make(V1, files[V1], size=224, tubelet=(2, 16, 16))
    assert torch.equal(teacher.network.pos_embed, files[V1]["pos_embed"])


def test_all_tokens_are_standardised_per_clip_and_channel(pair, teachers):
    features = teachers[pair].features(inputs(pair)[0]).double()
    assert features.shape == (2, 2 * (SIZE[pair] // 8) ** 2, WIDTH)
    torch.testing.assert_close(features.mean(1), torch.zeros(2, WIDTH).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.var(1, unbiased=True), torch.ones(2, WIDTH).double(), rtol=1e-4, atol=0)


def test_masked_tokens_in_order(teachers):
    clip, mask = inputs(V1)
    everything = teachers[V1].features(clip)
    expected = torch.stack([everything[b, mask[b]] for b in range(2)])
    torch.testing.assert_close(teachers[V1](clip, mask), expected, rtol=0, atol=0)


def test_several_masks_of_a_clip(teachers):
    """One after another, and the network sees each clip once."""
    clip, mask = inputs(V1)
    other = mask.flip(1)
    looked_at = []
    embedding = teachers[V1].network.patch_embed
    handle = embedding.register_forward_hook(lambda _, given, __: looked_at.append(len(given[0])))
    together = teachers[V1](clip, torch.stack((mask, other), dim=1).flatten(0, 1))
    handle.remove()
    assert sum(looked_at) == len(clip) * 2  # frames: two of a clip
    expected = torch.stack((teachers[V1](clip, mask), teachers[V1](clip, other)), dim=1).flatten(0, 1)
    torch.testing.assert_close(together, expected, rtol=0, atol=0)


def test_the_first_frame_of_each_tubelet_is_used(teachers):
    clip, mask = inputs(V1)
    before = teachers[V1](clip, mask)
    for frame, used in ((0, True), (1, False), (2, True), (3, False)):
        other = clip.clone()
        other[:, :, frame] += torch.randn(other[:, :, frame].shape, generator=torch.Generator().manual_seed(frame))
        assert torch.equal(teachers[V1](other, mask), before) is not used, frame


def test_clips_do_not_see_each_other(teachers):
    clip, mask = inputs(V2)
    both, alone = teachers[V2](clip, mask), teachers[V2](clip[1:], mask[1:])
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-4)


def test_bfloat16_is_close_to_float32(pair, files, teachers, monkeypatch):
    clip, mask = inputs(pair)
    teacher = make(pair, files[pair], dtype=torch.bfloat16)
    assert {p.dtype for p in teacher.parameters()} == {torch.bfloat16}
    exact = teachers[pair](clip, mask)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)  # on a CPU the slower form
    rough = teacher(clip, mask)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.nn.functional.cosine_similarity(rough, exact, dim=-1).min() > 0.999


def test_float16_is_close_to_float32(pair, files, teachers):
    """For GPUs without units for bfloat16."""
    clip, mask = inputs(pair)
    rough = make(pair, files[pair], dtype=torch.float16)(clip, mask)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, teachers[pair](clip, mask), rtol=0, atol=0.03)


def test_the_patch_embedding_shares_the_weights_of_the_convolution(pair, files, teachers):
    clip, _ = inputs(pair)
    teacher = teachers[pair]
    assert list(teacher.network.state_dict()) == list(
        timm.create_model(find_teacher(*pair).architecture, img_size=SIZE[pair], num_classes=0).state_dict()
    )
    frames = clip[:, :, ::2].transpose(1, 2).flatten(0, 1)
    kernel, bias = (files[pair][f"patch_embed.proj.{name}"] for name in ("weight", "bias"))
    expected = torch.nn.functional.conv2d(frames, kernel, bias, stride=PATCH[pair]).flatten(2).transpose(1, 2)
    embedded = teacher.network.patch_embed(teacher._patches(clip, torch.float32))
    torch.testing.assert_close(embedded, expected, rtol=1e-5, atol=1e-5)


def test_autocast_changes_nothing(teachers):
    clip, mask = inputs(V1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = teachers[V1](clip, mask)
    assert torch.equal(inside, teachers[V1](clip, mask))


def test_frozen_and_always_in_inference_mode(teachers):
    teacher = teachers[V2]
    assert teacher.train() is teacher
    outer = torch.nn.ModuleList([teacher]).train()
    assert outer.training
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    clip, mask = inputs(V2)
    features = teacher(clip.requires_grad_(), mask)
    assert not features.requires_grad
    weight = torch.ones(WIDTH, requires_grad=True)
    (features * weight).sum().backward()  # a loss may save the features for its backward pass
    torch.testing.assert_close(weight.grad, features.sum((0, 1)))


def test_clip_or_mask_of_another_size(teachers):
    clip, mask = inputs(V1)
    with pytest.raises(ValueError, match="32 tokens a clip, got 4 frames and a mask of 16"):
        teachers[V1](clip, mask[:, ::2])
    with pytest.raises(ValueError, match="4 frames and 32 tokens a clip, got 2 frames"):
        teachers[V1](clip[:, :, :2], mask)


# ---- Layouts


@pytest.mark.parametrize(("pair", "wrapper"), [(V1, ""), (V1, "module."), (V2, "")])
def test_full_checkpoint_gives_the_teacher(pair, wrapper, files, teachers):
    teacher = make(pair, full_checkpoint(files[pair], wrapper=wrapper))
    for name, value in teachers[pair].state_dict().items():
        assert torch.equal(teacher.state_dict()[name], value), name


def test_names_of_a_flat_file_may_be_wrapped(files, teachers):
    flat = {f"teacher.{name}": v for name, v in full_checkpoint(files[V1], wrapper="module.")["teacher"].items()}
    flat |= {f"student.backbone.{name}": torch.zeros_like(value) for name, value in files[V1].items()}
    teacher = make(V1, flat)
    assert all(torch.equal(teacher.state_dict()[name], v) for name, v in teachers[V1].state_dict().items())


def test_timm_layout(files, teachers):
    clip, mask = inputs(V2)
    layout = timm_registers(files[V2])
    before = {name: value.clone() for name, value in layout.items()}
    torch.testing.assert_close(make(V2, layout)(clip, mask), teachers[V2](clip, mask), rtol=0, atol=0)
    assert layout.keys() == before.keys()
    assert all(torch.equal(layout[name], before[name]) for name in before)  # the caller's tensors are left alone
    with_head = {**files[V1], "head.weight": torch.ones(1000, WIDTH), "head.bias": torch.ones(1000)}
    assert torch.equal(make(V1, with_head)(*inputs(V1)), teachers[V1](*inputs(V1)))


# ---- Files that do not fit


def without(file, name):
    return {key: value for key, value in file.items() if key != name}


def test_every_tensor_must_be_in_the_file(pair, files, networks):
    network = networks[pair]
    names = [name for name in files[pair] if name != "mask_token" and ("blocks" not in name or ".11." in name)]
    for name in names:
        with pytest.raises(ModelError, match=r"of the teacher's 1[57]\d tensors fit.*is not in the file"):
            load_teacher(network, without(files[pair], name))
        with pytest.raises(ModelError, match=r"in the file, .* in the network"):
            load_teacher(network, {**files[pair], name: torch.zeros(1, 2, 3)})
    with pytest.raises(ModelError, match=r"blocks\.12\.norm1\.weight is not in the network"):
        load_teacher(network, {**files[pair], "blocks.12.norm1.weight": torch.ones(WIDTH)})


def test_a_failed_load_changes_nothing(files, networks):
    network = networks[V1]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ModelError):
        load_teacher(network, without(files[V1], "norm.bias"))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


WRONG = {
    "ViT-B for dino_s": (
        V1,
        {"width": 768, "depth": 1},
        r"of patch size 16 and width 768, not 16 and 384: .* --target_type dino_v1 --distillation_teacher dino_b$",
    ),
    "8-pixel patches": (
        V1,
        {"patch": 8},
        r"149 of the teacher's 150 .*of patch size 8 and width 384, not 16 and 384$",
    ),
    "ViT-L for dino_s": (V2, {"width": 1024, "depth": 1}, r"--target_type dino_v2 --distillation_teacher dino_l$"),
    "no registers": (V2, {"registers": 0}, r"reg_token is not in the file.*without register tokens: .*_reg4_ in"),
    "8 registers": (V2, {"registers": 8}, r"reg_token: \(1, 8, 384\) in the file, \(1, 4, 384\) in the network"),
    "shallow": (V1, {"depth": 11}, r"138 of the teacher's 150 tensors fit.*blocks\.11\.norm1\.weight is not in the"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(case, networks):
    pair, options, message = WRONG[case]
    with pytest.raises(ModelError, match=message):
        load_teacher(networks[pair], official_file(pair, **options))


def test_files_of_the_other_generation(files, networks):
    with pytest.raises(ModelError, match=r"its options are --target_type dino_v2 --distillation_teacher dino_s$"):
        load_teacher(networks[V1], files[V2])
    with pytest.raises(ModelError, match=r"its options are --target_type dino_v1 --distillation_teacher dino_s$"):
        load_teacher(networks[V2], files[V1])


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"conv1.weight": torch.ones(64, 3, 7, 7)}])
def test_files_of_something_else(content, networks):
    with pytest.raises(ModelError, match=r": 0 of the teacher's 150 tensors fit.*names of an official DINO file"):
        load_teacher(networks[V1], content)


# ---- Names and sizes


def test_table_tells_what_timm_builds():
    for (target_type, name), teacher in TEACHERS.items():
        with torch.device("meta"):
            network = timm.create_model(teacher.architecture, num_classes=0)
        assert teacher_dim(target_type, name) == network.embed_dim == network.norm.weight.shape[0]
        assert network.patch_embed.patch_size == (teacher.patch_size,) * 2
        assert network.num_reg_tokens == (NUM_REGISTERS if target_type == "dino_v2" else 0)
        assert network.pretrained_cfg["url"] == teacher.url


@pytest.mark.parametrize("unknown", [("dino_v1", "dino_l"), ("dino_v2", "dino_g"), ("pixel", "dino_b")])
def test_unknown_teachers(unknown):
    for call in (teacher_dim, lambda *names: make(names, {}, size=224)):
        with pytest.raises(ModelError, match=r"dino_v1 --distillation_teacher dino_b; .* dino_l$") as error:
            call(*unknown)
        assert "no such teacher" in str(error.value)


@pytest.mark.parametrize(
    ("size", "patch", "nearest"),
    [(200, 16, "112 or 224"), (64, 16, "112"), (240, 16, "224 or 336"), (57, 8, "56 or 112")],
)
def test_frame_size_must_suit_the_patches(size, patch, nearest):
    with pytest.raises(ModelError, match=f"--input_size {size} .*patch size 14: .* are {nearest}$"):
        make(V2, {}, size=size, tubelet=(2, patch, patch))


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """An empty torch hub, a proxy that nobody listens to, and Hugging Face's hub offline, with an empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # what the variable sets at the import
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    urllib.request.install_opener(None)  # it remembers the proxies of its first use
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    yield folder
    urllib.request.install_opener(None)
    huggingface_hub.utils.close_session()  # so does this one


def test_no_network(hub_folder):
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"cannot be downloaded from timm's hub .* nor downloaded") as error:
        make(V1, None)
    assert time.monotonic() - start < 20  # tries that wait for one another would take longer, whatever the load
    assert len(str(error.value).splitlines()) == 1
    for words in ("https://dl.fbaipublicfiles.com", "/dino_deitsmall16_pretrain.pth", "--teacher_weights FILE"):
        assert words in str(error.value)
    assert not list(hub_folder.rglob("*.pth"))


@pytest.mark.parametrize("damage", ["cut", "objects"])
def test_damaged_download(hub_folder, damage):
    """In torch's hub folder: a file that a lost connection cut short, and one that would run code when loaded."""
    file = hub_folder / "dino_deitsmall16_pretrain.pth"
    if damage == "cut":
        file.write_bytes(b"PK\x03\x04 cut")
    else:
        torch.save({"cls_token": torch.nn.Linear(1, 1)}, file)
    with pytest.raises(ModelError, match="--teacher_weights FILE") as error:
        make(V1, None)
    assert str(hub_folder) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_file_in_timm_s_cache_is_used(hub_folder, tmp_path, files, teachers):
    """As timm's hub leaves it: a snapshot of the repository, and which one `main` is."""
    repository = tmp_path / "hf" / "models--timm--vit_small_patch16_224.dino"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(files[V1], repository / "snapshots" / "abc" / "model.safetensors")
    assert torch.equal(make(V1, None)(*inputs(V1)), teachers[V1](*inputs(V1)))


def test_numbers_that_are_not_finite(files):
    state = {**files[V1], "norm.bias": files[V1]["norm.bias"] * float("nan")}
    with pytest.raises(ModelError, match=r"norm\.bias holds numbers that are not finite"):
        make(V1, state)


def test_downloaded_file_is_used(hub_folder, files, teachers):
    torch.save(files[V2], hub_folder / "dinov2_vits14_reg4_pretrain.pth")
    assert torch.equal(make(V2, None)(*inputs(V2)), teachers[V2](*inputs(V2)))
