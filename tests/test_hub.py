"""hub.py against transformers: the same checkpoint, the same logits."""

import functools
import http.server
import json
import shutil
import threading

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from torch.testing import assert_close

from llmbook import cli, hub
from llmbook.cli.notes import visible
from llmbook.config import GPTConfig
from llmbook.evaluation.loading import load_model
from llmbook.hub import tokens
from llmbook.model import GPT
from llmbook.sampling import generate
from llmbook.tokenizer import (
    END_OF_TEXT,
    GPT2_PATTERN,
    BPETokenizer,
    CharTokenizer,
    TiktokenTokenizer,
    gpt2,
)
from tests.peers import peer_gpt2

transformers = pytest.importorskip("transformers")


def reference_model(kind="GPT2LMHeadModel", **changes):
    model = peer_gpt2(kind, **changes)
    with torch.no_grad():  # biases and gains start constant: move them too
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def checkpoint(tmp_path):
    model = reference_model()
    model.save_pretrained(tmp_path)
    return model, tmp_path


def assert_same_logits(ours, theirs):
    generator = torch.Generator().manual_seed(1)
    idx = torch.randint(60, (3, 16), generator=generator)
    with torch.no_grad():
        expected = theirs(idx).logits
        assert_close(ours(idx)[0], expected, atol=1e-4, rtol=1e-4)


def test_a_saved_checkpoint_gives_the_logits_of_transformers(checkpoint):
    theirs, folder = checkpoint
    ours = hub.from_pretrained_gpt2(folder)
    assert not ours.training
    assert_same_logits(ours, theirs)


def test_a_sharded_checkpoint_gives_the_same_logits(tmp_path):
    theirs = reference_model()
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same_logits(hub.from_pretrained_gpt2(str(tmp_path)), theirs)


def test_an_untied_head_is_loaded(tmp_path):
    theirs = reference_model(tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path)
    ours = hub.from_pretrained_gpt2(tmp_path)
    assert not ours.config.tie_weights
    assert_same_logits(ours, theirs)


def test_a_checkpoint_without_head_or_prefix_is_loaded(tmp_path):
    theirs = reference_model("GPT2Model")
    theirs.save_pretrained(tmp_path)
    ours = hub.from_pretrained_gpt2(tmp_path)
    idx = torch.arange(16)[None]
    expected = theirs(idx).last_hidden_state
    assert_close(ours.hidden(idx), expected, atol=1e-4, rtol=1e-4)


def test_a_half_precision_checkpoint_comes_in_float32(tmp_path):
    reference_model().half().save_pretrained(tmp_path)
    ours = hub.from_pretrained_gpt2(tmp_path)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}


