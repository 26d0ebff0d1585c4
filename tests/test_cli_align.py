"""llmbook align: what a run leaves, refuses, and goes on with."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from llmbook import checkpoint, cli, hub, lora
from llmbook.alignment import (
    LoRAChoice,
    PackedChats,
    answer,
    encode,
    fine_tune,
    grow_vocabulary,
    read_chats,
    with_chat_tokens,
)
from llmbook.alignment.data import exchange
from llmbook.alignment.grpo import RECIPES
from llmbook.cli import aligning
from llmbook.config import GPTConfig, TrainConfig
from llmbook.evaluation.loading import read_trained
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer, TiktokenTokenizer

TEXT = "Who hums? Ona hums, and the old kite over the hill hums too.\n" * 9
PLAIN = BPETokenizer.train(TEXT, 280)
CHATS = [
    {"prompt": f"Who {verb}?", "response": f"{who} {verb}."}
    for who in ("Ona", "Tam", "Ibby")
    for verb in ("hums", "sings", "sleeps")
]
CHOICES = [
    {"prompt": c["prompt"], "chosen": c["response"], "rejected": "No, thanks."}
    for c in CHATS
]
SUMS = [
    {"question": f"{n} kites and 1 more?", "answer": f"#### {n + 1}"}
    for n in range(8)
]
RUN = [
    "--training.steps=6",
    "--training.batch-size=2",
    "--training.eval-every=2",
    "--training.eval-batches=1",
    "--training.optimizer=adamw",
    "--training.learning-rate=0.01",
    "--training.min-learning-rate=0.001",
    "--training.warmup-steps=1",
]
CONFIG = TrainConfig(
    steps=6,
    batch_size=2,
    eval_every=2,
    eval_batches=1,
    learning_rate=0.01,
    min_learning_rate=0.001,
    warmup_steps=1,
)


def untaught(V=PLAIN.vocab_size, context_length=96):
    config = GPTConfig(
        vocab_size=V,
        context_length=context_length,
        n_layer=1,
        n_head=2,
        n_embd=16,
    )
    return GPT(config, torch.Generator().manual_seed(0)).eval()


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base model, one that answers, and files to learn from."""
    place = tmp_path_factory.mktemp("align")
    checkpoint.save(place / "base" / "model.safetensors", untaught())
    PLAIN.save(place / "base" / "tokenizer.json")
    lines(place / "chats.jsonl", CHATS)
    lines(place / "choices.jsonl", CHOICES)
    lines(place / "sums.jsonl", SUMS)
    assert align(place, "sft", place / "sft") == 0
    return place


def align(place, stage, out, *options, model=None, run=RUN):
    """Run the command on the place's files."""
    base = "base" if stage == "sft" else "sft"
    data = {"sft": "chats", "dpo": "choices", "grpo": "sums"}[stage]
    arguments = ["align", stage, str(out), *run]
    arguments += ["--model", str(model or place / base)]
    arguments += ["--data", str(place / f"{data}.jsonl"), *options]
    return cli.main(arguments)


def weights(folder):
    return checkpoint.load(folder / "model.safetensors").model


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_sft_leaves_the_model_that_fine_tune_gives_and_its_record(place):
    out = place / "sft"
    assert names(out) == [
        "metrics.jsonl",
        "model.safetensors",
        "run.json",
        "tokenizer.json",
    ]
    chats = read_chats(place / "chats.jsonl")
    expected = fine_tune(untaught(), PLAIN, chats, CONFIG, progress=False)
    assert_close(weights(out), dict(expected.model.state_dict()))
    _, tokenizer = read_trained(out)
    assert tokenizer.special_tokens == expected.tokenizer.special_tokens
    record = json.loads((out / "run.json").read_text())
    assert record["command"] == "llmbook align sft"
    assert record["model"] == str(place / "base")
    assert record["settings"]["training"] == CONFIG.to_dict()
    assert record["history"]["loss"] == expected.history.loss
    assert record["outcome"]["after"] < record["outcome"]["before"]
    assert {"llmbook", "python", "torch"} <= record["versions"].keys()


