"""The command: what it prints, where it fails, and with which code."""

import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace

import pytest

from llmbook import cli, running
from llmbook.cli import training
from llmbook.config import preset
from llmbook.corpus import load_corpus
from llmbook.evaluation.loading import read_trained
from llmbook.tokenizer import BPETokenizer
from llmbook.train import METRICS_NAME, Run, document_loss, read_metrics

TINY = [
    "--documents=120",
    "--model.vocab-size=300",
    "--model.context-length=32",
    "--model.n-layer=1",
    "--model.n-head=2",
    "--model.n-embd=16",
    "--training.steps=6",
    "--training.batch-size=4",
    "--training.eval-every=3",
    "--training.eval-batches=2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "model"
    assert cli.main(["train", str(path), *TINY]) == 0
    return path


def last_line(capsys):
    return capsys.readouterr().out.strip().splitlines()[-1]


def test_train_leaves_model_tokenizer_and_record(folder):
    names = {p.name for p in folder.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "run.json"} <= names
    record = json.loads((folder / "run.json").read_text())
    assert len(record["loss"]) == 6
    rows = read_metrics(folder / METRICS_NAME)
    assert [row["loss"] for row in rows if "loss" in row] == record["loss"]
    assert not list(folder.glob("checkpoint*"))


def test_train_writes_over_no_finished_model(folder, capsys):
    before = (folder / "model.safetensors").read_bytes()
    assert cli.main(["train", str(folder), *TINY]) == 1
    assert "holds a finished model" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == before


def test_train_writes_into_no_folder_of_something_else(tmp_path, capsys):
    (tmp_path / "tokenizer.json").write_text("another's")
    (tmp_path / "model-00001-of-00002.safetensors").write_text("another's")
    assert cli.main(["train", str(tmp_path), *TINY]) == 1
    assert "model-00001-of-00002" in capsys.readouterr().err
    assert (tmp_path / "tokenizer.json").read_text() == "another's"


def test_a_missing_tensorboard_is_said_before_the_work(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = tmp_path / "out"
    assert cli.main(["train", str(out), *TINY, "--tensorboard"]) == 1
    assert "pip install tensorboard" in capsys.readouterr().err
    assert not out.exists()


def test_a_kill_before_the_checkpoint_is_removed_can_be_resumed(
    folder, tmp_path, monkeypatch
):
    command = ["train", str(tmp_path), *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(training.checkpoint, "remove", lambda path: None)
        assert cli.main(command) == 0
    assert list(tmp_path.glob("checkpoint*"))
    assert cli.main([*command, "--resume"]) == 0
    assert not list(tmp_path.glob("checkpoint*"))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["versions"]["torch"] and len(record["loss"]) == 6
    mine, theirs = (
        (place / "model.safetensors").read_bytes()
        for place in (folder, tmp_path)
    )
    assert mine == theirs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_resume_finishes_it_to_the_same_bits(
    number, folder, tmp_path, capsys, monkeypatch
):
    advance = Run.advance

    def interrupted(run, step):
        advance(run, step)
        if step == 3:
            signal.raise_signal(number)

    command = ["train", str(tmp_path), *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", interrupted)
        assert cli.main(command) == 128 + number
    assert "after step 4 of 6" in capsys.readouterr().err
    assert cli.main(command) == 1
    assert "a run that was stopped" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    mine, theirs = (
        (place / "model.safetensors").read_bytes()
        for place in (folder, tmp_path)
    )
    assert mine == theirs


def test_a_config_sets_all_options_and_each_can_be_changed(
    monkeypatch, tmp_path
):
    seen = []
    monkeypatch.setattr(cli.Train, "run", lambda self: seen.append(self))
    out = str(tmp_path / "out")
    cli.main(["train", "--config", "austen", out])
    cli.main(["train", out, "--config=austen", "--training.steps=50000",
              "--held-out=Emma", "--snapshots", "7", "9"])  # fmt: skip
    cli.main(["train", out])
    austen, longer, world = seen
    assert austen.model == preset("austen")
    assert (austen.corpus, austen.held_out) == ("austen", "Persuasion")
    assert (austen.training.steps, austen.training.batch_size) == (5000, 8)
    assert austen.snapshots[-1] == 5000
    assert (longer.held_out, longer.snapshots) == ("Emma", (7, 9))
    assert longer.training == replace(austen.training, steps=50_000)
    assert world.training == running.recipe().train
    assert world.corpus == "world"


NOVEL = "{title}\n\nChapter 1\n\n" + "She walked to Bath and back. " * 80


def test_a_novel_is_held_out_whole_and_snapshots_are_kept(
    monkeypatch, tmp_path, capsys
):
    novels = {t: NOVEL.format(title=t) * 2 for t in ("Emma", "Persuasion")}
    novels["Emma"] = novels["Emma"].replace("Bath", "Highbury")
    monkeypatch.setattr(training, "load_novels", lambda: novels)
    command = ["train", str(tmp_path / "out"), "--config=austen", *TINY[1:]]
    command += ["--model.vocab-size=280"]
    assert cli.main([*command, "--snapshots", "0", "6"]) == 0
    corpus = training.without_novel("Persuasion")
    assert all("Highbury" in text for text in corpus.train_texts)
    assert all("Bath" in text for text in corpus.validation_texts)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"snapshot-00000{n}.safetensors" for n in (0, 6)} <= names
    command[1] = str(tmp_path / "other")
    for wrong, words in (
        (["--held-out=Ivanhoe"], "expected one of Emma, Persuasion"),
        (["--corpus=world"], "only novels of austen are held out"),
    ):
        assert cli.main([*command, *wrong]) == 1
        assert words in capsys.readouterr().err


def test_generate_is_seeded_and_goes_on_from_the_prompt(folder, capsys):
    outputs = []
    for seed in ("1", "1", "2"):
        arguments = ["generate", str(folder), "Ona", "--seed", seed]
        assert cli.main([*arguments, "--max-new-tokens=8"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0].startswith("Ona")
    assert outputs[0] == outputs[1] != outputs[2]


def test_no_terminal_obeys_what_a_model_or_a_file_s_name_says(
    folder, capsys, tmp_path, monkeypatch
):
    decode = BPETokenizer.decode
    monkeypatch.setattr(
        BPETokenizer, "decode", lambda *given: "\x1b[2J" + decode(*given)
    )
    place = tmp_path / "\x1b]0;mine\x07"
    shutil.copytree(folder, place)
    assert cli.main(["generate", str(place), "Ona"]) == 0
    (place / "data.jsonl").touch()
    arguments = ["align", "sft", str(tmp_path / "out")]
    arguments += ["--model", str(place)]
    assert cli.main([*arguments, "--data", str(place / "data.jsonl")]) == 1
    said = capsys.readouterr()
    assert "\\x1b[2J" in said.out
    assert "\\x1b]0;mine\\x07" in said.out and "is empty" in said.err
    assert not {"\x1b", "\x07"} & {*said.out, *said.err}


def test_evaluate_prints_perplexity_loss_and_the_floor(folder, capsys):
    arguments = ["evaluate", "--model", str(folder), "--documents=120"]
    assert cli.main([*arguments, "--limit=3"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[1]: line.split() for line in out.splitlines()[:-1]}
    loss, floor = float(rows["loss"][3]), float(rows["floor"][3])
    assert 0 < floor < loss
    model, tokenizer = read_trained(folder)
    held_out = load_corpus("world", documents=120).validation[:3]
    ids = [tokenizer.encode(d.text) for d in held_out]
    by_training = document_loss(model, ids, tokenizer.end_of_text)
    # Not the same windows, for these documents are longer than the context.
    assert loss == pytest.approx(by_training, rel=0.01)


def test_evaluate_runs_every_benchmark_and_keeps_the_results(
    folder, tmp_path, capsys
):
    world, out = tmp_path / "lull", tmp_path / "results.json"
    cli.main(["corpus", "world", "--documents=60", "--out", str(world)])
    arguments = ["evaluate", "--model", str(folder), "--folder", str(world)]
    tasks = "mmlu,mmlu_cloze,gsm8k,humaneval,perplexity"
    arguments += ["--tasks", tasks, "--limit=2", "--out", str(out)]
    assert cli.main([*arguments, "--num-fewshot=1", "--batch-size=2"]) == 0
    captured = capsys.readouterr()
    assert f"results: {out}" in captured.out
    assert "llmbook: mmlu: 6 of 6 prompts are longer" in captured.err
    results = json.loads(out.read_text())
    assert list(results["tasks"]) == tasks.split(",")
    assert results["tasks"]["gsm8k"]["n"] == 2
    for name in ("mmlu acc", "gsm8k strict", "humaneval pass@1"):
        assert re.search(name.replace(" ", " +") + " +[26] ", captured.out)
    assert {p.name for p in tmp_path.iterdir()} == {"lull", "results.json"}


def test_tokenize_shows_ids_and_bytes(folder, capsys):
    arguments = ["tokenize", "<|endoftext|> é", "--tokenizer", str(folder)]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "16 bytes" in out
    assert "299" not in out  # text never becomes a control token


def test_tokenize_says_what_it_cannot_read(tmp_path, capsys):
    path = tmp_path / "tokenizer.json"
    for text, why in ((None, "there is no "), ("[]", "holds a list")):
        if text is not None:
            path.write_text(text)
        assert cli.main(["tokenize", "x", f"--tokenizer={path}"]) == 1
        assert why in capsys.readouterr().err


def test_corpus_writes_the_world_and_a_manifest(tmp_path, capsys):
    out = tmp_path / "lull"
    arguments = ["corpus", "world", "--documents=60", "--out", str(out)]
    assert cli.main(arguments) == 0
    assert last_line(capsys) == f"60 documents and the benchmarks: {out}"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["documents"] == 60
    assert "mmlu/dev/neighbours_dev.csv" in manifest["files"]
    assert cli.main(arguments) == 1
    assert "not an empty folder" in capsys.readouterr().err


def test_corpus_cleans_files_and_shows_what_each_rule_took(tmp_path, capsys):
    pytest.importorskip("rensa", reason="needs the extra data")
    (tmp_path / "a.txt").write_text("Too short.")
    out = tmp_path / "out"
    assert cli.main(["corpus", "clean", str(tmp_path / "a.txt"), "--out",
                     str(out)]) == 0  # fmt: skip
    assert "a.txt (2 is below 50): Too short." in capsys.readouterr().out
    assert (out / "manifest.json").exists()
    assert cli.main(["corpus", "clean", "nowhere", "--out", str(out)]) == 1
    assert "no file or folder nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["generate", "nowhere", "Ona"], 1, "holds no model"),
        (["train", "out", "--corpus=nowhere"], 1, "nowhere"),
        (["tokenize", "a", "--tokenizer=nowhere"], 1, "nowhere"),
        (["evaluate", "--model=no/such/folder"], 1, "neither a folder"),
        (["tokenize", "a", "--tokenizer=deep.json"], 1, "recursion"),
    ],
)
def test_what_cannot_be_done_is_one_line_without_a_traceback(
    arguments, code, word, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert cli.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("llmbook: ") and word in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--tasks=mmlu,chess"], "expected some of mmlu, mmlu_cloze"),
        (["--limit=0"], "limit is 0; expected at least 1"),
        (["--samples=3"], "Set a temperature"),
        (["--tasks=gsm8k", "--folder=nowhere"], "test.jsonl is missing"),
    ],
)
def test_a_wrong_evaluation_is_refused_with_the_mend(
    folder, arguments, word, capsys
):
    assert cli.main(["evaluate", "--model", str(folder), *arguments]) == 1
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["train", "out", "--training.steps=x"],
        ["train", "out", "--config=shakespeare"],
        ["train", "out", "--training.compile"],
        ["train", "out", "--model.n-embd=10", "--model.n-head=3"],
        ["evaluate"],
        ["align", "sft"],
        ["align", "dpo", "out", "--kind=dpo"],
        ["chat", "--temperature=warm"],
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_help_exits_with_0(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    known = ("train", "generate", "align", "chat", "evaluate", "corpus")
    assert all(f"• {command} " in shown for command in known)


def test_an_interruption_exits_with_130(monkeypatch, capsys):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.Tokenize, "run", interrupt)
    assert cli.main(["tokenize", "a"]) == 130


def test_nothing_is_said_to_a_reader_who_has_left(monkeypatch, capfd):
    def leave(self):
        raise BrokenPipeError

    monkeypatch.setattr(cli.Tokenize, "run", leave)
    with open(os.devnull, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert cli.main(["tokenize", "a"]) == 1
    assert capfd.readouterr().err == ""


def stopped_run(out, monkeypatch):
    advance = Run.advance

    def interrupted(run, step):
        advance(run, step)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", interrupted)
        assert cli.main(["train", str(out), *TINY]) == 128 + signal.SIGTERM


def test_resume_reads_the_tokens_that_the_run_has_read(
    tmp_path, capsys, monkeypatch
):
    stopped_run(tmp_path, monkeypatch)
    written = {
        path.name: path.stat().st_mtime_ns
        for path in tmp_path.iterdir()
        if path.name.startswith(("train", "validation", "tokenizer"))
    }
    assert len(written) >= 3
    assert cli.main(["train", str(tmp_path), *TINY, "--resume"]) == 0
    for name, when in written.items():
        assert (tmp_path / name).stat().st_mtime_ns == when


def test_resume_refuses_another_way_to_read(tmp_path, capsys, monkeypatch):
    stopped_run(tmp_path, monkeypatch)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    command = ["train", str(tmp_path), *TINY, "--resume"]
    assert cli.main([*command, "--windows", "together"]) == 1
    said = capsys.readouterr().err
    assert "had windows='documents' and this one has 'together'" in said
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
