"""The timing of generation compares like with like."""

import json

import pytest
import torch

from benchmarks import generation
from llmbook.accounting import cache_bytes

TINY = generation.shape(61, 16, 2, 2, 16)
WORK = {"tiny": generation.Work(TINY, prompt=4, new=6, few=3)}
RASCHKA = """
import torch
class GPTModel(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.size = cfg["vocab_size"]
def generate_text_simple_cached(model, idx, max_new_tokens):
    new = torch.full((len(idx), max_new_tokens), model.size - 1)
    return torch.cat([idx, new], dim=1)
"""
NANOGPT = """
from dataclasses import dataclass
import torch
@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None):
        new = torch.full((len(idx), max_new_tokens), top_k)
        return torch.cat([idx, new], dim=1)
"""


def test_transformers_has_our_weights_and_writes_our_tokens():
    pytest.importorskip("transformers")
    wide = generation.shape(61, 16, 2, 4, 32)
    model = generation.model_for(wide, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)
    ways = generation.ways_of(model)
    for B in (1, 3):
        prompts = generation.prompts_for(wide, B, 4)
        found = {name: way(prompts, 12) for name, way in ways.items()}
        assert found["transformers"] == found["llmbook"]
        assert len({*map(tuple, found["llmbook"])}) == B


def test_peers_are_read_from_the_folders_that_are_given(tmp_path):
    (tmp_path / "ch04").mkdir()
    (tmp_path / "ch04" / "gpt_with_kv_cache.py").write_text(RASCHKA)
    (tmp_path / "model.py").write_text(NANOGPT)
    model = generation.model_for(TINY, torch.float32)
    ways = generation.ways_of(model, nanogpt=tmp_path, raschka=tmp_path)
    prompts = generation.prompts_for(TINY, 2, 4)
    assert ways["nanoGPT"](prompts, 2)[1][4:] == [1, 1]
    assert ways["Raschka"](prompts, 2)[1][4:] == [60, 60]


def test_rounds_end_with_the_time_that_is_given_but_there_are_two():
    calls = []

    def way(prompts, new):
        calls.append(new)
        return [row + [0] * new for row in prompts.tolist()]

    ways = {"llmbook": way, "other": way}
    prompts = torch.zeros(2, 3, dtype=torch.long)
    found = generation.measure(ways, prompts, 5, rounds=9, most=0.0)
    assert [row["rounds"] for row in found] == [2, 2]
    assert calls == [2, 2, 5, 5, 5, 5]


def test_the_share_of_tokens_that_are_the_same_leaves_the_prompt_out():
    found, expected = [[1, 1, 2, 3]], [[1, 9, 2, 4]]
    assert generation.alike(found, expected, T=2) == 0.5


def test_every_row_is_in_the_table_and_in_the_record(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(generation, "WORK", WORK)
    monkeypatch.setattr(generation, "GROWTH", {"tiny": (TINY, 16)})
    monkeypatch.setattr(generation, "MEMORY", (TINY, 2))
    monkeypatch.setattr(generation, "RECORD", tmp_path / "generation.json")
    generation.main(["--shapes", "tiny", "--rounds", "1", "--record"])
    table = capsys.readouterr().out
    record = json.loads((tmp_path / "generation.json").read_text())
    assert len(record["speeds"]) % 4 == 0  # two formats, two batches
    ours = [row for row in record["speeds"] if row["way"] == "llmbook"]
    assert all(row["ours_times"] == 1 for row in ours)
    assert table.count("| tiny | float32 |") == len(record["speeds"]) // 2
    lengths = [row["length"] for row in record["growth"]["tiny"]]
    assert lengths == sorted(lengths) and lengths[-1] <= 16
    for row, size in zip(record["memory"], (4, 2), strict=True):
        assert row["formula"] == row["taken"] == cache_bytes(TINY, 2, size)


def test_where_proc_is_missing_no_memory_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setattr(generation, "Path", lambda _: tmp_path / "none")
    assert generation.resident() is None
