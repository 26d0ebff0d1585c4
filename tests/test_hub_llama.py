"""hub for Llamas and Mistrals: to transformers and back, equal numbers."""

import json
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from llmbook import hub
from llmbook.config import GPTConfig, RopeScaling, preset
from llmbook.hub.names import their_tensors
from llmbook.model import GPT
from llmbook.sampling import generate
from llmbook.tokenizer import BPETokenizer

transformers = pytest.importorskip("transformers")

BYTES = BPETokenizer([], special_tokens=[])
FILES = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
LLAMA = {
    "vocab_size": 256,
    "context_length": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 16,
    "bias": False,
    "positions": "rotary",
    "norm": "rmsnorm",
    "feed_forward": "swiglu",
}


def llama(**changes):
    """A configuration of Llama's parts, small enough to run in no time."""
    return GPTConfig(**{**LLAMA, **changes})


def moved(model):
    """``model`` with every number off its starting value, gains too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def own_model(config):
    return moved(GPT(config, torch.Generator().manual_seed(0)))


scalings = st.builds(
    RopeScaling,
    factor=st.sampled_from([1.0, 2.0, 8.5]),
    low_freq_factor=st.sampled_from([0.5, 1.0]),
    high_freq_factor=st.sampled_from([2.0, 4.0]),
    original_context_length=st.integers(1, 64),
)


@st.composite
def configs(draw):
    """Any small configuration that a Llama or a Mistral can be."""
    n_kv_head, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    n_head = n_kv_head * group
    window = draw(st.none() | st.integers(1, 20))
    return llama(
        n_layer=draw(st.integers(1, 2)),
        n_head=n_head,
        n_kv_head=draw(st.sampled_from([n_kv_head, n_head])),
        n_embd=n_head * 2 * draw(st.integers(1, 3)),
        d_ff=draw(st.none() | st.integers(1, 9)),
        bias=window is None and draw(st.booleans()),
        tie_weights=draw(st.booleans()),
        rope_theta=draw(st.sampled_from([100.0, 10_000.0])),
        rope_scaling=draw(st.none() | scalings),
        window=window,
        norm_eps=draw(st.sampled_from([1e-6, 1e-2])),
        dropout=draw(st.sampled_from([0.0, 0.25])),
    )


@torch.no_grad()
def assert_same_model(ours, theirs):
    """The same logits, and the same tokens by greedy choice."""
    V, T = ours.config.vocab_size, ours.config.context_length
    idx = torch.randint(V, (3, T), generator=torch.Generator().manual_seed(2))
    assert_close(ours(idx)[0], theirs(idx).logits, atol=1e-4, rtol=1e-4)
    prompt, count = [5, 7, 9], min(T - 4, 7)
    greedy = theirs.generate(
        torch.tensor([prompt]),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=ours.config.window != 1,  # theirs would keep [-0:]: all
    )
    assert greedy[0].tolist() == generate(ours, prompt, count, temperature=0)


def load_theirs(folder):
    """transformers' model of a folder that fits it without a remainder."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    model, report = load(folder, output_loading_info=True)
    assert not any(report.values())
    return model.eval()


@given(configs())
@settings(max_examples=10, deadline=None)
def test_a_saved_model_goes_to_transformers_and_comes_back(config):
    model = own_model(config)
    with tempfile.TemporaryDirectory() as place:
        saved = hub.save_pretrained(model, BYTES, Path(place, "ours"))
        theirs = load_theirs(saved)
        kind = "llama" if config.window is None else "mistral"
        assert theirs.config.model_type == hub.family(config) == kind
        assert_same_model(model, theirs)
        theirs.save_pretrained(Path(place, "theirs"))
        for folder in (saved, Path(place, "theirs")):
            back = hub.from_pretrained(folder)
            widths = {"d_ff": config.ff_width, "n_kv_head": config.kv_heads}
            assert back.config == replace(config, **widths)
            found = back.state_dict()
            for name, weight in model.state_dict().items():
                assert torch.equal(found.pop(name), weight)
            assert not found and not back.training


