"""What is measured is what the grammar, the numbers and the tests say."""

import itertools
import math
import random
import re

import pytest
import torch

from llmbook.alignment import (
    measures,
    with_chat_tokens,
    world_chats,
    world_preferences,
    world_problems,
)
from llmbook.alignment.recall import fact_items
from llmbook.config import GPTConfig
from llmbook.corpus.world import (
    LULL,
    at_random,
    files,
    lexicon,
    logprob,
    write,
)
from llmbook.corpus.world.facts import STATED
from llmbook.corpus.world.questions import KNOWN
from llmbook.evaluation.statistics import wilson_interval
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
from llmbook.train import token_losses

WISHES = KNOWN["wish"].items()
TOKENIZER = with_chat_tokens(BPETokenizer([]))  # a token is a byte


@pytest.fixture(scope="module")
def model():
    config = GPTConfig(
        vocab_size=TOKENIZER.vocab_size,
        context_length=256,
        n_layer=1,
        n_head=2,
        n_embd=16,
    )
    return GPT(config, torch.Generator().manual_seed(0)).eval()


# --- tempers ---------------------------------------------------------------

LAST = ("give-back", "leave-with", "both", "take-turns", "farewell")


def told(number):
    """A story's ending, and the temper by the grammar's own tag."""
    usual = at_random(random.Random(f"tempers/{number}"))
    tags = []

    def pick(rule):
        index = usual(rule)
        if rule.name.partition("[")[0] in LAST:
            tags.append(rule.options[index].tag)
        return index

    story = write(files.only("story"), pick)
    return story.answer, tags[-1]


def test_an_endings_temper_is_the_grammars_own_tag():
    tags = []
    for number in range(800):
        ending, tag = told(number)
        assert measures.temper(ending) == tag, ending
        tags.append(tag)
    assert 100 < tags.count("unkind") < tags.count("kind")


def test_every_last_line_has_its_temper_whatever_names_stand_in_it():
    words = ["Ona", "the very old hen", "Plonik", "at the edge of the wood"]
    seen = 0
    for name in LAST:
        for option in LULL.rules[name].options:
            for word in words:
                line = re.sub(r"\{[^}]*\}|<[^>]*>", word, option.template)
                for ending in (line, f"\n\n{line} The crow clapped."):
                    assert measures.temper(ending) == option.tag, ending
                    seen += 1
    assert seen > 400