def test_each_token_of_an_answer_counts_alike_in_what_sft_reports(tmp_path):
    tokenizer = with_chat_tokens(PLAIN)
    chats = [exchange("Who?", "Ona hums. " * 8), exchange("Who naps?", "I")]
    shown = [encode(tokenizer, chat) for chat in chats]
    model = grow_vocabulary(untaught(context_length=48), tokenizer.vocab_size)
    losses = []
    for ids, written in shown:
        log_p = model(torch.tensor([ids]))[0][0].log_softmax(-1)
        losses += [
            -log_p[n - 1, ids[n]] for n in range(len(ids)) if written[n]
        ]
    assert len(PackedChats(shown, 48, 1, tokenizer.end_of_text).x) == 2
    score = aligning.SFT(tmp_path).score(model, tokenizer, shown)
    assert_close(score, sum(losses).item() / len(losses), atol=1e-5, rtol=0)


def test_what_sft_leaves_can_be_talked_to(place, capsys):
    arguments = ["chat", str(place / "sft"), "--message=Who hums?"]
    assert cli.main([*arguments, "--temperature=0"]) == 0
    chat = [{"role": "user", "content": "Who hums?"}]
    expected = answer(*read_trained(place / "sft"), [chat], 24, temperature=0)
    assert capsys.readouterr().out == f"{expected[0]}\n"


def test_dpo_makes_chosen_replies_likelier_and_says_so(place, capsys):
    out = place / "dpo"
    options = ["--beta=0.1", "--kind=ipo", "--sft=0.1"]
    assert align(place, "dpo", out, *options, "--training.steps=20") == 0
    said = capsys.readouterr().out
    assert "pairs learned from whose chosen reply is likelier: 0." in said
    record = json.loads((out / "run.json").read_text())
    assert record["outcome"]["before"] < record["outcome"]["after"] == 1
    assert record["settings"]["kind"] == "ipo"


def test_grpo_keeps_what_each_step_measured(place, capsys):
    options = ["--recipe=grpo", "--kl=0.1", "--group-size=3"]
    options += ["--max-new-tokens=5", "--training.steps=3"]
    options += ["--validation", str(place / "sums.jsonl")]
    assert align(place, "grpo", place / "grpo", *options) == 0
    assert "problems held out answered right: 0.0" in capsys.readouterr().out
    assert names(place / "grpo") == names(place / "sft")
    record = json.loads((place / "grpo" / "run.json").read_text())
    assert len(record["measured"]) == 3
    assert {"reward", "length", "kl"} <= record["measured"][0].keys()


@pytest.mark.parametrize(
    ("stage", "name", "options", "expected"),
    [
        ("sft", "fine_tune", ["--lora-rank=3"], {"lora": LoRAChoice(rank=3)}),
        (
            "dpo",
            "prefer",
            ["--beta=0.3", "--kind=robust", "--label-smoothing=.1", "--sft=2"],
            {"beta": 0.3, "kind": "robust", "label_smoothing": 0.1, "sft": 2},
        ),
        (
            "grpo",
            "reinforce",
            ["--recipe=dapo", "--kl=.5", "--group-size=3"],
            {
                "recipe": RECIPES["dapo"]._replace(kl_weight=0.5),
                "group_size": 3,
                "max_new_tokens": 64,
            },
        ),
        ("grpo", "reinforce", [], {"recipe": RECIPES["dr_grpo"]}),
    ],
)
def test_options_reach_the_front_end(
    place, tmp_path, monkeypatch, stage, name, options, expected
):
    given = {}

    def front_end(*arguments, **options):
        given.update(options)
        raise ValueError("that is all we want to know")

    monkeypatch.setattr(aligning, name, front_end)
    assert align(place, stage, tmp_path, *options) == 1
    assert expected.items() <= given.items()
    assert given["config"] == CONFIG and not given["resume"]


def test_adapters_are_merged_and_kept_by_themselves_too(place):
    out = place / "lora"
    options = ["--lora-rank=2", "--training.optimizer=muon"]
    assert align(place, "sft", out, *options) == 0
    tokenizer = with_chat_tokens(PLAIN)
    model = grow_vocabulary(untaught(), tokenizer.vocab_size)
    lora.load(out / "adapters.safetensors", model)
    assert_close(dict(lora.merge(model).state_dict()), weights(out))
    assert (out / "adapters.safetensors").stat().st_size < 10_000
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["training"]["optimizer"] == "adamw"  # what was used