THEIRS = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA3 = {
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
NAMED = {**LLAMA3, "rope_type": "llama3"}


def peer(kind="Llama", **changes):
    """transformers' own small Llama or Mistral, with random weights."""
    torch.manual_seed(0)
    shape = getattr(transformers, f"{kind}Config")(**{**THEIRS, **changes})
    return moved(getattr(transformers, f"{kind}ForCausalLM")(shape))


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "attention_bias, mlp_bias, tie_word_embeddings",
    [
        (False, False, True),
        (True, False, False),
        (False, True, True),
        (True, True, False),
    ],
)
def test_a_llama_of_transformers_gives_its_logits_here(
    tmp_path, attention_bias, mlp_bias, tie_word_embeddings
):
    theirs = peer(
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
        tie_word_embeddings=tie_word_embeddings,
    )
    theirs.save_pretrained(tmp_path)
    ours = hub.from_pretrained(tmp_path)
    assert_same_model(ours, theirs)
    again = hub.save_pretrained(
        own_vocabulary(ours), BYTES, tmp_path / "again"
    )
    assert_same_model(own_vocabulary(ours), load_theirs(again))


def own_vocabulary(model):
    """``model`` with rows for all bytes, so that a tokenizer fits it."""
    from llmbook.alignment.vocabulary import grow_vocabulary

    return grow_vocabulary(model, 256)


@pytest.mark.parametrize("window", [1, 3, 16, None])
def test_a_mistral_of_transformers_gives_its_logits_here(tmp_path, window):
    theirs = peer("Mistral", sliding_window=window)
    theirs.save_pretrained(tmp_path)
    ours = hub.from_pretrained(tmp_path)
    assert ours.config.window == window
    assert_same_model(ours, theirs)


@pytest.mark.parametrize("original", [8, None])
def test_both_spellings_of_rotary_scaling_are_read(tmp_path, original):
    rope = {**LLAMA3, "original_max_position_embeddings": original}
    if original is None:
        del rope["original_max_position_embeddings"]
    theirs = peer(
        rope_parameters=dict(rope, rope_type="llama3", rope_theta=50.0)
    )
    theirs.save_pretrained(tmp_path)
    ours = hub.from_pretrained(tmp_path)
    scaling = RopeScaling(4.0, 1.0, 4.0, original or 16)
    assert ours.config.rope_scaling == scaling
    assert_same_model(ours, theirs)
    plain = peer()
    plain.load_state_dict(theirs.state_dict())
    idx = torch.arange(16)[None]  # the scaling is not without effect
    assert not torch.allclose(ours(idx)[0], plain(idx).logits, atol=1e-2)
    for word in ("type", "rope_type"):
        edit(
            tmp_path,
            rope_parameters=None,
            rope_theta=50.0,
            rope_scaling={**rope, word: "llama3"},
        )
        assert hub.from_pretrained(tmp_path).config == ours.config
    assert_same_model(ours, load_theirs(tmp_path))


def test_a_model_without_head_or_with_wave_lengths_is_loaded(tmp_path):
    theirs = peer(tie_word_embeddings=True)
    theirs.model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    assert not any(name.startswith("model.") for name in tensors)
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    tensors["lm_head.weight"] = tensors["embed_tokens.weight"].clone()
    save_file(tensors, file, {"format": "pt"})
    assert_same_model(hub.from_pretrained(tmp_path), theirs)


# As published: https://huggingface.co/HuggingFaceTB/SmolLM2-135M and
# https://huggingface.co/meta-llama/Llama-3.2-1B, their config.json.
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 49152,
}
LLAMA_32 = {
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}


def test_published_configurations_are_the_presets():
    found = hub.config_from_hub(SMOLLM2)
    assert replace(found, init_std=0.02) == preset("smollm2-135m")
    assert hub.config_from_hub(LLAMA_32) == preset("llama-3.2-1b")


