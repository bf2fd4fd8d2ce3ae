"""Tubelets and masks: against loops."""

import pytest
import torch
from torch import nn

from models.layers import TubeletEmbedding
from models.positions import sincos_table
from models.tokens import gather_tokens, patchify, running_cells, split_by_mask

TUBELET = (2, 4, 3)


@pytest.fixture
def clip():
    return torch.randn(2, 3, 6, 8, 9, generator=torch.Generator().manual_seed(0))


def test_tubelets_are_in_order_of_time_height_width(clip):
    tokens = patchify(clip, TUBELET)
    assert tokens.shape == (2, 3 * 2 * 3, 3, 24)
    n = 0
    for t in range(0, 6, 2):
        for y in range(0, 8, 4):
            for x in range(0, 9, 3):
                assert torch.equal(tokens[:, n], clip[:, :, t : t + 2, y : y + 4, x : x + 3].flatten(2))
                n += 1


def test_tubelets_at_given_places(clip):
    places = torch.tensor([[0, 17, 5], [3, 4, 16]])
    assert torch.equal(patchify(clip, TUBELET, places), gather_tokens(patchify(clip, TUBELET), places))
    assert torch.equal(patchify(clip[:1], TUBELET, places), gather_tokens(patchify(clip[:1], TUBELET), places))


@pytest.mark.parametrize("visible", [None, torch.tensor([[0, 17, 5], [3, 4, 16]])], ids=["all", "visible"])
def test_embedding_equals_the_convolution(clip, visible):
    embedding = TubeletEmbedding(7, TUBELET)
    convolution = nn.Conv3d(3, 7, kernel_size=TUBELET, stride=TUBELET)
    convolution.load_state_dict(embedding.proj.state_dict())
    expected = convolution(clip).flatten(2).transpose(1, 2)
    if visible is not None:
        expected = torch.stack([expected[b, visible[b]] for b in range(2)])
    torch.testing.assert_close(embedding(clip, visible), expected, rtol=1e-4, atol=1e-5)


def test_split_by_mask():
    mask = torch.tensor([[1, 0, 1, 0, 1], [0, 1, 1, 1, 0]], dtype=torch.bool)
    visible, masked = split_by_mask(mask, torch.device("cpu"))
    assert visible.tolist() == [[1, 3], [0, 4]] and masked.tolist() == [[0, 2, 4], [1, 2, 3]]
    assert visible.dtype == masked.dtype == torch.int64


def test_splitting_keeps_order_in_long_masks():
    mask = torch.rand(3, 1568, generator=torch.Generator().manual_seed(0)).argsort(1) < 1408
    visible, masked = split_by_mask(mask, torch.device("cpu"))
    for b in range(3):
        assert torch.equal(visible[b], (~mask[b]).nonzero()[:, 0])
        assert torch.equal(masked[b], mask[b].nonzero()[:, 0])


@pytest.mark.parametrize("rows", [[[1, 0, 0], [1, 1, 0]], [[1, 1, 1]], [[0, 0, 0]]])
def test_masks_that_cannot_be_split(rows):
    with pytest.raises(ValueError, match="masked"):
        split_by_mask(torch.tensor(rows, dtype=torch.bool), torch.device("cpu"))


def test_gather_tokens():
    tokens, index = torch.randn(2, 5, 3, 4), torch.tensor([[4, 0], [2, 2]])
    expected = torch.stack([tokens[b, index[b]] for b in range(2)])
    assert torch.equal(gather_tokens(tokens, index), expected)
    table = torch.randn(1, 5, 6)
    assert torch.equal(gather_tokens(table, index), table[0][index])


def test_position_table():
    table = sincos_table(50, 8)
    assert table.shape == (1, 50, 8) and table.dtype == torch.float32
    for p, j in ((0, 0), (7, 3), (49, 6), (13, 7)):
        angle = torch.tensor(p / 10000 ** (2 * (j // 2) / 8), dtype=torch.float64)
        expected = angle.sin() if j % 2 == 0 else angle.cos()
        assert table[0, p, j].item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.equal(sincos_table(20, 8), table[:, :20])


def test_running_cells_take_turns():
    """A whole clip, half of it: in each slot two of every four neighbours, in four slots every place twice."""
    everything = torch.arange(8 * 6 * 4).expand(2, -1)
    chosen = running_cells(everything, (8, 6, 4), 0.5)
    assert chosen.shape == (2, 96) and (chosen.diff(dim=1) > 0).all()
    for row in chosen:
        taken = torch.zeros(8 * 6 * 4).index_fill(0, row, 1).reshape(8, 6, 4)
        cells = taken.reshape(8, 3, 2, 2, 2)
        assert (cells.sum(dim=(2, 4)) == 2).all()
        assert (taken[:4].sum(dim=0) == 2).all() and not torch.equal(taken[0], taken[1])
    starts = {tuple(running_cells(everything, (8, 6, 4), 0.75)[0].tolist()) for _ in range(64)}
    assert len(starts) == 4


def test_running_cells_where_turns_do_not_come_out_even():
    masked = torch.stack([torch.randperm(192)[:101].sort().values for _ in range(3)])
    chosen = running_cells(masked, (8, 6, 4), 0.37)
    assert chosen.shape == (3, 101 - 37) and chosen.max() < 101 and (chosen.diff(dim=1) > 0).all()
    late = torch.stack([(running_cells(masked, (8, 6, 4), 0.6) > 50).float().mean() for _ in range(100)]).mean()
    assert 0.4 < late < 0.6  # the later half of the clip does not go without
    assert running_cells(masked, (8, 6, 4), 0.999).shape == (3, 1)