def test_what_is_no_last_line_has_no_temper():
    ending, _ = told(1)
    words = ending.split()
    for broken in (
        "",
        "   ",
        "The end.",
        " ".join(words[: len(words) // 3]),
        " ".join(reversed(words)),
        "Then " + ending.strip(),
    ):
        assert measures.temper(broken) is None, broken


# --- answers ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["question", "instruction", "ending"])
@pytest.mark.parametrize("side", ["seen", "unseen"])
def test_the_worlds_answers_are_right_and_a_strangers_are_not(kind, side):
    chats = world_chats(kind, side, 40)
    replies = [chat[-1]["content"] for chat in chats]
    assert all(measures.judged(kind, chats, replies))
    cut = [reply[:-1] for reply in replies]
    assert not any(measures.judged(kind, chats, cut))
    none = [""] * len(chats)
    assert not any(measures.judged(kind, chats, none))


def test_a_wrong_name_in_an_ending_makes_the_story_malformed_but_kind():
    chosen = None
    for choice in world_preferences("unseen", 40):
        if "As for" in choice.chosen or " keeps " in choice.chosen:
            chosen = choice
            break
    story = chosen.prompt[0]["content"]
    names = [name for name in lexicon.PEOPLE if name in chosen.chosen]
    stranger = next(n for n in lexicon.PEOPLE if n not in story)
    wrong = chosen.chosen.replace(names[0], stranger)
    found = measures.judged_endings([story] * 3, [chosen.chosen, wrong, "."])
    assert found.tempers == ("kind", "kind", None)
    assert found.whole == (True, False, False)
    assert (found.n, found.kind, found.unkind) == (3, 2, 0)
    assert (found.neither, found.malformed) == (1, 2)


def test_sums_are_judged_by_their_number_and_functions_by_their_tests():
    sums = world_chats("sum", "unseen", 20)
    for chat in sums:
        worked = chat[-1]["content"]
        number = worked.split("#### ")[1]
        assert measures.answered_right("sum", chat, worked)
        assert measures.answered_right("sum", chat, f"#### {number}")
        assert not measures.answered_right("sum", chat, number)
    problems = world_problems("function", "unseen", 3)
    bodies = [p.answer.canonical_solution for p in problems]
    assert measures.judged("function", problems, bodies) == [True] * 3
    assert not measures.answered_right("function", problems[0], "    pass")


def test_only_the_last_question_of_a_conversation_is_judged():
    one, two = world_chats("question", "seen", 2)
    chat = [*one, *two]
    assert measures.answered_right("question", chat, two[-1]["content"])
    assert measures.asked(chat) == [*one, two[0]]
    assert measures.asked(chat[:-1]) == [*one, two[0]]
    assert not measures.answered_right("question", chat, "Nobody.")


def test_what_cannot_be_judged_is_refused():
    chat = world_chats("function", "seen", 1)[0]
    with pytest.raises(ValueError, match="world_problems"):
        measures.answered_right("function", chat, "    pass")
    with pytest.raises(ValueError, match="world_problems"):
        measures.answered_right("sum", chat[:1], "#### 7")
    with pytest.raises(ValueError, match="'poem'; expected one of question"):
        measures.answered_right("poem", chat, "Roses")


def test_accuracy_counts_the_models_own_replies(model, monkeypatch):
    chats = world_chats("sum", "seen", 6)
    right = [chat[-1]["content"] for chat in chats]
    monkeypatch.setattr(
        measures, "answer", lambda *_, **__: [*right[:4], "7", "8"]
    )
    score = measures.accuracy(model, TOKENIZER, "sum", chats)
    assert (score.right, score.n, score.share) == (4, 6, 4 / 6)
    assert score.interval == wilson_interval(4, 6)
    assert score.replies == (*right[:4], "7", "8")
    assert score.verdicts == (True,) * 4 + (False,) * 2


def test_replies_do_not_depend_on_how_many_are_written_at_once(
    model, monkeypatch
):
    chats = world_chats("question", "seen", 7)
    choices = {"temperature": 1.0, "seed": 3, "max_new_tokens": 8}
    at_once = measures.replies_to(model, TOKENIZER, chats, **choices)
    monkeypatch.setattr(measures, "ROWS", 3)
    assert measures.replies_to(model, TOKENIZER, chats, **choices) == at_once
    assert len(set(at_once)) > 1


def test_several_samples_of_a_prompt_stand_together_and_differ(model):
    chats = world_chats("sum", "seen", 2)
    score = measures.accuracy(
        model,
        TOKENIZER,
        "sum",
        chats,
        temperature=1.0,
        seed=0,
        samples=3,
        max_new_tokens=4,
    )
    assert score.n == 6
    assert len(set(score.replies)) > 3


def test_stories_without_room_for_an_ending_are_left_out(model):
    choices = world_preferences("seen", 30, paragraphs=1)
    fits = [c for c in choices if len(c.prompt[0]["content"]) + 3 + 48 <= 256]
    assert 0 < len(fits) < 30
    found = measures.endings(model, TOKENIZER, choices)
    assert found.n == len(fits) == found.malformed == found.neither
    with pytest.raises(ValueError, match="none leaves 250 of 256 tokens"):
        measures.endings(model, TOKENIZER, choices, max_new_tokens=250)


# --- facts -----------------------------------------------------------------


def close(text):
    """The rest of a document about a person or a place."""
    return f"{text} The rest is gossip."


def rest_of(item, choice):
    """A whole document of the world that says what ``choice`` says."""
    text = item.question + choice
    if item.subject == "wish":
        if re.search(r" (place is|stand|done it|It is done)", text):
            return close(text)
        at = next(k["at"] for w, k in WISHES if w.lower() in text.lower())
        return close(f"{text} Go and stand {at}.")
    opening = text.partition(".")[0]
    name = next(
        n
        for n in KNOWN[item.subject]
        if n in opening.split() or f"{n}," in opening.split()
    )
    known = KNOWN[item.subject][name]
    key = {"person": "A", "place": "P"}[item.subject]
    scene = {f"{key}.{k}": v for k, v in known.items() if k} | {key: name}
    texts = []
    for wording in STATED[item.subject].values():
        line = re.sub(r"\{([\w.]+)\}", lambda m: scene[m[1]], wording[1])
        texts.append(line.replace("<day>", "Monday"))
    for some in itertools.permutations(texts, 2):
        whole = close(" ".join([text, *some]))
        if logprob(whole) > -math.inf:
            return whole
    return close(text)


def test_the_right_sentence_is_the_worlds_and_the_wrong_ones_are_not():
    items = fact_items()
    assert len(items) == 12 * 5 * 3 + 14 * 4 * 3 + 12 * (4 * 2 + 4)
    for item in items[::3]:
        assert logprob(rest_of(item, item.right)) > -math.inf, item
        assert len(set(item.choices)) == 4
        for choice in item.choices:
            if choice != item.right:
                assert logprob(rest_of(item, choice)) == -math.inf, item


def test_a_fact_is_known_where_its_text_is_the_likeliest(model):
    items = random.Random(0).sample(fact_items(), 12)
    score = measures.facts_cloze(model, TOKENIZER, items)
    end = TOKENIZER.end_of_text
    for item, chosen in zip(items, score.replies, strict=True):
        nats = []
        for choice in item.choices:
            ids = TOKENIZER.encode(item.question + choice)
            start = len(TOKENIZER.encode(item.question))
            losses = token_losses(model, ids, end)
            nats.append(losses[start:].sum().item())
        assert item.choices[nats.index(min(nats))] == chosen
    right = [c == i.right for c, i in zip(score.replies, items, strict=True)]
    assert score.verdicts == tuple(right)


def test_a_model_that_knows_nothing_guesses(model):
    share = measures.facts_cloze(model, TOKENIZER, fact_items()[::4]).share
    assert 0.1 < share < 0.45


def test_forgetting_is_the_mean_over_all_tokens_and_ends(model):
    texts = ["Ona lost the kite.", "Tam hums."]
    end = TOKENIZER.end_of_text
    losses = [
        token_losses(model, [*TOKENIZER.encode(text), end], end)
        for text in texts
    ]
    expected = torch.cat(losses).mean().item()
    found = measures.forgetting(model, TOKENIZER, texts)
    assert found == pytest.approx(expected, rel=1e-6)
