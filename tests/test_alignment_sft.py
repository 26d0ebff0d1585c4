"""sft, preferring, reinforcing: whole runs, held to what is known of them."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from llmbook import lora
from llmbook.alignment import (
    CHAT_TOKENS,
    Choice,
    LoRAChoice,
    Problem,
    encode,
    encode_preference,
    fine_tune,
    grow_vocabulary,
    prefer,
    reinforce,
    with_chat_tokens,
)
from llmbook.alignment.data import exchange, user
from llmbook.alignment.grpo import RECIPES
from llmbook.alignment.sft import as_document
from llmbook.config import GPTConfig, TrainConfig
from llmbook.hub import gpt_from_tensors
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
from llmbook.train import token_losses
from tests.peers import peer_gpt2

T = 48
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SETTINGS = TrainConfig(
    steps=12,
    batch_size=2,
    learning_rate=1e-2,
    warmup_steps=2,
    eval_every=4,
    eval_batches=1,
    dtype="float32",
)
CHATS = [exchange("Who hums?", "Ona."), exchange("Who naps?", "Tam naps.")] * 4
TWO_TURNS = [*exchange("Hi", "Ho"), *exchange("Hey", "Hu")]
TOO_LONG = exchange("?" * T, "!")
CHOICES = [
    Choice([user(f"Tell {n}.")], f"{n} hums kindly.", f"{n} bites.")
    for n in ("Ona", "Tam", "Bo", "Nell")
]
TOO_LONG_CHOICE = Choice([user("?" * T)], "a", "b")
PROBLEMS = [
    Problem("sum", [user(f"{a}+{b}")], str(a + b))
    for a in range(2)
    for b in range(2)
]


class Stopped(Exception):
    """The power went off."""


def power_cut(steps, model, history):
    if steps == 7:
        raise Stopped


@pytest.fixture
def tokenizer():
    return BPETokenizer([])  # 256 bytes and <|endoftext|>


@pytest.fixture
def model():
    config = GPTConfig(
        vocab_size=257,
        context_length=T,
        n_layer=2,
        n_head=2,
        n_embd=16,
        init_std=0.3,
    )
    return GPT(config, generator=torch.Generator().manual_seed(0)).eval()


def weights(model):
    return {n: t.clone() for n, t in model.state_dict().items()}


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[n], other[n]) for n in one)


@torch.no_grad()
def written_losses(model, tokenizer, chat):
    """−ln p of each of the assistant's tokens, one conversation alone."""
    ids, written = encode(tokenizer, chat)
    log_p = model(torch.tensor([ids]))[0][0].log_softmax(-1)
    return [
        -log_p[n - 1, ids[n]].item() for n in range(len(ids)) if written[n]
    ]


# --- learning to answer ----------------------------------------------------


def test_the_first_loss_is_transformers_over_what_the_assistant_wrote():
    tokenizer = with_chat_tokens(BPETokenizer([]))
    V = tokenizer.vocab_size
    peer = peer_gpt2(vocab_size=V, n_positions=T, initializer_range=0.3)
    config = GPTConfig(
        vocab_size=V, context_length=T, n_layer=2, n_head=2, n_embd=16
    )
    ours = gpt_from_tensors(peer.state_dict(), config)
    chats = [*CHATS[:2], TWO_TURNS]
    total, count = 0.0, 0
    for chat in chats:
        ids, written = encode(tokenizer, chat)
        labels = [i if w else -100 for i, w in zip(ids, written, strict=True)]
        with torch.no_grad():
            mean = peer(torch.tensor([ids]), labels=torch.tensor([labels]))
        total += mean.loss.item() * sum(written)
        count += sum(written)
    one = replace(SETTINGS, steps=1, batch_size=2)  # two rows hold them all
    tuned = fine_tune(ours, tokenizer, chats, one, progress=False)
    assert tuned.history.loss == [pytest.approx(total / count, abs=1e-5)]


def test_replayed_texts_are_learned_whole_and_alone(model, tokenizer):
    chat, text = CHATS[1], "Ona hums."
    chat_tokens = with_chat_tokens(tokenizer)
    grown = grow_vocabulary(model, chat_tokens.vocab_size)
    losses = written_losses(grown, chat_tokens, chat)
    end = tokenizer.end_of_text
    ids = [*tokenizer.encode(text), end]
    losses += token_losses(grown, ids, end).tolist()
    one = replace(SETTINGS, steps=1, batch_size=1)
    tuned = fine_tune(
        model, tokenizer, [chat], one, replay=[text], progress=False
    )
    wanted = sum(losses) / len(losses)
    assert tuned.history.loss == [pytest.approx(wanted, abs=1e-5)]


