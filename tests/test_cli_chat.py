"""llmbook chat: what it shows, what it forgets, and how it is stopped."""

import io
import os
import select
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmbook import aligned, checkpoint, cli
from llmbook.alignment import (
    answer,
    encode_prompt,
    save_chat_model,
    with_chat_tokens,
)
from llmbook.cli.chatting import (
    Talk,
    take_turn,
    visible,
    whole_characters,
    with_a_person,
)
from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer

TEXT = "Who hums? Ona hums, and the old kite over the hill hums too.\n" * 9
PLAIN = BPETokenizer.train(TEXT, 280)
TOKENIZER = with_chat_tokens(PLAIN)
SPECIAL = TOKENIZER.special_tokens
T = 48
SECONDS = 60  # after which a process that says nothing is given up
NEWER = "Who hums now?"


def untaught(seed=0, V=TOKENIZER.vocab_size, context_length=T):
    """A model that has learned nothing, and says any bytes at all."""
    config = GPTConfig(
        vocab_size=V,
        context_length=context_length,
        n_layer=2,
        n_head=2,
        n_embd=16,
        init_std=0.3,
    )
    return GPT(config, torch.Generator().manual_seed(seed)).eval()


@torch.no_grad()
def parrot(text, end="<|end|>"):
    """A model that says ``text`` whatever it is asked, then ``end``.

    What follows a token depends on that token alone, so no token of the
    text may come twice.
    """
    said = [SPECIAL["<|assistant|>"], *TOKENIZER.encode(text), SPECIAL[end]]
    assert len(set(said)) == len(said)
    V = TOKENIZER.vocab_size
    config = GPTConfig(
        vocab_size=V,
        context_length=T,
        n_layer=1,
        n_head=1,
        n_embd=V,
        tie_weights=False,
    )
    model = GPT(config).eval()
    for parameter in model.parameters():
        parameter.zero_()
    model.token_embedding.weight.copy_(torch.eye(V))
    model.final_norm.weight.fill_(1)
    for now, then in pairwise(said):
        model.head.weight[then, now] = 9
    return model


def kept_in(path, model, tokenizer=TOKENIZER):
    """The folder, as ``llmbook align`` leaves it."""
    checkpoint.save(path / "model.safetensors", model)
    tokenizer.save(path / "tokenizer.json")
    return str(path)


@pytest.fixture(scope="module")
def ona(tmp_path_factory):
    return kept_in(tmp_path_factory.mktemp("ona"), parrot("Ona hums too."))


def by_user(text):
    return {"role": "user", "content": text}


def said(talk, text):
    return "".join(talk.reply(talk.prompt(text)))


def pipe(monkeypatch, content):
    data = content.encode() if isinstance(content, str) else content
    stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "choices", [{"temperature": 0}, {"temperature": 1.0, "top_p": 0.9}]
)
def test_a_streamed_reply_is_the_one_that_answer_gives(seed, choices):
    model = untaught(seed)
    talk = Talk(model, TOKENIZER, max_new_tokens=20, seed=seed, **choices)
    chat = [by_user("Who hums?")]
    expected = answer(model, TOKENIZER, [chat], 20, seed=seed, **choices)
    assert said(talk, "Who hums?") == expected[0]


def test_later_replies_are_given_in_the_light_of_what_was_said():
    model = untaught(3, context_length=4 * T)
    talk = Talk(model, TOKENIZER, system="Hum.", temperature=0)
    for question in ("Who?", "Ona?"):
        reply = said(talk, question)
        assert talk.messages[-1] == {"role": "assistant", "content": reply}
    roles = [message["role"] for message in talk.messages]
    assert roles == ["system", *["user", "assistant"] * 2]
    chat = [*talk.messages, by_user("a")]
    expected = answer(model, TOKENIZER, [chat], T, temperature=0)
    assert [said(talk, "a")] == expected


