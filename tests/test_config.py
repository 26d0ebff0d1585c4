"""config.py: what fits together is accepted, what does not is named."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmbook.config import (
    PRESETS,
    GPTConfig,
    RopeScaling,
    TrainConfig,
    preset,
)
from llmbook.model import GPT

LLAMA = preset("llama-3.2-1b")


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_comes_back_from_json(name):
    config = PRESETS[name]
    again = GPTConfig(**json.loads(json.dumps(config.to_dict())))
    assert again == config and hash(again) == hash(config)
    assert type(again.rope_scaling) is type(config.rope_scaling)


def test_a_configuration_from_before_the_new_parts_is_gpt2s():
    older = {
        "vocab_size": 64,
        "context_length": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
        "dropout": 0.1,
        "bias": True,
        "tie_weights": True,
        "norm_eps": 1e-5,
        "init_std": 0.02,
    }
    config = GPTConfig(**older)
    assert (config.positions, config.norm) == ("learned", "layernorm")
    assert (config.feed_forward, config.ff_width) == ("gelu", 64)
    assert config.kv_heads == 2 and config.window is None
    assert not config.n_expert


# The models' own cards: HuggingFaceTB/SmolLM2-135M, meta-llama/Llama-3.2-1B.
@pytest.mark.parametrize(
    "name, count",
    [("smollm2-135m", 134_515_008), ("llama-3.2-1b", 1_235_814_400)],
)
def test_the_presets_have_as_many_parameters_as_the_models(name, count):
    with torch.device("meta"):
        assert GPT(preset(name)).num_parameters() == count


@given(st.integers(1, 5000))
def test_swiglu_has_two_thirds_of_the_width_and_a_bit(n_embd):
    gelu = GPTConfig(n_embd=n_embd, n_head=1).ff_width
    width = GPTConfig(n_embd=n_embd, n_head=1, feed_forward="swiglu").ff_width
    assert width % 8 == 0
    assert 0 <= 3 * width - 2 * gelu < 24


def test_llamas_own_widths_are_given_and_not_worked_out():
    assert LLAMA.ff_width == LLAMA.d_ff == 8192
    assert LLAMA.key_width == LLAMA.head_dim == 64


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"positions": "rope"}, "learned, sinusoidal, rotary"),
        ({"norm": "batchnorm"}, "layernorm, rmsnorm"),
        ({"feed_forward": "relu"}, "gelu, swiglu"),
        ({"n_kv_head": 3}, "multiple of n_kv_head"),
        ({"n_kv_head": 0}, "n_kv_head is 0"),
        ({"n_kv_head": 8}, "multiple of n_kv_head"),
        ({"window": 0}, "window is 0"),
        ({"window": True}, "window is True"),
        ({"d_ff": 0}, "d_ff is 0"),
        ({"n_expert": -1}, "n_expert is -1"),
        ({"n_expert": 2, "n_expert_used": 3}, "more experts than there are"),
        ({"n_expert": 2, "n_expert_used": 0}, "n_expert_used is 0"),
        ({"balance_weight": -1.0}, "balance_weight is -1"),
        ({"positions": "rotary", "n_embd": 12}, "head_dim is 3"),
        ({"positions": "sinusoidal", "n_embd": 9, "n_head": 1}, "n_embd is 9"),
        ({"rope_theta": 0.5, "positions": "rotary"}, "rope_theta is 0.5"),
        ({"rope_scaling": RopeScaling()}, "only rotary ones are stretched"),
        ({"rope_scaling": 8.0}, "expected a RopeScaling"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "expected a RopeScaling"),
        ({"rope_scaling": {"factor": 0.5}}, "factor is 0.5"),
        ({"dropout": "0.1"}, "dropout is '0.1'"),
        ({"norm_eps": True}, "norm_eps is True"),
        ({"bias": "false"}, "bias is 'false'; expected True or False"),
        ({"tie_weights": None}, "tie_weights is None"),
        ({"norm_eps": None}, "norm_eps is None"),
        ({"init_std": float("nan")}, "init_std is nan"),
    ],
)
def test_what_does_not_fit_together_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(GPTConfig(n_embd=64, n_head=4), **changes)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"adamw_scale": -1.0}, "adamw_scale is -1"),
        ({"adamw_scale": True}, "adamw_scale is True"),
        ({"compile": True}, "compile is True; expected one of auto, on, off"),
        ({"compile": "yes"}, "compile is 'yes'"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds is nan"),
        ({"stop_diverging": "no"}, "stop_diverging is 'no'"),
    ],
)
def test_a_run_s_settings_that_do_not_fit_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"low_freq_factor": 4.0, "high_freq_factor": 4.0}, "0 < low < high"),
        ({"low_freq_factor": 0.0}, "0 < low < high"),
        ({"low_freq_factor": "1"}, "low_freq_factor is '1'"),
        ({"high_freq_factor": float("inf")}, "high_freq_factor is inf"),
        ({"original_context_length": 0}, "original_context_length is 0"),
        ({"factor": float("inf")}, "factor is inf"),
    ],
)
def test_a_stretching_that_is_none_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        RopeScaling(**values)


def test_a_preset_that_is_not_there_is_refused_with_the_list():
    with pytest.raises(ValueError, match="gpt2-medium"):
        preset("gpt3")