def test_a_replayed_text_spells_no_control_token_and_is_cut(tokenizer):
    tokenizer = with_chat_tokens(tokenizer)
    ids, learned = as_document(tokenizer, "<|end|>" * T, T)
    assert len(ids) == T + 1
    assert max(ids[1:]) < tokenizer.end_of_text == ids[0]
    assert learned == [False] + [True] * T


def test_answers_are_learned_and_the_model_given_stays(model, tokenizer):
    before = weights(model)
    tuned = fine_tune(
        model, tokenizer, CHATS, replace(SETTINGS, steps=60), progress=False
    )
    same(before, weights(model))
    assert model.config.vocab_size == 257
    assert tuned.model.config.vocab_size == tuned.tokenizer.vocab_size == 261
    assert not tuned.model.training
    losses = written_losses(tuned.model, tuned.tokenizer, CHATS[0])
    assert sum(losses) / len(losses) < 0.3 < tuned.history.loss[0]


def test_what_does_not_fit_is_left_out_and_counted(model, tokenizer):
    unanswered = [user("Who hums?")]
    tuned = fine_tune(
        model,
        tokenizer,
        [*CHATS, TOO_LONG, unanswered],
        SETTINGS,
        progress=False,
    )
    without = fine_tune(model, tokenizer, CHATS, SETTINGS, progress=False)
    assert (tuned.left_out, without.left_out) == (2, 0)
    same(weights(tuned.model), weights(without.model))
    with pytest.raises(ValueError, match="none of 2 examples"):
        fine_tune(model, tokenizer, [TOO_LONG] * 2, SETTINGS)


def test_the_loss_is_measured_on_other_conversations_too(model, tokenizer):
    other = [exchange("Who swims?", "Bo.")] * 8
    rows = replace(SETTINGS, eval_batches=1)
    tuned = fine_tune(
        model, tokenizer, CHATS, rows, validation=other, progress=False
    )
    steps, losses = zip(*tuned.history.evaluations, strict=True)
    assert steps == (0, 4, 8, 12)
    mine = written_losses(tuned.model, tuned.tokenizer, other[0])
    assert losses[-1] == pytest.approx(sum(mine) / len(mine), abs=1e-5)


def run_fine_tune(model, tokenizer, **options):
    return fine_tune(
        model, tokenizer, CHATS, SETTINGS, progress=False, **options
    )


def run_fine_tune_lora(model, tokenizer, **options):
    choice = LoRAChoice(rank=2, dropout=0.2)
    return run_fine_tune(model, tokenizer, lora=choice, **options)


def run_prefer(model, tokenizer, **options):
    return prefer(
        model, tokenizer, CHOICES, SETTINGS, sft=0.2, progress=False, **options
    )


def run_reinforce(model, tokenizer, **options):
    return reinforce(
        model,
        tokenizer,
        PROBLEMS,
        SETTINGS,
        reward=shortness,
        recipe="grpo",
        group_size=3,
        max_new_tokens=5,
        progress=False,
        **options,
    )


def shortness(numbers, answers):
    return [-float(len(set(ids))) for ids in answers]


@pytest.mark.parametrize(
    "run", [run_fine_tune, run_fine_tune_lora, run_prefer, run_reinforce]
)
def test_a_resumed_run_has_the_same_bits(model, tokenizer, run, tmp_path):
    whole = run(model, tokenizer)
    with pytest.raises(Stopped):
        run(model, tokenizer, run_dir=tmp_path, callbacks=[power_cut])
    seen = []
    resumed = run(
        model,
        tokenizer,
        run_dir=tmp_path,
        resume=True,
        callbacks=[lambda step, *_: seen.append(step)],
    )
    assert seen[0] == 5  # the last checkpoint is of step 4
    same(weights(whole.model), weights(resumed.model))
    assert resumed.history.loss == whole.history.loss
    assert resumed.measured == whole.measured
    again = run(model, tokenizer, run_dir=tmp_path, resume=True)
    same(weights(again.model), weights(whole.model))
    assert again.measured == whole.measured


@pytest.mark.parametrize(
    "lost", [Path.unlink, lambda file: file.write_text("")]
)
def test_measurements_that_were_lost_are_missed(
    model, tokenizer, tmp_path, lost
):
    with pytest.raises(Stopped):
        run_reinforce(
            model, tokenizer, run_dir=tmp_path, callbacks=[power_cut]
        )
    lost(tmp_path / "measured.jsonl")
    with pytest.raises(ValueError, match="tells of 0 steps"):
        run_reinforce(model, tokenizer, run_dir=tmp_path, resume=True)


# --- adapters --------------------------------------------------------------