def test_an_export_is_read_and_asked_by_transformers(place, tmp_path):
    transformers = pytest.importorskip("transformers")
    assert align(place, "sft", tmp_path / "out", "--export") == 0
    folder = tmp_path / "out" / "huggingface"
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "Who hums?"}]
    text = theirs.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    assert text == "<|endoftext|><|user|>Who hums?<|end|><|assistant|>"
    model, tokenizer = read_trained(tmp_path / "out")
    ours = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode(text, "all")])
    assert_close(ours(ids).logits, model(ids)[0], atol=1e-5, rtol=1e-5)


def test_a_gpt2_of_hugging_face_learns_to_answer(place, tmp_path, capsys):
    tiktoken = pytest.importorskip("tiktoken")
    order = [*hub.tokens.VISIBLE]
    order += [value for value in range(256) if value not in order]
    encoding = tiktoken.Encoding(
        "little",
        pat_str=PLAIN.pattern,
        mergeable_ranks={bytes([v]): n for n, v in enumerate(order)},
        special_tokens={"<|endoftext|>": 256},
    )
    theirs = TiktokenTokenizer(encoding)
    hub.save_pretrained(untaught(257), theirs, tmp_path / "gpt2")
    for stage, model in (("sft", "gpt2"), ("dpo", "sft")):
        folder = tmp_path / model
        assert align(place, stage, tmp_path / stage, model=folder) == 0
    assert isinstance(read_trained(tmp_path / "dpo")[1], TiktokenTokenizer)
    assert cli.main(["chat", str(tmp_path / "dpo"), "--message=Who?"]) == 0
    assert cli.main(["generate", str(tmp_path / "dpo"), "Who"]) == 0


def test_a_tokenizer_of_the_hub_that_cannot_grow_is_told(
    place, tmp_path, capsys
):
    ids = {bytes([value]): 256 - value for value in range(256)}
    theirs = hub.HubTokenizer([], ids, {"<|endoftext|>": 0}, r"[\s\S]")
    folder = hub.save_pretrained(untaught(257), theirs, tmp_path / "smol")
    for stage in ("sft", "dpo", "grpo"):
        assert align(place, stage, tmp_path / "out", model=folder) == 1
        assert "smol cannot be taught to answer" in capsys.readouterr().err
    assert cli.main(["chat", str(folder), "--message=Who?"]) == 1
    assert "Begin with a GPT-2, or with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["generate", str(folder), "Who"]) == 0
    assert cli.main(["tokenize", "Who", f"--tokenizer={folder}"]) == 0
    assert "    169  b'W'" in capsys.readouterr().out


def watched(monkeypatch, name, callback):
    """Let a front end call back after each step."""
    front_end = getattr(aligning, name)

    def calling(*arguments, **options):
        return front_end(*arguments, callbacks=[callback], **options)

    monkeypatch.setattr(aligning, name, calling)


