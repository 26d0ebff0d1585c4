"""positions.py against torch.nn.Embedding."""

import pytest
import torch
from torch import nn

from llmbook.positions import LearnedPositions


def test_learned_positions_are_the_rows_of_an_embedding():
    ours = LearnedPositions(8, 4)
    reference = nn.Embedding(8, 4, _weight=ours.weight.detach())
    assert torch.equal(ours(T=3, start=2), reference(torch.arange(2, 5)))
    assert torch.equal(ours(T=8), reference(torch.arange(8)))


def test_only_the_positions_used_get_a_gradient():
    positions = LearnedPositions(4, 2)
    positions(T=2, start=1).sum().backward()
    assert positions.weight.grad[:, 0].tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("T, start", [(9, 0), (1, 8), (4, 5), (1, -1)])
def test_a_position_outside_the_context_is_refused(T, start):
    with pytest.raises(ValueError, match="positions 0 to 7"):
        LearnedPositions(8, 4)(T=T, start=start)


def test_positions_one_by_one_are_the_rows_of_an_embedding():
    ours = LearnedPositions(8, 4)
    reference = nn.Embedding(8, 4, _weight=ours.weight.detach())
    wanted = torch.tensor([[0, 0, 1], [7, 3, 3]])
    assert torch.equal(ours.at(wanted), reference(wanted))
    assert torch.equal(ours.at(torch.arange(2, 5)), ours(T=3, start=2))


@pytest.mark.parametrize("bad", [-1, 8])
def test_one_position_outside_the_context_is_refused(bad):
    with pytest.raises(ValueError, match="positions 0 to 7"):
        LearnedPositions(8, 4).at(torch.tensor([[0, bad]]))
