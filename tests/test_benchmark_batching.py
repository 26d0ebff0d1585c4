"""The comparison of ways to batch runs, and every way finds the same."""

import pytest
import torch

from benchmarks import batching
from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer


@pytest.fixture(scope="module")
def todo():
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(250, (400,), generator=source).tolist()
    return batching.work(ids, context_length=64)


def model():
    config = GPTConfig(
        vocab_size=257, context_length=64, n_layer=1, n_head=2, n_embd=16,
        init_std=0.3,
    )  # fmt: skip
    return GPT(config, torch.Generator().manual_seed(0)).eval()


def test_the_work_fits_the_context_and_shares_its_beginning(todo):
    longest = max(len(before) + len(after) for before, after in todo.pairs)
    assert longest <= 64
    assert max(map(len, todo.prompts)) + todo.new <= 64
    assert len({len(prompt) for prompt in todo.prompts}) > 5
    for prompt in todo.prompts:
        assert prompt[: len(todo.examples)] == todo.examples
        assert len(prompt) > len(todo.examples)


def test_every_way_finds_the_same(todo):
    pytest.importorskip("transformers")
    tokenizer = BPETokenizer([])
    ways = batching.our_ways(model(), todo)
    ways |= batching.their_ways(model(), tokenizer, todo)
    results = batching.measure(ways, rounds=1)
    assert len(results) == len(ways) == 9
    for result in results:
        assert result["apart"] < (1e-4 if result["task"] == "score" else 0.01)
        assert result["seconds"] > 0 and result["times"] > 0
    assert batching.table(results).count("\n") == 10


def test_other_results_and_none_are_told_apart():
    assert batching.difference([1.0, 2.0], [1.0, 2.5]) == 0.5
    assert batching.difference([[1], [2]], [[1], [3]]) == 0.5
    nan = float("nan")
    assert not batching.difference([0.0, nan], [0.0, 1.0]) < 1e9