def stop_after_three(step, model, history):
    """As Ctrl-C would; the last checkpoint is of the second step."""
    if step == 3:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stage", "name", "options"),
    [
        ("sft", "fine_tune", ["--lora-rank=2"]),
        ("dpo", "prefer", []),
        ("grpo", "reinforce", ["--max-new-tokens=5", "--group-size=2"]),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    place, tmp_path, monkeypatch, capsys, stage, name, options
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert align(place, stage, whole, *options) == 0
    with monkeypatch.context() as patch:
        watched(patch, name, stop_after_three)
        assert align(place, stage, out, *options) == 130
    assert "--resume goes on from here" in capsys.readouterr().err
    assert cli.main(["chat", str(out)]) == 1
    assert "run that was stopped" in capsys.readouterr().err
    assert align(place, stage, out, *options) == 1
    assert "Go on with it by --resume" in capsys.readouterr().err
    other = [*options, "--training.seed=5", "--resume"]
    assert align(place, stage, out, *other) == 1
    assert "had training.seed=0 and this one has 5" in capsys.readouterr().err
    taken = []
    watched(monkeypatch, name, lambda step, *_: taken.append(step))
    assert align(place, stage, out, *options, "--resume") == 0
    assert taken == [3, 4, 5, 6]
    assert_close(weights(out), weights(whole), atol=0, rtol=0)
    records = [
        json.loads((folder / "run.json").read_text())
        for folder in (out, whole)
    ]
    for key in ("measured", "outcome", "settings"):
        assert records[0][key] == records[1][key]
    assert names(out) == names(whole)


def test_a_run_does_not_go_on_from_another_model(
    place, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        watched(patch, "prefer", stop_after_three)
        assert align(place, "dpo", out) == 130
    model, tokenizer = read_trained(place / "sft")
    with torch.no_grad():
        model.final_norm.weight[0] += 1
    checkpoint.save(tmp_path / "other" / "model.safetensors", model)
    tokenizer.save(tmp_path / "other" / "tokenizer.json")
    options = {"model": tmp_path / "other"}
    assert align(place, "dpo", out, "--resume", **options) == 1
    assert "had weights=" in capsys.readouterr().err


def test_nothing_is_written_over(place, tmp_path, capsys):
    before = weights(place / "sft")
    for options in ([], ["--resume"]):
        assert align(place, "sft", place / "sft", *options) == 1
        assert "holds a finished model" in capsys.readouterr().err
    assert_close(weights(place / "sft"), before)
    (tmp_path / "letter.txt").write_text("Dear Ona")
    assert align(place, "sft", tmp_path) == 1
    assert "letter.txt, which no run" in capsys.readouterr().err
    assert align(place, "sft", tmp_path / "letter.txt") == 1
    assert "letter.txt is a file" in capsys.readouterr().err


def test_what_failed_before_its_first_checkpoint_can_be_tried_again(
    place, tmp_path, capsys
):
    wrong = ["--training.batch-size=500"]
    assert align(place, "sft", tmp_path / "out", *wrong) == 1
    assert "batch" in capsys.readouterr().err
    assert align(place, "sft", tmp_path / "out") == 0


@pytest.mark.parametrize("stage", ["dpo", "grpo"])
def test_preferring_and_trying_begin_with_a_model_that_answers(
    place, tmp_path, capsys, stage
):
    base = place / "base"
    assert align(place, stage, tmp_path / "out", model=base) == 1
    assert f"llmbook align sft OUT --model {base}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "rows", "word"),
    [
        ("sft", [{"prompt": "Who?"}], "bad.jsonl"),
        ("sft", [{"prompt": "who " * 99, "response": "Ona."}], "none of the"),
        ("dpo", [CHATS[0]], "bad.jsonl"),
        ("grpo", [{"question": "Why?", "answer": "So."}], "bad.jsonl"),
        ("grpo", [{**SUMS[0], "question": "who " * 99}], "none of the"),
    ],
)
def test_wrong_data_is_refused_before_anything_is_written(
    place, tmp_path, capsys, stage, rows, word
):
    data = lines(tmp_path / "bad.jsonl", rows)
    assert align(place, stage, tmp_path / "out", "--data", data) == 1
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_by_default_the_books_model_learns_from_the_world(
    tmp_path, monkeypatch, capsys, stage
):
    monkeypatch.setenv("LLMBOOK_BUDGET", "smoke")
    tokenizer = with_chat_tokens(PLAIN)
    model = untaught(tokenizer.vocab_size, context_length=512)
    own = SimpleNamespace(model=model, tokenizer=tokenizer)
    monkeypatch.setattr(aligning.running, "load_running", lambda: own)
    monkeypatch.setattr(aligning.aligned, "load_aligned", lambda stage: own)
    monkeypatch.setattr(aligning.aligned, "JUDGED", 4)
    options = ["--training.steps=1", "--training.batch-size=2"]
    if stage == "grpo":
        options += ["--max-new-tokens=4"]
    assert cli.main(["align", stage, str(tmp_path / "out"), *options]) == 0
    assert "held out" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["data"] == "world" and record["left_out"] < 30


@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_help_names_the_options_of_a_stage(stage, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["align", stage, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    own = {"sft": (), "dpo": ("--beta",), "grpo": ("--group-size", "--kl")}
    for option in ("--training.steps", "--lora-rank", *own[stage]):
        assert option in shown
