"""What the benchmarks ask of a model, against passes row by row."""

import itertools
import json
import random

import pytest
import torch

from llmbook import checkpoint
from llmbook.batching import shared_prefix
from llmbook.evaluation import models
from llmbook.evaluation.loading import load_model
from llmbook.evaluation.models import (
    GPTModel,
    Scored,
    cut_at,
    encode_pair,
    fit_prompt,
    stops,
)
from llmbook.hub import save_pretrained
from llmbook.sampling import generate
from llmbook.tokenizer import BPETokenizer
from tests.evaluated import naive_logprobs, tiny, tokenizer


class Ids:
    """An encoder whose ids can be worked out by hand."""

    prefix_token = end_of_text = 257

    def encode(self, text):
        merges = [(b" ", b"a"), (b"a", b"b"), (b" ", b" ")]
        return BPETokenizer(merges).encode(text, on_special="text")


@pytest.mark.parametrize(
    ("context", "continuation", "expected"),
    [
        # 256 is " a", 257 "ab", 258 "  "; other ids are bytes.
        ("x", " a", ([120], [256])),
        ("x ", "a", ([120], [256])),  # the blank moves over
        ("x\n ", "a", ([120], [10, 256])),
        ("a", "b", ([97], [])),  # both join: nothing is left
        ("", " a", ([257], [256])),
        ("  ", "a", ([257], [32, 256])),
    ],
)
def test_a_pair_is_cut_where_the_joint_encoding_goes_on(
    context, continuation, expected
):
    if not expected[1]:
        with pytest.raises(ValueError, match="adds no token"):
            encode_pair(Ids(), context, continuation)
    else:
        assert encode_pair(Ids(), context, continuation) == expected


def test_a_control_token_in_a_text_is_plain_characters():
    model = tiny()
    ids = model.encode("a<|endoftext|>b")
    assert model.end_of_text not in ids
    assert model.decode([*ids, model.end_of_text]) == "a<|endoftext|>b"


def random_pairs(seed=0, count=12, longest=70):
    source = random.Random(seed)
    draw = lambda n: [source.randrange(400) for _ in range(n)]  # noqa: E731
    shared = draw(20)  # long enough to be read once for all
    pairs = []
    for _ in range(count):
        context = shared + draw(source.randrange(1, longest - 20))
        pairs += [(context, draw(source.randrange(1, 6))) for _ in range(3)]
    return pairs


@pytest.mark.parametrize("batch_size", [1, 5])
def test_log_likelihoods_are_those_of_each_pair_alone(batch_size):
    model = tiny(batch_size=batch_size)
    pairs = random_pairs()
    assert max(len(a) + len(b) for a, b in pairs) > 65  # some are cut
    for (before, after), found in zip(
        pairs, model.loglikelihoods(pairs), strict=True
    ):
        read = [*before, *after][-(model.context_length + 1) :]
        alone = naive_logprobs(model, read, len(after))
        assert found.logprobs == pytest.approx(alone, abs=1e-4)
        assert found.tokens == len(after)
        assert found.logprob == pytest.approx(sum(alone), abs=1e-4)


def test_what_contexts_share_is_read_once_and_not_after_training(
    monkeypatch,
):
    read = []
    monkeypatch.setattr(
        models,
        "shared_prefix",
        lambda model, ids: read.append(ids) or shared_prefix(model, ids),
    )
    model = tiny()
    first, second = random_pairs(longest=40), random_pairs(longest=40)
    shared = first[0][0][:20]
    model.loglikelihoods(first)
    model.loglikelihoods([([*shared, 7], [8]), ([*shared, 9], [8])])
    assert len(read) == 1
    with torch.no_grad():
        model.model.blocks[0].norm_1.bias.add_(1.0)
    found = model.loglikelihoods(second)
    for (before, after), scored in zip(second, found, strict=True):
        alone = naive_logprobs(model, [*before, *after][-65:], len(after))
        assert scored.logprobs == pytest.approx(alone, abs=1e-4)
    assert len(read) == 2


def test_greedy_says_what_decoding_at_temperature_0_would_write():
    model = tiny()
    prompt = model.encode("Ona lost the")
    written = generate(model.model, prompt, 4, temperature=0)[len(prompt) :]
    other = [*written[:-1], (written[-1] + 1) % 400]
    pairs = [(prompt, written), (prompt, other)]
    assert [s.greedy for s in model.loglikelihoods(pairs)] == [True, False]


