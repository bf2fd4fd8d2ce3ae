"""Nearest tokens against brute force, predictions against the model's own, balance against Sinkhorn's codes."""

import numpy as np
import pytest
import torch

from models import create_model
from models.analysis.prototypes import NearestTokens, cosines, embed, perplexity, predict
from models.sinkhorn import sinkhorn_codes
from models.sinkhorn.balance import balancing_offsets


def test_nearest_tokens_are_those_of_brute_force():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(50, 7, generator=generator)
    nearest = NearestTokens(7, 6)
    for start in range(0, 50, 20):  # a last batch of ten
        nearest.add(scores[start : start + 20], torch.arange(start, min(start + 20, 50)) + 1000)
    for prototype in range(7):
        order = sorted(range(50), key=lambda token: -scores[token, prototype].item())[:6]
        assert nearest.token[prototype].tolist() == [1000 + token for token in order]
        assert nearest.similarity[prototype].tolist() == scores[order, prototype].tolist()


def test_at_most_so_many_of_a_batch():
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.1], [0.2], [0.3]])
    nearest = NearestTokens(1, 4, per_batch=1)
    for start in (0, 3):
        nearest.add(scores[start : start + 3], torch.arange(start, start + 3))
    assert nearest.token.tolist() == [[0, 5, -1, -1]]
    assert nearest.similarity[0, :2].tolist() == pytest.approx([0.9, 0.3])


def test_perplexity_is_the_number_of_evenly_used_prototypes():
    assert perplexity(torch.tensor([5, 0, 5, 0, 5, 5])) == pytest.approx(4)
    assert perplexity(torch.tensor([0, 9])) == pytest.approx(1)
    shares = np.array([0.5, 0.3, 0.2])
    assert perplexity(torch.tensor([50, 30, 20])) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_predictions_and_embeddings_are_those_of_the_model():
    torch.manual_seed(0)
    options = {"num_frames": 4, "num_prototypes": 5, "projection_dims": (16,), "decoder_num_classes": 8}
    model = create_model("pretrain_sigma_mini_patch8_16", decoder_depth=1, **options).eval()
    clip, mask = torch.randn(2, 3, 4, 16, 16), torch.tensor([[True, False] * 4, [False, True] * 4])
    out = model(clip, mask)
    predicted, places = predict(model, clip, mask)
    assert torch.equal(predicted, out["predicted"]) and torch.equal(places, out["decoded"])
    embedded, everywhere = embed(model, clip)
    assert everywhere.tolist() == [list(range(8))] * 2
    torch.testing.assert_close(embedded[torch.arange(2)[:, None], places], out["projected"])
    by_hand = torch.nn.CosineSimilarity(dim=-1)(predicted[:, :, None], model.prototypes[None, None])
    torch.testing.assert_close(cosines(predicted, model.prototypes), by_hand)


def test_offsets_of_balance_give_the_codes_of_sinkhorn():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(300, 9, generator=generator) + torch.linspace(0, 0.5, 9)  # some prototypes nearer to all
    offsets = balancing_offsets(scores, epsilon=0.05, num_iters=10)
    codes = (scores + offsets).argmax(1)
    assert torch.equal(codes, sinkhorn_codes(scores, epsilon=0.05, num_iters=10))
    assert not torch.equal(codes, scores.argmax(1))