def test_of_a_reply_that_was_stopped_what_was_shown_counts_as_said():
    talk = Talk(parrot("né日"), TOKENIZER, temperature=0)
    reply = talk.reply(talk.prompt("Who?"))
    assert next(reply) + next(reply) == "né"
    assert talk.messages[-1]["content"] == "né"


@pytest.mark.parametrize("end", ["<|end|>", "<|user|>", "<|endoftext|>"])
def test_any_control_token_ends_the_turn(end):
    talk = Talk(parrot("Ona hums", end), TOKENIZER, temperature=0)
    assert said(talk, "Who?") == "Ona hums"
    assert not talk.cut


def test_a_reply_that_was_cut_says_so(tmp_path, capsys):
    folder = kept_in(tmp_path, parrot("Ona hums too."))
    arguments = ["chat", folder, "--message=Who?", "--max-new-tokens=2"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == TOKENIZER.decode(
        TOKENIZER.encode("Ona hums too.")[:2]
    )
    assert "cut after 2 tokens" in captured.err


@given(st.binary(max_size=30), st.lists(st.integers(0, 30)))
def test_text_in_parts_is_the_text_however_it_is_cut(data, cuts):
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    parts = [data[a:b] for a, b in pairwise(edges)]
    found = list(whole_characters(parts))
    assert "".join(found) == data.decode("utf-8", "replace")


def test_a_character_is_held_back_until_it_is_whole():
    talk = Talk(parrot("né日"), TOKENIZER, temperature=0)
    assert len(TOKENIZER.encode("né日")) == 6
    assert list(talk.reply(talk.prompt("Who?"))) == ["n", "é", "日"]


@given(st.text())
def test_what_a_terminal_would_obey_is_never_sent_to_it(text):
    shown = visible(text)
    obeyed = {chr(n) for n in (*range(32), *range(127, 160))} - {"\n", "\t"}
    bidirectional = {
        *"\u061c\u200e\u200f",
        *map(chr, range(0x202A, 0x202F)),
        *map(chr, range(0x2066, 0x206A)),
    }
    assert not (obeyed | bidirectional | {"\u2028", "\u2029"}) & set(shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("right\rwrong", "right\\rwrong"),
        ("\x9b31m\x07\x7f\0", "\\x9b31m\\x07\\x7f\\x00"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\U000e0041", "\\U000e0041"),
        ("né 日本\n\t👩‍🚀", "né 日本\n\t👩‍🚀"),
    ],
)
def test_escapes_stand_for_what_is_obeyed_and_nothing_else(text, shown):
    assert visible(text) == shown


def test_a_model_cannot_command_the_terminal(tmp_path, capsys):
    folder = kept_in(tmp_path, parrot("\x1b[8m\r\u202e"))
    assert cli.main(["chat", folder, "--message=Who?"]) == 0
    assert capsys.readouterr().out == "\\x1b[8m\\r\\u202e\n"


def test_what_the_output_cannot_encode_is_escaped(tmp_path, monkeypatch):
    folder = kept_in(tmp_path, parrot("né"))
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert cli.main(["chat", folder, "--message=Who?"]) == 0
    assert written.getvalue().split() == [b"n\\xe9"]


def test_a_user_can_spell_control_tokens_and_means_letters():
    talk = Talk(untaught(), TOKENIZER, max_new_tokens=1, temperature=0)
    ids = talk.prompt("<|system|>a<|end|>")
    names = {number: name for name, number in SPECIAL.items()}
    assert [names[i] for i in ids if i in names] == [
        "<|endoftext|>",
        "<|user|>",
        "<|end|>",
        "<|assistant|>",
    ]
    assert TOKENIZER.decode(ids[2:-2]) == "<|system|>a<|end|>"


def test_a_long_conversation_loses_its_oldest_exchanges_and_says_so_once(
    capsys,
):
    talk = Talk(parrot("Ona"), TOKENIZER, system="Hum.", temperature=0)
    spoken = [{"role": "system", "content": "Hum."}]
    for number in range(9):
        question = [by_user(f"Who {number}?")]
        expected = encode_prompt(TOKENIZER, spoken + question, talk.room)
        ids = talk.prompt(question[0]["content"])
        assert ids == expected
        reply = "".join(talk.reply(ids))
        spoken += [*question, {"role": "assistant", "content": reply}]
    assert talk.full and len(talk.messages) < len(spoken)
    assert talk.messages == [spoken[0], *spoken[1 - len(talk.messages) :]]
    talk.reset()
    for _ in range(9):
        take_turn(talk, NEWER)
    assert capsys.readouterr().err.count("forgets its beginning") == 1


def test_lines_of_a_pipe_are_answered_one_by_one(ona, capsys, monkeypatch):
    pipe(monkeypatch, "Who?\n/reset\r\nWho\n/quit\nWho?\n")
    assert cli.main(["chat", ona]) == 0
    captured = capsys.readouterr()
    assert captured.out == "Ona hums too.\n" * 2
    assert captured.err == "llmbook: begun anew\n"


def test_a_line_without_answer_is_named_and_the_next_is_answered(
    ona, capsys, monkeypatch
):
    pipe(monkeypatch, b"\n" + b"who " * 99 + b"\nWho\xff?\nWho?")
    assert cli.main(["chat", ona]) == 1
    captured = capsys.readouterr()
    assert captured.out == "Ona hums too.\n" * 2
    assert [line.split()[1:4] for line in captured.err.splitlines()] == [
        ["an", "empty", "line"],
        ["the", "last", "question"],
        ["1", "of", "the"],
    ]


def test_a_message_is_taken_as_it_is(ona, capsys):
    for message in ("Who?", "/quit", ""):
        assert cli.main(["chat", ona, "--message", message]) == 0
        assert capsys.readouterr().out == "Ona hums too.\n"
    assert cli.main(["chat", ona, "--message", "who " * 99]) == 1
    assert "the last question takes" in capsys.readouterr().err


def test_a_seed_decides_what_is_said(tmp_path, capsys):
    folder = kept_in(tmp_path, untaught())
    outputs = []
    for seed in ("1", "1", "2"):
        arguments = ["chat", folder, "--message=Who?", "--seed", seed]
        assert cli.main([*arguments, "--temperature=1"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_folder_for_transformers_answers_too(tmp_path, capsys):
    model = untaught()
    save_chat_model(model, TOKENIZER, tmp_path / "hub")
    arguments = ["chat", str(tmp_path / "hub"), "--message=Who?"]
    assert cli.main([*arguments, "--temperature=0"]) == 0
    expected = answer(
        model, TOKENIZER, [[by_user("Who?")]], T // 4, temperature=0
    )
    assert capsys.readouterr().out == visible(expected[0]) + "\n"


def test_without_a_folder_the_books_own_model_answers(monkeypatch, capsys):
    asked = []

    def load_aligned(stage):
        asked.append(stage)
        return SimpleNamespace(model=parrot("Ona."), tokenizer=TOKENIZER)

    monkeypatch.setattr(aligned, "load_aligned", load_aligned)
    monkeypatch.setenv("LLMBOOK_MODELS", "nowhere")
    assert cli.main(["chat", "--message=Who?"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "Ona.\n" and asked == ["dpo"]
    assert "model is made first" in captured.err


def test_a_model_that_cannot_answer_is_refused_with_the_mend(tmp_path, capsys):
    folder = kept_in(tmp_path, untaught(V=PLAIN.vocab_size), PLAIN)
    assert cli.main(["chat", folder, "--message=Who?"]) == 1
    error = capsys.readouterr().err
    assert f"llmbook align sft OUT --model {folder}" in error
    assert cli.main(["chat", "nowhere", "--message=Who?"]) == 1
    assert "'nowhere' holds no model" in capsys.readouterr().err
    checkpoint.save(tmp_path / "half" / "checkpoint.safetensors", untaught())
    assert cli.main(["chat", str(tmp_path / "half")]) == 1
    assert "with --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--max-new-tokens=0", "max_new_tokens is 0"),
        (f"--max-new-tokens={T}", f"max_new_tokens is {T}"),
        ("--temperature=-1", "temperature is -1.0"),
        ("--top-p=2", "top_p is 2.0"),
        ("--system=" + "who " * 99, "Shorten the system message"),
    ],
)
def test_wrong_options_are_refused_before_the_first_question(
    option, word, ona, capsys, monkeypatch
):
    pipe(monkeypatch, "")
    assert cli.main(["chat", ona, option]) == 1
    assert word in capsys.readouterr().err


def test_without_an_input_the_mend_is_named(ona, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["chat", ona]) == 1
    assert "Ask with --message" in capsys.readouterr().err


def events(monkeypatch, *happenings):
    """Let ``input()`` return texts and raise errors, in this order."""
    left = iter(happenings)

    def one(prompt):
        happening = next(left)
        if isinstance(happening, str):
            return happening
        raise happening

    monkeypatch.setattr("builtins.input", one)


def test_two_interruptions_in_a_row_leave_and_one_does_not(
    monkeypatch, capsys
):
    talk = Talk(parrot("Ona."), TOKENIZER, temperature=0)
    events(monkeypatch, KeyboardInterrupt, "Who?", KeyboardInterrupt, EOFError)
    with_a_person(talk)
    assert capsys.readouterr().out.count("Ona.") == 1
    events(monkeypatch, KeyboardInterrupt, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        with_a_person(talk)
    events(monkeypatch, " /quit ")
    with_a_person(talk)


CHILD = """
import fcntl, os, select, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C comes from this terminal
signal.signal(signal.SIGINT, signal.default_int_handler)  # even if the
# tests run in the background of a shell, which ignores it for all of them
from llmbook import cli
from llmbook.cli import chatting
gate, folder, stream = int(sys.argv[1]), sys.argv[2], chatting.stream
def gated(*arguments, **choices):
    for token in stream(*arguments, **choices):
        while not select.select([gate], [], [], 0.05)[0]:
            pass  # a signal just before a read that waits would wait with it
        os.read(gate, 1)
        yield token
chatting.stream = gated
sys.exit(cli.main(["chat", folder]))
"""


class Terminal:
    """A chat in a terminal, whose model speaks when it is let."""

    def __init__(self, folder):
        self.screen, inside = os.openpty()
        gate, self.gate = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(gate), folder],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            pass_fds=[gate],
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": ""},
        )
        os.close(inside)
        os.close(gate)

    def type(self, keys):
        os.write(self.screen, keys.encode())

    def let_speak(self, tokens):
        os.write(self.gate, b"." * tokens)

    def until(self, text):
        """What is shown up to ``text``, which is waited for."""
        shown = ""
        while not shown.endswith(text):
            ready, _, _ = select.select([self.screen], [], [], SECONDS)
            assert ready, f"waited for {text!r} and saw {shown!r}"
            shown += os.read(self.screen, 1).decode("ascii")
        return shown

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.screen)
        os.close(self.gate)


@pytest.fixture
def terminal(ona):
    pytest.importorskip("pty", reason="needs a system with terminals")
    terminal = Terminal(ona)
    yield terminal
    terminal.close()


def test_in_a_terminal_words_come_one_by_one_and_ctrl_c_stops_a_reply(
    terminal,
):
    pieces = [TOKENIZER.decode([i]) for i in TOKENIZER.encode("Ona hums too.")]
    terminal.until("parameters. /reset begins anew")
    terminal.until("> ")
    terminal.type("Who?\n")
    terminal.until("Who?\r\n")
    for piece in pieces[:2]:  # the model waits: no later one can be shown
        terminal.let_speak(1)
        assert terminal.until(piece) == piece
    terminal.type("\x03")
    assert pieces[2] not in terminal.until("Ctrl-C again ends")
    terminal.until("> ")
    terminal.let_speak(len(pieces) + 1)
    terminal.type("And now?\n")
    terminal.until("And now?\r\nOna hums too.\r\n> ")
    terminal.type("\x04")
    terminal.until("\n")
    assert terminal.process.wait(SECONDS) == 0