def test_merged_adapters_compute_what_they_did_beside(model, tokenizer):
    tuned = run_fine_tune_lora(model, tokenizer)
    idx = torch.tensor([encode(tuned.tokenizer, CHATS[0]).ids])
    beside = tuned.model(idx)[0]
    merged = lora.merge(copy.deepcopy(tuned.model))
    assert not lora.adapters(merged) and lora.adapters(tuned.model)
    assert_close(merged(idx)[0], beside, **CLOSE)
    with lora.switched_off(tuned.model):
        before = tuned.model(idx)[0][:, :, :257]
    assert_close(before[:, 0], model(idx[:, :1])[0][:, 0], **CLOSE)
    assert not torch.allclose(before, beside[:, :, :257], atol=1e-2)


def test_adapters_learn_with_the_control_tokens_and_nothing_else(
    model, tokenizer
):
    tuned = run_fine_tune_lora(model, tokenizer)
    merged = weights(lora.merge(copy.deepcopy(tuned.model)))
    table = merged["token_embedding.weight"]
    assert torch.equal(
        table[:257], model.state_dict()["token_embedding.weight"]
    )
    mean = table[:257].mean(dim=0)
    for name in CHAT_TOKENS[1:]:  # no conversation here has a system message
        row = table[tuned.tokenizer.special_tokens[name]]
        assert not torch.allclose(row, mean, atol=1e-3)
    norms = [n for n in merged if "norm" in n]
    assert all(torch.equal(merged[n], model.state_dict()[n]) for n in norms)


def test_muon_is_refused_for_adapters(model, tokenizer):
    muon = replace(SETTINGS, optimizer="muon")
    with pytest.raises(ValueError, match="expected 'adamw' for adapters"):
        fine_tune(model, tokenizer, CHATS, muon, lora=LoRAChoice())
    fine_tune(model, tokenizer, CHATS, muon, progress=False)


def test_a_model_with_adapters_is_to_be_merged_first(model, tokenizer):
    tuned = run_fine_tune_lora(model, tokenizer)
    with pytest.raises(ValueError, match="Merge them"):
        prefer(tuned.model, tokenizer, CHOICES, SETTINGS)
    lora.merge(tuned.model)
    prefer(tuned.model, tokenizer, CHOICES, SETTINGS, progress=False)


# --- preferences -----------------------------------------------------------


@torch.no_grad()
def answer_logprob(model, prompt, answer):
    log_p = model(torch.tensor([[*prompt, *answer]]))[0][0].log_softmax(-1)
    first = len(prompt) - 1
    return sum(log_p[first + n, t].item() for n, t in enumerate(answer))


def test_the_first_loss_is_ln_2_and_the_chosen_words(model, tokenizer):
    tokenizer = with_chat_tokens(tokenizer)
    one = replace(SETTINGS, steps=1, batch_size=4)
    tuned = prefer(model, tokenizer, CHOICES, one, sft=0.5, progress=False)
    start = fine_tune(  # the same model with the vocabulary grown, untrained
        model,
        tokenizer,
        CHATS,
        replace(one, learning_rate=0.0, min_learning_rate=0.0),
        progress=False,
    ).model
    rows = [encode_preference(tokenizer, *c, T) for c in CHOICES]
    total = sum(answer_logprob(start, r.prompt, r.chosen) for r in rows)
    words = -total / sum(len(r.chosen) for r in rows)
    expected = math.log(2) + 0.5 * words
    assert tuned.history.loss == [pytest.approx(expected, abs=1e-4)]


@pytest.mark.parametrize("adapters", [None, LoRAChoice(rank=4)])
def test_the_chosen_replies_gain_on_the_rejected(model, tokenizer, adapters):
    before = weights(model)
    tuned = prefer(
        model,
        tokenizer,
        [*CHOICES, TOO_LONG_CHOICE],
        replace(SETTINGS, steps=40),
        lora=adapters,
        validation=CHOICES,
        progress=False,
    )
    same(before, weights(model))
    assert tuned.left_out == 1
    assert tuned.history.evaluations[0][1] == pytest.approx(math.log(2))
    assert tuned.history.evaluations[-1][1] < 0.3
    untouched = run_prefer_nothing(model, tokenizer)
    for choice in CHOICES:
        row = encode_preference(tuned.tokenizer, *choice, T)
        gains = [
            answer_logprob(tuned.model, row.prompt, answer)
            - answer_logprob(untouched, row.prompt, answer)
            for answer in row.answers
        ]
        assert gains[0] > gains[1] + 1


def run_prefer_nothing(model, tokenizer):
    still = replace(
        SETTINGS, steps=1, learning_rate=0.0, min_learning_rate=0.0
    )
    return prefer(model, tokenizer, CHOICES, still, progress=False).model