def test_stored_masks_are_left_out():
    theirs = reference_model()
    tensors = dict(theirs.state_dict())
    for layer in ("h.0", "transformer.h.1"):
        tensors[f"{layer}.attn.bias"] = torch.ones(16, 16).tril()
        tensors[f"{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    config = hub.config_from_hub(theirs.config.to_dict())
    assert_same_logits(hub.gpt_from_tensors(tensors, config), theirs)


def test_a_loaded_model_can_be_trained(checkpoint):
    ours = hub.from_pretrained_gpt2(checkpoint[1]).train()
    idx = torch.arange(16)[None]
    ours(idx, idx)[1].backward()
    assert all(p.grad is not None for p in ours.parameters())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused_with_the_reason(checkpoint, name):
    folder = checkpoint[1]
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04.")
    for path in (folder, folder / name):
        with pytest.raises(ValueError, match="runs whatever code"):
            hub.from_pretrained_gpt2(path)


def test_a_truncated_file_is_told_from_a_good_one(checkpoint):
    path = checkpoint[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        hub.from_pretrained_gpt2(checkpoint[1])


def edit(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"activation_function": "relu"}, "activation_function"),
        ({"model_type": "llama"}, "do not fit"),
        ({"model_type": "bert"}, "model_type = 'bert'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"n_inner": 17}, "of another shape"),
        ({"scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
        ({"n_layer": 3}, "missing"),
        ({"n_layer": 1}, "foreign"),
        ({"n_positions": 8}, "of another shape"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(checkpoint, change, message):
    edit(checkpoint[1], "config.json", **change)
    with pytest.raises(ValueError, match=message):
        hub.from_pretrained_gpt2(checkpoint[1])


def test_a_foreign_tensor_is_named():
    theirs = reference_model()
    tensors = dict(theirs.state_dict())
    tensors["h.0.crossattention.c_attn.weight"] = torch.zeros(16, 32)
    config = hub.config_from_hub(theirs.config.to_dict())
    with pytest.raises(ValueError, match="crossattention"):
        hub.gpt_from_tensors(tensors, config)


def test_a_wider_feed_forward_layer_is_loaded(tmp_path):
    theirs = reference_model(n_inner=24)
    theirs.save_pretrained(tmp_path)
    ours = hub.from_pretrained_gpt2(tmp_path)
    assert ours.config.d_ff == 24
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_needed_file_says_which(checkpoint, missing):
    (checkpoint[1] / missing).unlink()
    with pytest.raises(ValueError, match=missing):
        hub.from_pretrained_gpt2(checkpoint[1])


def test_an_index_may_not_name_a_file_elsewhere(checkpoint):
    folder = checkpoint[1]
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"wte.weight": "../other.safetensors"}}
    (folder / hub.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="bare"):
        hub.from_pretrained_gpt2(folder)
    index = {"weight_map": {"wte.weight": "gone.safetensors"}}
    (folder / hub.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"gone\.safetensors is missing"):
        hub.from_pretrained_gpt2(folder)


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "{", "[" * 100_000])
def test_a_json_file_of_something_else_is_told(checkpoint, text):
    folder = checkpoint[1]
    for name, load in (
        ("tokenizer.json", hub.load_tokenizer),
        ("config.json", hub.from_pretrained),
    ):
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name} (is not val|holds a)"):
            load(folder)


@pytest.mark.parametrize(
    "weight_map, message",
    [
        (None, "no weight_map"),
        ({}, "no weight_map"),
        (["model.safetensors"], "no weight_map"),
        ({"wte.weight": 3}, "names the shard 3"),
        ({"wte.weight": ["a.safetensors"]}, "names the shard"),
        ({"wte.weight": "/etc/a.safetensors"}, "names the shard '/etc"),
        ({"wte.weight": "x\0.safetensors"}, "is missing"),
        ({"wte.weight": "folder.safetensors"}, "is missing"),
    ],
)
def test_a_hostile_index_is_refused(checkpoint, weight_map, message):
    folder = checkpoint[1]
    (folder / "model.safetensors").unlink()
    (folder / "folder.safetensors").mkdir()
    (folder / hub.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=message):
        hub.from_pretrained(folder)


def test_a_folder_may_be_called_like_a_pickle(checkpoint, tmp_path):
    folder = checkpoint[1].rename(tmp_path.with_suffix(".bin"))
    assert_same_logits(hub.from_pretrained(folder), checkpoint[0])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="gpt2-medium, gpt2-large, gpt2-xl, Hug"
    ):
        hub.from_pretrained_gpt2("gpt3")


