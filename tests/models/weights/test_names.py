"""Layouts of other projects: the same network by other names gives the same tensors, another network is refused."""

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from models import ModelError, create_model
from models.positions import sincos_table
from models.weights.huggingface import to_huggingface
from models.weights.load import load_encoder, load_pretraining, native_state
from models.weights.names import recognize

WIDTH, TOKENS = 128, 32


def filled(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
    return model


def classifier(**changes):
    return filled(create_model("vit_mini_patch8_32", num_frames=4, depth=2, num_classes=3, **changes))


def pretraining():
    options = {"encoder_depth": 2, "decoder_depth": 1, "num_prototypes": 5, "projection_dims": [16]}
    return filled(create_model("pretrain_videomae_mini_patch8_32", num_frames=4, **options))


def renamed(state, *pairs):
    for old, new in pairs:
        state = {name.replace(old, new): value for name, value in state.items()}
    return state


def behind(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def mmaction(state):
    """mmaction2's Recognizer3D: backbone with mmcv's FFN and embedding, its table as a buffer, head apart."""
    state = renamed(
        state, ("mlp.fc1.", "mlp.layers.0.0."), ("mlp.fc2.", "mlp.layers.1."), ("embed.proj.", "embed.projection.")
    )
    backbone = behind("backbone.", {name: value for name, value in state.items() if not name.startswith("head.")})
    head = {f"cls_head.fc_cls.{kind}": state[f"head.{kind}"] for kind in ("weight", "bias")}
    return {**backbone, "backbone.pos_embed": sincos_table(TOKENS, WIDTH), **head}


def fused_bias(state):
    """timm's attention: one bias for queries, keys and values; that of the keys cancels."""
    result = {}
    for name, value in state.items():
        if name.endswith("q_bias"):
            parts = value, torch.zeros_like(value), state[name.replace("q_bias", "v_bias")]
            result[name.replace("q_bias", "qkv.bias")] = torch.cat(parts)
        elif not name.endswith("v_bias"):
            result[name] = value
    return result


def apart(state, q="q_proj", k="k_proj", v="v_proj"):
    result = {}
    for name, value in state.items():
        if name.endswith("qkv.weight"):
            for part, third in zip((q, k, v), value.chunk(3), strict=True):
                result[name.replace("qkv", part)] = third
        else:
            result[name.replace("q_bias", f"{q}.bias").replace("v_bias", f"{v}.bias")] = value
    return result


def multihead(state):
    """torch.nn.MultiheadAttention's names."""
    return renamed(
        fused_bias(state),
        ("qkv.weight", "in_proj_weight"),
        ("qkv.bias", "in_proj_bias"),
        ("attn.proj", "attn.out_proj"),
    )


def encoder_and_head(state):
    parts = {True: "encoder.", False: ""}
    return {parts[not name.startswith(("head.", "fc_norm."))] + name: value for name, value in state.items()}


LAYOUTS = {
    "hub class": (lambda s: behind("model.", s), "native names behind model."),
    "Lightning with a loss": (
        lambda s: {**behind("model.", s), "criterion.weight": torch.ones(3)},
        "native names behind model.",
    ),
    "mmaction": (mmaction, "other names behind backbone."),
    "mmaction in Lightning": (lambda s: behind("net.", mmaction(s)), "other names behind net.backbone."),
    "fused bias": (fused_bias, "other names"),
    "fused bias, half precision table": (
        lambda s: {**fused_bias(s), "pos_embed": sincos_table(TOKENS, WIDTH).bfloat16()},
        "other names",
    ),
    "queries, keys, values apart": (apart, "other names"),
    "short names": (lambda s: apart(s, "q", "k", "v"), "other names"),
    "MultiheadAttention": (multihead, "other names"),
    "lucidrains' attention": (
        lambda s: renamed(apart(s, "to_q", "to_k", "to_v"), ("attn.proj", "attn.to_out.0")),
        "other names",
    ),
    "a Sequential for the MLP and for the head": (
        lambda s: renamed(s, ("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.2"), ("head.", "head.1.")),
        "other names",
    ),
    "PEFT with a trained head": (
        lambda s: behind(
            "base_model.model.",
            {
                **renamed(s, ("head.", "head.modules_to_save.default.")),
                "head.original_module.weight": torch.zeros(3, WIDTH),
            },
        ),
        "native names behind base_model.model.",
    ),
    "MoCo's queries and keys": (
        lambda s: {**behind("encoder_q.", s), **behind("encoder_k.", {n: v + 1 for n, v in s.items()})},
        "native names behind encoder_q.",
    ),
    "Lightning's DeepSpeed": (
        lambda s: behind("_forward_module.model.", s),
        "native names behind _forward_module.model.",
    ),
    "compiled blocks": (lambda s: renamed(s, (".attn.", "._orig_mod.attn.")), "native names"),
    "FSDP with checkpoints": (
        lambda s: behind(
            "_fsdp_wrapped_module.", renamed(s, (".norm1", "._fsdp_wrapped_module._checkpoint_wrapped_module.norm1"))
        ),
        "native names behind _fsdp_wrapped_module.",
    ),
    "encoder and head": (lambda s: behind("model.", encoder_and_head(s)), "native names behind model.encoder."),
    "encoder and classifier": (
        lambda s: renamed(encoder_and_head(s), ("head.", "classifier.")),
        "other names behind encoder.",
    ),
    "an average beside": (
        lambda s: {**behind("model_ema.", {n: v + 1 for n, v in s.items()}), **behind("model.", s)},
        "native names behind model.",
    ),
    "layers, ln1, ffn": (
        lambda s: renamed(
            s, ("blocks.", "layers."), ("norm1", "ln1"), ("mlp.fc1", "ffn.layers.0.0"), ("mlp.fc2", "ffn.layers.1")
        ),
        "other names",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_classifiers_of_other_projects(layout):
    source = classifier()
    write, words = LAYOUTS[layout]
    found = recognize(write(source.state_dict()))
    equal(found.state, source.state_dict())
    assert found.layout == words
    model = create_model("vit_mini_patch8_32", num_frames=4, depth=2, num_classes=3)
    report = load_encoder(model, write(source.state_dict()))
    assert report.has_head and report.missing == report.unexpected == ()


@torch.no_grad()
def test_a_fused_bias_of_the_keys_cancels():
    """Not zero in the file, and the outputs are still those of torch's own attention."""
    state = fused_bias(classifier().state_dict())
    bias, weight = state["blocks.0.attn.qkv.bias"], state["blocks.0.attn.qkv.weight"]
    bias[WIDTH : 2 * WIDTH] = 3.0
    model = classifier()
    load_encoder(model, state)
    reference = torch.nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": weight,
            "in_proj_bias": bias,
            "out_proj.weight": state["blocks.0.attn.proj.weight"],
            "out_proj.bias": state["blocks.0.attn.proj.bias"],
        }
    )
    tokens = torch.randn(2, 5, WIDTH) * 0.1
    torch.testing.assert_close(model.blocks[0].attn(tokens), reference(tokens, tokens, tokens)[0], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_attention_without_biases_has_biases_of_zero():
    source = classifier()
    for block in source.blocks:
        block.attn.q_bias.zero_()
        block.attn.v_bias.zero_()
    state = {name: value for name, value in source.state_dict().items() if not name.endswith(("q_bias", "v_bias"))}
    equal(native_state(state), source.state_dict())


def test_a_head_without_a_bias():
    state = classifier().state_dict()
    del state["head.bias"]
    assert torch.equal(native_state(behind("model.", state))["head.bias"], torch.zeros(3))


@pytest.mark.parametrize("prefix", ["model.", "net.model.", "module.model."])
def test_pretraining_models_behind_a_prefix(prefix):
    source, model = pretraining(), pretraining()
    found = recognize({**behind(prefix, source.state_dict()), "loss.weight": torch.ones(1)})
    equal(found.state, source.state_dict())
    assert found.left_out == ["loss.weight"]
    assert load_pretraining(model, behind(prefix, source.state_dict())).missing == ()


@pytest.mark.parametrize("prefix", ["", "model.", "model.videomae."])
def test_transformers_behind_a_prefix(prefix):
    """A class of one's own around VideoMAEForVideoClassification or VideoMAEModel."""
    source = classifier()
    theirs = to_huggingface(source.state_dict())
    if prefix == "model.videomae.":
        theirs = renamed(
            theirs,
            ("videomae.", "model.videomae."),
            ("classifier.", "model.classifier."),
            ("fc_norm.", "model.fc_norm."),
        )
    elif prefix:
        theirs = renamed(theirs, ("videomae.", prefix))
    equal(native_state(theirs), source.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "pos_embed": torch.randn(1, TOKENS, WIDTH)}, "pos_embed .1, 32, 128. is a position table of"),
        (lambda s: {**s, "pos_embed": torch.randn(1, TOKENS + 1, WIDTH)}, "pos_embed .1, 33, 128. is a position table"),
        (lambda s: {**s, "cls_token": torch.ones(1, 1, WIDTH)}, "another architecture: its encoder has cls_token"),
        (lambda s: {**s, "pos_embed_spatial": torch.ones(1)}, "its encoder has pos_embed_spatial"),
        (lambda s: {**s, "temporal_embedding": torch.ones(1)}, "its encoder has temporal_embedding"),
        (lambda s: {**s, "blocks.0.gamma_1": torch.ones(WIDTH)}, "layer scale: give --init_values 1.0"),
        (lambda s: {**s, "blocks.0.attn.q_norm.weight": torch.ones(32)}, r"has blocks\.0\.attn\.q_norm\.weight, the"),
        (lambda s: {**s, "blocks.1.attn.logit_scale": torch.ones(4)}, r"has blocks\.1\.attn\.logit_scale"),
        (lambda s: {**s, "blocks.0.adapter.down.weight": torch.ones(4)}, r"blocks\.0\.adapter\.down"),
        (lambda s: {**s, "blocks.0.attn.proj.lora_A.weight": torch.ones(4)}, "Merge the adapters"),
        (
            lambda s: {**s, **renamed({n: v for n, v in s.items() if "blocks.1" in n}, ("blocks.1", "blocks.2"))},
            "2.norm1",
        ),
        (lambda s: {**s, "blocks.0.mlp.fc1.weight": s["blocks.0.mlp.fc1.weight"].to(torch.int8)}, "is of torch.int8"),
        (
            lambda s: {**s, "blocks.0.mlp.fc1.weight": s["blocks.0.mlp.fc1.weight"].to(torch.float8_e4m3fn)},
            "float8_e4m3fn",
        ),
        (lambda s: {**s, "prompt_embeddings": torch.ones(1, 5, WIDTH)}, "its encoder has prompt_embeddings"),
        (
            lambda s: {**to_huggingface(s), "videomae.embeddings.position_embeddings": torch.randn(1, TOKENS, WIDTH)},
            "of its own",
        ),
        (lambda s: {**behind("a.", s), **behind("b.", s)}, "it holds 2 networks .a, b.: choose one with --model_key"),
        (lambda s: {n: v for n, v in apart(s).items() if "0.attn.k_proj" not in n}, "only q, v have a weight"),
    ],
)
def test_another_network_is_refused(change, message):
    model = create_model("vit_mini_patch8_32", num_frames=4, depth=2, num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_encoder(model, change(classifier().state_dict()))
    equal(model.state_dict(), before)


def test_other_transformers_of_hugging_face_are_refused():
    """ViViT has the names of VideoMAE, but a class token and learned positions."""
    config = VideoMAEConfig(
        hidden_size=128,
        num_attention_heads=4,
        num_hidden_layers=2,
        intermediate_size=512,
        image_size=32,
        patch_size=8,
        num_frames=4,
        num_labels=3,
    )
    theirs = renamed(VideoMAEForVideoClassification(config).state_dict(), ("videomae.", "vivit."))
    theirs["vivit.embeddings.cls_token"] = torch.ones(1, 1, 128)
    with pytest.raises(ModelError, match=r"its encoder has videomae\.embeddings\.cls_token"):
        load_encoder(classifier(), theirs)