def test_the_losses_of_dpo_are_reached_by_their_names(model, tokenizer):
    one = replace(SETTINGS, steps=1, batch_size=4)

    def first(**choices):
        tuned = prefer(
            model, tokenizer, CHOICES, one, progress=False, **choices
        )
        return tuned.history.loss[0]

    assert first(kind="ipo", beta=0.2) == pytest.approx(6.25, rel=1e-4)
    assert first(kind="robust", label_smoothing=0.1) == pytest.approx(
        math.log(2)
    )
    with pytest.raises(ValueError, match="expected one of sigmoid"):
        first(kind="hinge")
    with pytest.raises(ValueError, match="none of 1 examples"):
        prefer(model, tokenizer, [TOO_LONG_CHOICE], one)


# --- rewards ---------------------------------------------------------------


def test_answers_that_are_rewarded_come_more_often(model, tokenizer):
    before, told = weights(model), []
    tuned = reinforce(
        model,
        tokenizer,
        PROBLEMS,
        replace(SETTINGS, steps=30, batch_size=4),
        reward=shortness,
        group_size=6,
        max_new_tokens=5,
        on_step=lambda step, measured: told.append((step, measured)),
        progress=False,
    )
    same(before, weights(model))
    rewards = [now["reward"] for now in tuned.measured]
    assert sum(rewards[-6:]) / 6 > sum(rewards[:6]) / 6 + 0.5
    assert told == list(enumerate(tuned.measured, start=1))
    names = {"reward", "length", "kl", "clipped", "equal"}
    assert len(tuned.measured) == 30 and names == set(tuned.measured[0])


def test_rewards_are_asked_with_the_numbers_of_the_problems_given(
    model, tokenizer
):
    long = Problem("sum", [user("?" * T)], "0")
    seen = []

    def reward(numbers, answers):
        seen.extend(numbers)
        return [0.0] * len(answers)

    tuned = reinforce(
        model,
        tokenizer,
        [long, *PROBLEMS, long],
        replace(SETTINGS, steps=2, batch_size=4),
        reward=reward,
        group_size=2,
        max_new_tokens=5,
        progress=False,
    )
    assert tuned.left_out == 2
    assert sorted(seen) == sorted([1, 2, 3, 4] * 4)
    with pytest.raises(ValueError, match="none of 1 examples"):
        reinforce(model, tokenizer, [long], SETTINGS, max_new_tokens=5)


def test_without_a_reward_the_problems_are_verified(model, tokenizer):
    """A model that has learned the sums by heart is right every time."""
    chats = [
        [*p.messages, {"role": "assistant", "content": f"#### {p.answer}"}]
        for p in PROBLEMS
    ]
    learned = fine_tune(
        model,
        tokenizer,
        chats,
        replace(SETTINGS, steps=200, eval_every=0),
        progress=False,
    )
    right = reinforce(
        learned.model,
        learned.tokenizer,
        PROBLEMS,
        replace(SETTINGS, steps=1, batch_size=4),
        group_size=2,
        max_new_tokens=8,
        progress=False,
    )
    assert right.measured[0]["reward"] > 0.8
    wrong = [replace(p, answer="9") for p in PROBLEMS]
    found = reinforce(
        learned.model,
        learned.tokenizer,
        wrong,
        replace(SETTINGS, steps=1, batch_size=4),
        group_size=2,
        max_new_tokens=8,
        progress=False,
    )
    assert found.measured[0]["reward"] < 0.2


def test_kl_is_measured_to_the_model_given_or_to_another(model, tokenizer):
    other = run_prefer(model, tokenizer).model

    def first_kl(**options):
        return run_reinforce(model, tokenizer, **options).measured[0]["kl"]

    assert first_kl() == pytest.approx(0, abs=1e-6)
    assert first_kl(reference=other) > 0.001


def test_unknown_recipes_and_accumulated_gradients_are_refused(
    model, tokenizer
):
    with pytest.raises(ValueError, match="expected one of grpo, dr_grpo"):
        reinforce(model, tokenizer, PROBLEMS, SETTINGS, recipe="ppo")
    two = replace(SETTINGS, accumulate=2)
    with pytest.raises(ValueError, match="accumulate is 2; expected 1"):
        reinforce(model, tokenizer, PROBLEMS, two)
    own = RECIPES["dapo"]._replace(high=0.5)
    assert run_own(model, tokenizer, own).history.steps == 1


def run_own(model, tokenizer, recipe):
    return reinforce(
        model,
        tokenizer,
        PROBLEMS,
        replace(SETTINGS, steps=1),
        reward=shortness,
        recipe=recipe,
        group_size=2,
        max_new_tokens=3,
        progress=False,
    )