def test_a_continuation_longer_than_the_context_is_an_error():
    model = tiny(context_length=8)
    with pytest.raises(ValueError, match="of 9 tokens does not fit"):
        model.loglikelihoods([([1], list(range(9)))])
    [scored] = model.loglikelihoods([([1], list(range(8)))])
    assert scored.tokens == 8


def test_prompts_leave_room_for_what_is_written():
    assert fit_prompt([1, 2, 3], 1, longest=8) == [1, 2, 3]
    with pytest.raises(ValueError, match="Set max_new_tokens to 4"):
        fit_prompt([1, 2, 3], 8, longest=8)


def test_each_prompt_is_continued_as_if_it_were_alone():
    model = tiny(batch_size=3)
    texts = ["Ona", "Tam lost the kite and", "It was", "Nell"]
    texts.append("Bo saw " + " and ".join(map(str, range(60))))
    prompts = [model.encode(text) for text in texts]
    found = model.generate(prompts, 12)
    for prompt, text in zip(prompts, found, strict=True):
        prompt = prompt[-52:]  # with 12 new tokens, all that fits
        ids = generate(
            model.model,
            prompt,
            12,
            temperature=0,
            stop_tokens=[model.end_of_text],
        )
        assert text == model.decode(ids[len(prompt) :])


def test_text_ends_before_the_first_stop_string():
    model = tiny()
    prompt = model.encode("Ona lost the kite")
    [whole] = model.generate([prompt], 20)
    stop = whole[7:10]  # wherever the tokens end
    [cut] = model.generate([prompt], 20, ["never", stop])
    assert cut == whole[: whole.index(stop)]


def test_stop_strings_cut_one_after_the_other_as_in_the_harness():
    # The first takes away what the second would have found.
    assert cut_at("1xab2", ["ab", "xa"]) == "1x"
    assert cut_at("1xab2", ["xa", "ab"]) == "1"


def test_a_stop_string_is_seen_across_tokens_and_characters():
    decode = tokenizer().decode
    for text in ("a\n\nQuestion:", "é Question:", "</s>"):
        ids = tokenizer().encode(text)
        done = [
            stops(decode, ["Question:", "</s>"])(ids[:n])
            for n in range(1, len(ids) + 1)
        ]
        assert done == [False] * (len(ids) - 1) + [True]


