"""hub.py against transformers: the same checkpoint, the same logits."""

import functools
import http.server
import json
import threading

import pytest
import torch
from torch.testing import assert_close

from llmbook import hub

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 60,
    "n_positions": 16,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def reference_model(kind=transformers.GPT2LMHeadModel, **changes):
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**SMALL, **changes})
    model = kind(config).eval()
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
    theirs = reference_model(transformers.GPT2Model)
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
    assert hub.our_name("h.0.attn.bias") is None
    assert hub.our_name("transformer.h.0.attn.masked_bias") is None


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
    for given in (folder, folder / name):
        with pytest.raises(ValueError, match="runs whatever code"):
            hub.from_pretrained_gpt2(given)


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
        ({"model_type": "llama"}, "model_type"),
        ({"n_inner": 17}, "n_inner"),
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
    with pytest.raises(ValueError, match="crossattention"):
        hub.our_name("h.0.crossattention.c_attn.weight")


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


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="gpt2-medium, gpt2-large, gpt2-xl"):
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


def test_no_network_is_an_error_that_says_what_to_do(local_hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="Or pass a folder"):
        hub.from_pretrained_gpt2("gpt2-medium")