def shapes(model):
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.mark.parametrize("name", ["smollm2-135m", "llama-3.2-1b", "gpt2-xl"])
def test_the_presets_have_the_tensors_of_transformers_models(name):
    config = preset(name, n_layer=2)
    settings = hub.config_to_hub(config)
    kind = {"llama": "Llama", "gpt2": "GPT2"}[settings.pop("model_type")]
    suffix = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    with torch.device("meta"):
        shape = getattr(transformers, f"{kind}Config")(**settings)
        theirs = getattr(transformers, f"{kind}{suffix}")(shape)
        ours = GPT(config)
    found = {n: tuple(t.shape) for n, t in their_tensors(ours)}
    expected = {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
    del expected["lm_head.weight"]  # tied
    assert found == expected
    assert ours.num_parameters() == theirs.num_parameters()


@pytest.mark.parametrize(
    "changes, needs",
    [
        ({"positions": "alibi"}, "llama needs positions='rotary';"),
        ({"positions": "none"}, "llama needs positions='rotary';"),
        ({"positions": "sinusoidal"}, "gpt2 needs positions='learned' and"),
        ({"norm": "layernorm"}, "llama needs norm='rmsnorm';"),
        ({"feed_forward": "gelu"}, "llama needs feed_forward='swiglu';"),
        ({"n_expert": 4}, "llama needs n_expert=0;"),
        ({"window": 4, "bias": True}, "mistral needs bias=False"),
    ],
)
def test_what_no_family_expresses_is_not_saved(tmp_path, changes, needs):
    model = GPT(llama(**changes))
    with pytest.raises(ValueError, match=needs):
        hub.save_pretrained(model, BYTES, tmp_path / "model")
    with pytest.raises(ValueError, match=needs):
        hub.gpt_from_tensors({}, model.config)
    assert not list(tmp_path.iterdir())


def test_grouped_heads_and_windows_make_no_gpt2():
    for changes in ({"n_kv_head": 2}, {"window": 4}):
        message = "gpt2 needs n_kv_head=None|gpt2 needs window=None"
        with pytest.raises(ValueError, match=message):
            hub.config_to_hub(GPTConfig(**changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "qwen2"}, "one of gpt2, llama, mistral"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"head_dim": 8}, "head_dim = 8; .* is 6"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"sliding_window": 4}, "sliding_window = 4; of a llama"),
        ({"layer_types": ["full_attention"] * 2}, "layer_types"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "without factor, high"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "all layers alike",
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "whole heads",
        ),
        ({"num_hidden_layers": 3}, "missing .*layers.2.input_layernorm"),
        ({"num_hidden_layers": 1}, "foreign .*model.layers.1"),
        ({"attention_bias": True}, "missing .*self_attn.q_proj.bias"),
        ({"num_key_value_heads": 4}, "of another shape"),
        ({"tie_word_embeddings": False}, "missing .*lm_head.weight"),
        # Before there is room, and before a layer is built:
        ({"vocab_size": 10**11}, "2,400,000,006,456 numbers, and they are 20"),
        ({"num_hidden_layers": 10**9}, "1,000,000,000 layers"),
        ({"intermediate_size": 10**30}, "do not fit"),
        # What JSON can hold and no model means:
        ({"model_type": ["llama"]}, "model_type = "),
        ({"rope_scaling": "linear"}, "another kind, linear"),
        ({"rope_scaling": [1]}, "another kind"),
        ({"rope_parameters": {**NAMED, "factor": "4"}}, "without factor"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false'"),
        ({"attention_bias": "no"}, "attention_bias = 'no'"),
        ({"num_attention_heads": None}, "n_head is None"),
        ({"rms_norm_eps": float("nan")}, "norm_eps is nan"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(small, changes, message):
    edit(small, **changes)
    with pytest.raises(ValueError, match=message):
        hub.from_pretrained(small)


@pytest.fixture
def small(tmp_path):
    peer(tie_word_embeddings=True).save_pretrained(tmp_path)
    return tmp_path


def test_a_mistral_may_not_contradict_itself(tmp_path):
    peer("Mistral", sliding_window=4).save_pretrained(tmp_path)
    edit(tmp_path, use_sliding_window=False)
    with pytest.raises(ValueError, match="use_sliding_window = False"):
        hub.from_pretrained(tmp_path)


def test_quantised_numbers_are_refused(small):
    tensors = load_file(small / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, small / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"up_proj\.weight is torch\.int8"):
        hub.from_pretrained(small)


def test_a_llama_is_no_gpt2(small):
    with pytest.raises(ValueError, match="is a llama by its model_type"):
        hub.from_pretrained_gpt2(small)


def test_bfloat16_comes_in_float32_unless_asked_for(tmp_path):
    theirs = peer().bfloat16()
    theirs.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        choice = {} if dtype == torch.float32 else {"dtype": dtype}
        ours = hub.from_pretrained(tmp_path, **choice)
        assert {p.dtype for p in ours.parameters()} == {dtype}
        up = ours.blocks[1].feed_forward.up.weight
        expected = theirs.model.layers[1].mlp.up_proj.weight
        assert torch.equal(up, expected.to(dtype))  # widened, not rounded
    idx = torch.arange(16)[None]
    with torch.no_grad():
        logits, wanted = ours(idx)[0], theirs(idx).logits
    assert logits.dtype == torch.bfloat16
    assert_close(logits, wanted, atol=0.1, rtol=0.05)  # of 8 bits each
    saved = hub.save_pretrained(own_vocabulary(ours), BYTES, tmp_path / "x")
    kinds = {t.dtype for t in load_file(saved / "model.safetensors").values()}
    assert kinds == {torch.bfloat16}


# --- shards ------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, most",
    [
        (llama(n_kv_head=2), 1),
        (llama(tie_weights=False), 6000),
        (
            GPTConfig(
                vocab_size=256,
                context_length=16,
                n_layer=2,
                n_head=2,
                n_embd=16,
                bias=False,
            ),
            6000,
        ),
    ],
    ids=["grouped", "untied", "gpt2"],
)
def test_shards_hold_the_model_between_them(tmp_path, config, most):
    model = own_model(config)
    folder = hub.save_pretrained(
        model, BYTES, tmp_path / "model", max_shard_size=most
    )
    files = sorted(folder.glob("model-*-of-*.safetensors"))
    index = json.loads((folder / hub.INDEX).read_text())
    assert len(files) > 1
    assert [int(f.name[6:11]) for f in files] == [*range(1, len(files) + 1)]
    assert sorted(set(index["weight_map"].values())) == [f.name for f in files]
    size = 0
    for file in files:
        tensors = load_file(file)
        size += (held := sum(t.nbytes for t in tensors.values()))
        assert held <= most or len(tensors) == 1
        assert {index["weight_map"][name] for name in tensors} == {file.name}
    assert index["metadata"]["total_size"] == size
    assert_same_model(model, load_theirs(folder))
    found = hub.from_pretrained(folder).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(found.pop(name), weight)
    assert not found


def test_transformers_shards_are_read(tmp_path):
    theirs = peer()
    theirs.save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert_same_model(hub.from_pretrained(tmp_path), theirs)


def test_what_fits_into_one_shard_is_one_file_without_index(tmp_path):
    folder, model = tmp_path / "model", own_model(llama())
    hub.save_pretrained(model, BYTES, folder, max_shard_size=5000)
    assert (folder / hub.INDEX).exists()
    hub.save_pretrained(model, BYTES, folder, max_shard_size=10**9)
    assert {path.name for path in folder.iterdir()} == {
        *FILES,
        "model.safetensors",
    }
    with pytest.raises(ValueError, match="max_shard_size is 0"):
        hub.save_pretrained(model, BYTES, folder, max_shard_size=0)


def test_a_tensor_in_two_shards_or_in_none_is_noticed(tmp_path):
    folder = hub.save_pretrained(
        own_model(llama()), BYTES, tmp_path / "model", max_shard_size=5000
    )
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    content = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"missing .* foreign"):
        hub.from_pretrained(folder)
    second.write_bytes(content)
    hub.from_pretrained(folder)


def test_loading_keeps_no_second_copy_of_the_weights(small, monkeypatch):
    """When a tensor is read, at most the one before is still there."""
    alive, most = [], 0
    tensors = hub.load._tensors

    def watched(paths):
        nonlocal most
        for name, tensor in tensors(paths):
            alive.append(weakref.ref(tensor))
            most = max(most, sum(ref() is not None for ref in alive))
            yield name, tensor
            del tensor

    monkeypatch.setattr(hub.load, "_tensors", watched)
    hub.from_pretrained(small)
    assert len(alive) > 10
    assert most <= 2