class Counted(http.server.SimpleHTTPRequestHandler):
    """A hub of one folder that keeps a list of what was asked for."""

    seen: list = []  # noqa: RUF012  (shared on purpose)

    def do_GET(self):
        Counted.seen.append(self.path.rpartition("/")[2])
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    served = tmp_path / "hub"
    theirs = reference_model()
    theirs.save_pretrained(
        served / hub.REPOSITORIES["gpt2"] / "resolve" / "main"
    )
    handler = functools.partial(Counted, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    Counted.seen.clear()
    yield theirs, tmp_path / "cache" / "gpt2"
    server.shutdown()
    server.server_close()


def test_a_name_is_downloaded_once_and_verified_from_then_on(local_hub):
    theirs, cached = local_hub
    assert_same_logits(hub.from_pretrained_gpt2("gpt2"), theirs)
    hub.from_pretrained_gpt2("gpt2", progress=False)
    assert Counted.seen == ["config.json", "model.safetensors"]
    edit(cached, "config.json", n_layer=1)
    with pytest.raises(ValueError, match="has changed since its download"):
        hub.from_pretrained_gpt2("gpt2")


def test_a_llamas_name_brings_model_and_tokenizer(local_hub, tmp_path, capsys):
    name = "HuggingFaceTB/SmolLM2-135M"
    model = own_model(**LLAMA, n_kv_head=1)
    place = tmp_path / "hub" / hub.REPOSITORIES[name] / "resolve" / "main"
    hub.save_pretrained(model, tokenizer(), place)
    ours = hub.from_pretrained(name)
    assert_same_logits(ours, load_theirs(place))
    assert hub.load_tokenizer(name) == tokenizer()
    files = ["config.json", "model.safetensors", "tokenizer.json"]
    assert Counted.seen == files
    cached = tmp_path / "cache" / name
    assert {path.name for path in cached.glob("*.sha256")} == {
        f"{file}.sha256" for file in files
    }
    choices = ["--temperature=0", "--max-new-tokens=5"]
    assert cli.main(["generate", name, "Ona", *choices]) == 0
    prompt = [tokenizer().end_of_text, *tokenizer().encode("Ona")]
    ids = generate(model, prompt, 5, stop_tokens=[prompt[0]], temperature=0)
    written = tokenizer().decode(i for i in ids[1:] if i != prompt[0])
    assert capsys.readouterr().out.startswith(visible(written))
    scored = load_model(name)
    assert (scored.name, scored.context_length) == (name, 16)
    assert Counted.seen == files  # nothing is fetched again


def test_no_network_is_an_error_that_says_what_to_do(local_hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="Or pass a folder"):
        hub.from_pretrained_gpt2("gpt2-medium")


TEXT = """The kite is lost. Ona can't find it, and 12 crows don't care.
They'll look for it in 1984 places: behind the mill, under the bridge, up
in the old oak that nobody climbs.\n\n  Nobody but Ona, that is.\r\n"""
SPECIAL = (END_OF_TEXT, "<|user|>")


@functools.cache
def tokenizer(special=SPECIAL, pattern=GPT2_PATTERN):
    return BPETokenizer.train(TEXT, 300, special, pattern)


LLAMA = {
    "positions": "rotary",
    "norm": "rmsnorm",
    "feed_forward": "swiglu",
    "bias": False,
}


def load_theirs(folder):
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(folder).eval()


def own_model(**changes):
    """A small model whose every number is off its starting value."""
    config = GPTConfig(
        **{
            "vocab_size": 300,
            "context_length": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 16,
            "init_std": 0.3,
            "norm_eps": 1e-3,
            **changes,
        }
    )
    model = GPT(config, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@functools.cache
def their_tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    return hub.save_pretrained(own_model(), tokenizer(), folder)


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_transformers_computes_what_the_saved_model_did(
    tmp_path, tie_weights, bias
):
    model = own_model(tie_weights=tie_weights, bias=bias)
    hub.save_pretrained(model, tokenizer(), tmp_path / "model")
    load = transformers.AutoModelForCausalLM.from_pretrained
    theirs, report = load(tmp_path / "model", output_loading_info=True)
    assert not any(report.values())  # nothing missing, nothing left over
    assert isinstance(theirs, transformers.GPT2LMHeadModel)
    idx = torch.randint(300, (3, 16))
    with torch.no_grad():
        expected = theirs(idx).logits
        assert_close(model(idx)[0], expected, atol=1e-5, rtol=1e-5)
    prompt = [5, 7, 9]
    greedy = theirs.generate(
        torch.tensor([prompt]),
        max_new_tokens=9,
        do_sample=False,
        eos_token_id=None,
    )
    assert greedy[0].tolist() == generate(model, prompt, 9, temperature=0)


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_saved_model_comes_back_the_same(tmp_path, tie_weights, bias):
    model = own_model(tie_weights=tie_weights, bias=bias, dropout=0.25)
    hub.save_pretrained(model, tokenizer(), tmp_path / "model")
    back = hub.from_pretrained_gpt2(tmp_path / "model")
    assert back.config == model.config
    weights, found = model.state_dict(), back.state_dict()
    assert weights.keys() == found.keys()
    assert all(torch.equal(weights[name], found[name]) for name in weights)


def test_transformers_saves_the_weights_that_it_read(tmp_path):
    small = BPETokenizer([], special_tokens=[])
    model = own_model(vocab_size=256)
    hub.save_pretrained(model, small, tmp_path / "bytes")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "bytes"
    )
    again.save_pretrained(tmp_path / "again")
    back = hub.from_pretrained_gpt2(tmp_path / "again").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(back[name], weight)


# Letters that Unicode got lately are cut by each library's own tables.
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cn"]))
HARD = (
    "  two  blanks\r\nand\tlines \r\n\n \n x ",
    "can't I'LL we've 12,345.67\u00a0km \u3000",
    "漢字かな交じり文 한국어 العربية",
    "\U0001f469\u200d\U0001f4bb\U0001f3fd é e\u0301 \ufeff\x00\x1c\x85",
    "<|endoftext|> and <|user|>, written out",
)


@given(texts)
@example("".join(HARD))
@settings(max_examples=150, deadline=None)
def test_transformers_gives_the_ids_of_the_saved_tokenizer(saved, text):
    theirs, ours = their_tokenizer(saved), tokenizer()
    ids = ours.encode(text, on_special="text")
    assert theirs.encode(text, split_special_tokens=True) == ids
    assert theirs.decode(ids) == text


@pytest.mark.parametrize("special", [SPECIAL, ()])
def test_hard_texts_have_the_same_ids_in_every_tokenizer(tmp_path, special):
    pattern = r"\p{N}{1,3}|[^\r\n]?\p{L}+|\s*[\r\n]|[\s\S]"
    ours = tokenizer(special, pattern)
    folder = hub.save_pretrained(own_model(), ours, tmp_path / "model")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert hub.load_tokenizer(folder) == ours
    for text in HARD:
        ids = ours.encode(text, on_special="text")
        assert theirs.encode(text, split_special_tokens=True) == ids


def test_transformers_reads_special_tokens_in_text_unless_told(saved):
    theirs, ours = their_tokenizer(saved), tokenizer()
    text = "a<|user|>b<|endoftext|>"
    assert theirs.encode(text) == ours.encode(text, allowed_special="all")
    assert theirs.decode([*ours.encode("a"), 299, 298]) == (
        "a<|user|><|endoftext|>"
    )
    names = (theirs.bos_token, theirs.eos_token)
    assert names == (END_OF_TEXT, END_OF_TEXT)
    assert theirs.eos_token_id == ours.end_of_text == 298
    assert theirs.decode([299, 298], skip_special_tokens=True) == ""


def test_transformers_knows_lengths_and_the_end_of_text(saved):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(saved)
    assert theirs.config.max_position_embeddings == 16
    assert theirs.config.eos_token_id == 298
    assert theirs.generation_config.eos_token_id == 298
    assert their_tokenizer(saved).model_max_length == 16
    found = their_tokenizer(saved)("kite", return_tensors="pt")
    with torch.no_grad():  # no token types: GPT-2 would add to each token
        logits = theirs(**found).logits
    ids = torch.tensor([tokenizer().encode("kite")])
    assert_close(logits, own_logits(saved, ids))


@torch.no_grad()
def own_logits(folder, ids):
    return hub.from_pretrained_gpt2(folder)(ids)[0]


def test_a_saved_tokenizer_comes_back_the_same(saved, tmp_path):
    assert hub.load_tokenizer(saved) == tokenizer()
    their_tokenizer(saved).save_pretrained(tmp_path)
    assert hub.load_tokenizer(tmp_path) == tokenizer()  # saved by them


@functools.cache
def gpt2_or_skip():
    try:
        return gpt2()
    except RuntimeError as error:
        pytest.skip(str(error))


def test_gpt2s_own_tokenizer_is_saved_with_its_ids():
    library = pytest.importorskip("tokenizers")
    ours = gpt2_or_skip()
    content = hub.tokenizer_to_hub(ours)
    theirs = library.Tokenizer.from_str(json.dumps(content))
    theirs.encode_special_tokens = True  # their names are plain characters
    assert theirs.get_vocab_size() == 50_257
    del content["model"]["type"]  # as in the published file, which is older
    back = tokens.tokenizer_from_hub(content)
    assert isinstance(back, TiktokenTokenizer)
    assert back.fingerprint() == ours.fingerprint()
    for text in (*HARD, TEXT, "def f(x):\n    return x\n"):
        ids = ours.encode(text, on_special="text")
        assert theirs.encode(text).ids == ids
        assert back.encode(text, on_special="text") == ids
    merges, vocab = content["model"]["merges"], content["model"]["vocab"]
    assert len(merges) == 50_000  # and as in the published merges.txt:
    assert merges[:4] == ["Ġ t", "Ġ a", "h e", "i n"]
    assert merges[-2:] == ["Ġinform ants", "Ġg azed"]
    assert (vocab["!"], vocab["Ġ"], vocab["Ġgazed"]) == (0, 220, 50_255)


def test_a_tokenizer_that_hugging_face_trained_is_read(tmp_path):
    library = pytest.importorskip("tokenizers")
    theirs = library.ByteLevelBPETokenizer()
    theirs.train_from_iterator([TEXT], 290, 1, False, [END_OF_TEXT])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = hub.load_tokenizer(tmp_path)
    for text in (TEXT, *HARD[:4]):
        assert ours.encode(text) == theirs.encode(text).ids


def test_the_letters_for_bytes_are_those_of_the_tokenizers_library():
    library = pytest.importorskip("tokenizers")
    letters = tokens.byte_letters()
    expected = library.pre_tokenizers.ByteLevel.alphabet()
    assert sorted(letters.values()) == sorted(expected)
    for value in range(128):  # one byte in UTF-8: the library shows it
        step = library.pre_tokenizers.ByteLevel(False, use_regex=False)
        [(found, _)] = step.pre_tokenize_str(chr(value))
        assert found == letters[value]
        assert tokens.as_bytes(found) == bytes([value])


def test_the_halves_of_a_token_are_the_merge_that_made_it():
    ours = tokenizer()
    ranks = {ours.token_bytes(i): i for i in range(298)}
    found = [tokens.halves(t, ranks) for t in ranks if len(t) > 1]
    assert found == ours.merges


def test_saving_again_replaces_the_model_whole(tmp_path):
    folder = tmp_path / "deep" / "model"
    hub.save_pretrained(own_model(tie_weights=False), tokenizer(), folder)
    newer = own_model(n_layer=1)
    assert hub.save_pretrained(newer, tokenizer(), str(folder)) == folder
    assert hub.from_pretrained_gpt2(folder).config == newer.config
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_failed_save_leaves_the_older_model(saved, monkeypatch, kind):
    def full(*arguments, **settings):
        raise kind("No space left on device")

    monkeypatch.setattr("llmbook.hub.save.save_file", full)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(OSError, match=r"No space .* a disk that has room"):
        hub.save_pretrained(own_model(n_layer=1), tokenizer(), saved)
    after = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert after == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_failed_renaming_leaves_the_older_model(saved, monkeypatch):
    rename = hub.save.Path.rename

    def refused(path, target):
        if path.suffix == ".part":
            raise PermissionError("in use")
        return rename(path, target)

    monkeypatch.setattr(hub.save.Path, "rename", refused)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(OSError, match="in use"):
        hub.save_pretrained(own_model(n_layer=1), tokenizer(), saved)
    after = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert after == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_what_a_killed_save_left_is_cleared_away(tmp_path):
    (tmp_path / "model.part").mkdir()
    (tmp_path / "model.part" / "model.safetensors").write_bytes(b"half")
    folder = hub.save_pretrained(own_model(), tokenizer(), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    hub.from_pretrained(folder)


def test_a_model_moved_aside_by_a_killed_save_is_not_lost(
    saved, tmp_path, monkeypatch
):
    shutil.copytree(saved, tmp_path / "model.part.older")
    monkeypatch.setattr(hub.save, "save_file", failing)
    with pytest.raises(OSError, match="disk full"):
        hub.save_pretrained(own_model(), tokenizer(), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    hub.from_pretrained(tmp_path / "model")


def failing(*_):
    raise OSError("disk full")


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("real")
    for layers in (2, 1):
        model = own_model(n_layer=layers)
        hub.save_pretrained(model, tokenizer(), tmp_path / "link")
        assert hub.from_pretrained(tmp_path / "real").config == model.config
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"link", "real"}


def test_the_folder_that_one_stands_in_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (".", "", "new/..", tmp_path.parent):
        with pytest.raises(ValueError, match="Give one inside it"):
            hub.save_pretrained(own_model(), tokenizer(), place)
    assert not list(tmp_path.iterdir())


def test_what_transformers_4_asks_for_is_written_too(saved):
    with safe_open(saved / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    text = (saved / "tokenizer_config.json").read_text("utf-8")
    settings = json.loads(text)
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["clean_up_tokenization_spaces"] is False
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]


def test_a_folder_or_file_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.tex"):
        hub.save_pretrained(own_model(), tokenizer(), tmp_path / "model")
    file = tmp_path / "model" / "thesis.tex"
    with pytest.raises(ValueError, match="new or an empty folder"):
        hub.save_pretrained(own_model(), tokenizer(), file)
    assert file.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"stop_tokens": "<|user|>"}, r"stop_tokens has \['<', '\|', 'u'"),
        ({"stop_tokens": ["<|end|>"]}, r"stop_tokens has \['<\|end\|>'\]"),
        ({"max_shard_size": "5GB"}, "max_shard_size is '5GB'"),
        ({"max_shard_size": float("nan")}, "max_shard_size is nan"),
    ],
)
def test_a_wrong_choice_writes_nothing(tmp_path, choice, message):
    with pytest.raises(ValueError, match=message):
        hub.save_pretrained(
            own_model(), tokenizer(), tmp_path / "model", **choice
        )
    assert not list(tmp_path.iterdir())