def test_draws_depend_on_the_seed_and_not_on_the_batch():
    prompts = [[1, 2, 3]] * 4
    drawn = [
        tiny(batch_size=size).generate(prompts, 8, temperature=1.0, seed=seed)
        for size, seed in ((4, 7), (2, 7), (4, 8))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1


def test_the_fingerprint_knows_weights_and_tokenizer():
    model = tiny()
    first = model.fingerprint()
    assert tiny().fingerprint() == first
    renamed = BPETokenizer(tokenizer().merges[:-1], ["<|endoftext|>", "<|b|>"])
    assert GPTModel(model.model, renamed).fingerprint() != first
    with torch.no_grad():
        model.model.final_norm.bias[3] += 1e-6
    assert model.fingerprint() != first


def test_a_trained_folder_and_the_same_in_hugging_faces_format(tmp_path):
    model = tiny()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    checkpoint.save(ours / "model.safetensors", model.model)
    tokenizer().save(ours / "tokenizer.json")
    save_pretrained(model.model, tokenizer(), theirs)
    for folder in (ours, theirs):
        loaded = load_model(folder)
        assert isinstance(loaded, GPTModel)
        assert loaded.fingerprint() == model.fingerprint()
        assert loaded.name == folder.name


def test_what_is_no_model_is_refused_with_the_mend(tmp_path):
    with pytest.raises(ValueError, match="holds no model"):
        load_model(tmp_path)
    (tmp_path / "file").write_text("")
    for name in (tmp_path / "file", "no/such/folder", "a b"):
        with pytest.raises(ValueError, match="neither a folder nor a name"):
            load_model(name)


# --- transformers ----------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    return save_pretrained(tiny().model, tokenizer(), folder)


def adapter(folder, **choices):
    from llmbook.evaluation.transformers_model import TransformersModel

    return TransformersModel.load(folder, **choices)


def test_the_adapter_scores_and_writes_as_our_model_does(saved):
    ours, theirs = tiny(), adapter(saved, batch_size=5)
    assert theirs.context_length == 64
    assert theirs.prefix_token == theirs.end_of_text == ours.end_of_text
    text = "Ona lost <|endoftext|> the kite, é"
    assert theirs.encode(text) == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text
    pairs = random_pairs(seed=1)
    for a, b in zip(
        ours.loglikelihoods(pairs), theirs.loglikelihoods(pairs), strict=True
    ):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
        assert a.greedy == b.greedy
    long = " and ".join(map(str, range(60)))
    prompts = [ours.encode(t) for t in ("Ona", "Tam lost the", long)]
    for stop in ([], ["e"], ["\n", "a"]):
        expected = ours.generate(prompts, 16, stop)
        assert theirs.generate(prompts, 16, stop) == expected


def test_the_adapters_draws_follow_the_seed(saved):
    model = adapter(saved)
    state = torch.get_rng_state()
    drawn = [
        model.generate([[1, 2]] * 3, 8, temperature=1.0, top_p=0.9, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), state)


def saved_peer(kind, saved, folder, **changes):
    """A small model of transformers, in a folder with our tokenizer."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = getattr(transformers, f"{kind}Config")(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=48,
        initializer_range=0.5,
        **{"eos_token_id": 399, "bos_token_id": 399, **changes},
    )
    reference = getattr(transformers, f"{kind}ForCausalLM")(shape).eval()
    reference.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((saved / name).read_bytes())
    return reference


def assert_scores(model, reference):
    """``model`` scores texts as rows of ``reference`` do, one by one."""
    assert model.context_length == 48
    for before, after in random_pairs(seed=2, count=4, longest=40):
        read = torch.tensor([[*before, *after]])
        with torch.no_grad():
            table = reference(read).logits[0].log_softmax(-1)
        alone = [
            table[len(before) - 1 + i, token].item()
            for i, token in enumerate(after)
        ]
        [found] = model.loglikelihoods([(before, after)])
        assert found.logprobs == pytest.approx(alone, abs=1e-4)


def test_other_architectures_go_through_transformers(saved, tmp_path):
    reference = saved_peer("GPTNeoX", saved, tmp_path)
    model = load_model(tmp_path)
    assert type(model).__name__ == "TransformersModel"
    assert_scores(model, reference)


@pytest.mark.parametrize("kind", ["Llama", "Mistral"])
def test_llamas_and_mistrals_are_computed_by_our_own_code(
    saved, tmp_path, kind
):
    choices = {"num_key_value_heads": 2}
    if kind == "Mistral":
        choices["sliding_window"] = 7
    reference = saved_peer(kind, saved, tmp_path, **choices)
    model, theirs = load_model(tmp_path), adapter(tmp_path)
    assert isinstance(model, GPTModel)
    assert_scores(model, reference)
    prompts = [model.encode(text) for text in ("Ona", "Tam lost the")]
    expected = theirs.generate(prompts, 16)
    assert model.generate(prompts, 16) == expected


def test_a_model_with_a_token_of_its_own_to_begin_with_keeps_it(
    saved, tmp_path
):
    saved_peer("Llama", saved, tmp_path, bos_token_id=1)
    assert type(load_model(tmp_path)).__name__ == "TransformersModel"


def test_a_models_own_code_is_never_run_and_pickles_are_not_read(tmp_path):
    pytest.importorskip("transformers")
    witness = tmp_path / "it_ran"
    (tmp_path / "evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    settings = {
        "model_type": "evil",
        "auto_map": {
            "AutoConfig": "evil.EvilConfig",
            "AutoModelForCausalLM": "evil.Evil",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(OSError, match="cannot be loaded"):
        load_model(tmp_path)
    assert not witness.exists()
    settings = {"model_type": "llama", "hidden_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(tmp_path)


def test_offline_a_name_of_the_hub_says_what_to_do(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="copy its folder"):
        load_model("nobody/nothing-of-this-name")


def test_scores_add_up_in_full_precision():
    tenth = Scored(tuple(itertools.repeat(-0.1, 10)), greedy=False)
    assert tenth.logprob == -1.0