def test_tokenizer_and_model_have_to_fit(tmp_path):
    with pytest.raises(ValueError, match="300 tokens and the model knows 60"):
        hub.save_pretrained(
            own_model(vocab_size=60), tokenizer(), tmp_path / "model"
        )
    with pytest.raises(ValueError, match="byte-level BPE"):
        hub.save_pretrained(
            own_model(), CharTokenizer("abc"), tmp_path / "model"
        )
    clash = BPETokenizer([(b"a", b"b")], special_tokens=["ab"])
    with pytest.raises(ValueError, match="like an ordinary token"):
        hub.save_pretrained(own_model(), clash, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"normalizer": {"type": "NFC"}}, "without normalizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "cut text by one"),
        ({"pre_tokenizer": None}, "lacks what"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "cut text by one"),
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "special_tokens": {"[CLS]": {}},
                }
            },
            "added blanks or tokens",
        ),
    ],
)
def test_a_tokenizer_that_does_more_is_refused(
    saved, tmp_path, change, message
):
    content = json.loads((saved / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=message):
        hub.load_tokenizer(tmp_path)


def test_a_tokenizer_that_we_saved_ourselves_is_read(tmp_path):
    tokenizer().save(tmp_path / "tokenizer.json")
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        assert hub.load_tokenizer(place) == tokenizer()


def test_gpt2s_tokenizer_without_file_or_network_is_an_oserror(monkeypatch):
    def nowhere():
        raise RuntimeError("neither in the cache nor in node_modules")

    monkeypatch.setattr(tokens, "gpt2", nowhere)
    with pytest.raises(OSError, match="neither in the cache"):
        hub.load_tokenizer("gpt2-medium")


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*tokenizer\.json;"):
        hub.load_tokenizer(tmp_path)
