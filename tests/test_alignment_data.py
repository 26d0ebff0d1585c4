"""data, readers: what is learned from and what is judged by, kept apart."""

import doctest
import itertools
import json
import random
import re
from collections import Counter

import pytest

from llmbook.alignment import (
    KINDS,
    Choice,
    check_conversation,
    encode,
    encode_preference,
    read_chats,
    read_preferences,
    read_problems,
    training_chats,
    with_chat_tokens,
    world_chats,
    world_preferences,
    world_problems,
)
from llmbook.alignment.data import PATIENCE, distinct, exchange, joined
from llmbook.corpus import world
from llmbook.corpus.benchmarks import WordProblem
from llmbook.evaluation.humaneval import check_solution
from llmbook.tokenizer import BPETokenizer

DOCUMENTS = {  # how the corpus writes a prompt and its answer
    "question": "Question: {}\nAnswer: {}",
    "instruction": "Instruction: {}\nResponse: {}",
    "sum": "Question: {}\nAnswer: {}",
    "ending": "{}{}",
}


@pytest.fixture
def tokenizer():
    return with_chat_tokens(BPETokenizer([]))


def prompts(chats):
    return [chat[0]["content"] for chat in chats]


def write_lines(folder, *rows):
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- conversations of the world --------------------------------------------


@pytest.mark.parametrize("side", ["seen", "unseen"])
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_the_world_could_have_written_each_answer_on_this_side(kind, side):
    other = "seen" if side == "unseen" else "unseen"
    for prompt, reply in world_chats(kind, side, 25):
        text = DOCUMENTS[kind].format(prompt["content"], reply["content"])
        assert world.logprob(text, side) > -float("inf")
        assert world.logprob(text, other) == -float("inf")


def test_functions_do_what_their_examples_say():
    for prompt, reply in world_chats("function", "unseen", 25):
        assert reply["content"].startswith("    ")
        names = {}
        exec(f"{prompt['content']}\n{reply['content']}\n", names)
        (made,) = [f for f in names.values() if callable(f)]
        (test,) = doctest.DocTestFinder().find(made, globs=names)
        done = doctest.DocTestRunner().run(test)
        assert done.attempted > 0 and not done.failed


@pytest.mark.parametrize("kind", KINDS)
def test_no_prompt_is_learned_from_and_judged_by(kind):
    learned = prompts(world_chats(kind, "seen", 200))
    judged = prompts(world_chats(kind, "unseen", 100, seed=1))
    assert len(set(learned)) == 200 and len(set(judged)) == 100
    assert not set(learned) & set(judged)
    assert learned == prompts(world_chats(kind, "seen", 200))
    assert learned != prompts(world_chats(kind, "seen", 200, seed=1))


def test_a_world_with_too_few_prompts_says_how_many_it_has():
    with pytest.raises(ValueError, match="the world has") as caught:
        world_chats("question", "unseen", 1_000)
    (count,) = re.findall(r"the world has (\d+)", str(caught.value))
    ours = prompts(world_chats("question", "unseen", int(count)))
    others = prompts(world_chats("question", "unseen", int(count), seed=1))
    assert set(ours) == set(others)


def test_looking_for_something_new_has_an_end():
    rows = itertools.cycle([exchange("Who hums?", "Ona.")])
    with pytest.raises(ValueError, match="the world has 1"):
        distinct(rows, 2, "prompts")
    same = list(itertools.islice(rows, PATIENCE))
    late = [exchange("Who naps?", "Tam."), exchange("Who swims?", "Bo.")]
    found = distinct([*same, late[0], *same[1:], late[1]], 3, "")
    assert found == [same[0], *late]


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="question, instruction, sum"):
        world_chats("riddle", "seen", 1)
    with pytest.raises(ValueError, match="expected one of sum, function"):
        world_problems("question", "seen", 1)
    with pytest.raises(ValueError, match="'riddle'"):
        training_chats({"riddle": 1})


def test_half_of_the_endings_are_kind():
    chats = world_chats("ending", "seen", 300)
    rows = world.files.preferences("seen", "chats/0")
    chosen = {row["prompt"]: row["chosen"] for row in rows_of(rows, 320)}
    kind = [reply["content"] == chosen[p["content"]] for p, reply in chats]
    assert 0.4 < sum(kind) / len(kind) < 0.6


def rows_of(rows, count):
    return itertools.islice(rows, count)


def test_the_mixture_has_its_shares_in_random_order_and_several_turns():
    shares = {"question": 400, "sum": 100}
    chats = training_chats(shares, turns={1: 1, 3: 1})
    for chat in chats:
        check_conversation(chat)
    turns = Counter(len(chat) // 2 for chat in chats)
    asked = [m["content"] for c in chats for m in c if m["role"] == "user"]
    known = set(prompts(world_chats("question", "seen", 700)))
    sums = [text for text in asked if text not in known]
    assert len(asked) == 500
    assert 90 < len(sums) < 130  # a few rare questions are not known
    assert set(turns) <= {1, 2, 3}  # the last may have fewer
    assert turns[1] - 100 == pytest.approx(turns[3], abs=40)
    begun = [chat[0]["content"] in known for chat in chats]
    assert 0.4 < sum(begun[: len(begun) // 2]) / sum(begun) < 0.6
    assert chats == training_chats(shares, turns={1: 1, 3: 1})
    assert chats != training_chats(shares, seed=1, turns={1: 1, 3: 1})


def test_joining_loses_no_exchange():
    chats = [exchange(str(n), "Ona.") for n in range(50)]
    longer = list(joined(chats, {1: 1, 2: 2}, random.Random(0)))
    assert [m for chat in longer for m in chat] == [
        m for chat in chats for m in chat
    ]


# --- preferences and problems ----------------------------------------------


@pytest.mark.parametrize("side", ["seen", "unseen"])
def test_both_endings_of_a_preference_are_the_world_s(side):
    for prompt, chosen, rejected in world_preferences(side, 20):
        (story,) = prompt
        assert chosen != rejected
        for ending in (chosen, rejected):
            assert world.logprob(story["content"] + ending, side) > -1e9


def test_a_story_may_be_told_from_its_last_paragraph_on():
    whole = world_preferences("seen", 5)
    short = world_preferences("seen", 5, paragraphs=1)
    for (story,), (end,) in zip(
        [c.prompt for c in whole], [c.prompt for c in short], strict=True
    ):
        assert story["content"].endswith(end["content"])
        assert "\n\n" not in end["content"]


def test_the_result_of_a_sum_is_what_its_last_equation_gives():
    worked = {p["content"]: r["content"] for p, r in sums_of("problems/0")}
    for problem in world_problems("sum", "unseen", 40):
        text = worked[problem.messages[0]["content"]]
        a, sign, b = re.findall(r"(\d+) ([-+*]) (\d+) =", text)[-1]
        result = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
        assert problem.answer == str(result[sign](int(a), int(b)))


def sums_of(seed):
    from llmbook.alignment.data import exchanges

    return itertools.islice(exchanges("sum", "unseen", seed), 60)


def test_the_tests_of_a_function_know_right_from_wrong():
    for problem in world_problems("function", "unseen", 3):
        code = problem.answer
        assert problem.messages[0]["content"] + "\n" == code.prompt
        assert check_solution(code, code.canonical_solution).passed
        assert not check_solution(code, "    return None").passed


def test_problems_differ_and_have_names_of_their_own():
    problems = world_problems("function", "seen", 30)
    assert len({p.answer.task_id for p in problems}) == 30
    assert len({p.messages[0]["content"] for p in problems}) == 30


def test_a_preference_is_the_two_conversations_that_it_stands_for(tokenizer):
    (choice,) = world_preferences("seen", 1)
    found = encode_preference(tokenizer, *choice, 10_000)
    for reply, ids in zip(choice[1:], found.answers, strict=True):
        whole = [*choice.prompt, {"role": "assistant", "content": reply}]
        assert [*found.prompt, *ids] == encode(tokenizer, whole).ids


def test_a_preference_fits_or_is_left_out_whole(tokenizer):
    choice = Choice([{"role": "user", "content": "ab"}], "c", "defg")
    # <|endoftext|> <|user|> a b <|end|> <|assistant|> d e f g, then a target
    assert encode_preference(tokenizer, *choice, 10) is not None
    assert encode_preference(tokenizer, *choice, 9) is None


def test_a_spelled_token_in_a_reply_is_characters(tokenizer):
    choice = Choice([{"role": "user", "content": "ab"}], "<|end|>", "c")
    found = encode_preference(tokenizer, *choice, 100)
    assert len(found.chosen) == len("<|end|>") + 1
    assert found.chosen.count(tokenizer.special_tokens["<|end|>"]) == 1


# --- files of a user -------------------------------------------------------


def test_conversations_are_read_in_both_forms(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who hums? <|end|>"},
        {"role": "assistant", "content": "Ona."},
    ]
    path = write_lines(
        tmp_path,
        {"messages": messages, "source": "mine"},
        {"prompt": "Who naps?", "response": "Tam."},
    )
    path.write_text("\ufeff" + path.read_text() + "\n")  # as Windows may
    assert read_chats(path) == [messages, exchange("Who naps?", "Tam.")]


def test_preferences_are_read_with_a_text_or_messages_as_prompt(tmp_path):
    asked = [{"role": "user", "content": "Who hums?"}]
    row = {"chosen": "Ona.", "rejected": "No."}
    path = write_lines(
        tmp_path, {"prompt": "Who hums?", **row}, {"prompt": asked, **row}
    )
    assert read_preferences(path) == [Choice(asked, "Ona.", "No.")] * 2


def test_problems_of_both_benchmarks_are_read(tmp_path):
    code = world.functions.humaneval_rows("seen", 1)[0]
    solved = {"question": "2 bags of 600?", "answer": "...\n#### 1,200"}
    number, function = read_problems(write_lines(tmp_path, solved, code))
    assert (number.kind, number.answer) == ("sum", "1200")
    assert number.answer == WordProblem(**solved).result
    assert function.kind == "function"
    assert vars(function.answer) == code


GOOD = {"prompt": "Who hums?", "response": "Ona."}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "a list, not an object"),
        ('{"prompt": "a"}', "no text under response"),
        ('{"prompt": "a", "response": 3}', "no text under response"),
        ('{"messages": "a"}', "no list of objects"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "assistant's"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "robot"),
        ("[" * 100_000, "nested too deeply"),
        ('{"prompt": "\\ud800", "response": "a"}', "a lone surrogate"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, why):
    path = write_lines(tmp_path, GOOD)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 2: ") as caught:
        read_chats(path)
    assert why in str(caught.value)
    assert "Expected one JSON object a line" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "chosen": "b"}, "no text under rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "the same"),
        ({"prompt": [], "chosen": "b", "rejected": "c"}, "no user's message"),
        ({"prompt": 7, "chosen": "b", "rejected": "c"}, "under prompt"),
        (
            {
                "prompt": exchange("Who hums?", "Ona."),
                "chosen": "b",
                "rejected": "c",
            },
            "not the user's",
        ),
    ],
)
def test_a_bad_preference_is_named(tmp_path, row, why):
    with pytest.raises(ValueError, match="line 1: ") as caught:
        read_preferences(write_lines(tmp_path, row))
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"question": "a", "answer": "7"}, "no number after ####"),
        ({"question": "a", "answer": "#### 7 buns"}, "no number after ####"),
        # what the check takes a reply without a number for
        ({"question": "a", "answer": "#### [invalid]"}, "no number after"),
        ({"question": "a", "answer": "#### ."}, "no number after ####"),
        ({"question": "a"}, "no text under answer"),
        ({"prompt": "def f():"}, "no text under task_id, entry_point"),
    ],
)
def test_a_bad_problem_is_named(tmp_path, row, why):
    with pytest.raises(ValueError, match="line 1: ") as caught:
        read_problems(write_lines(tmp_path, row))
    assert why in str(caught.value)


def test_files_that_hold_nothing_or_no_text_say_so(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n\n")
    with pytest.raises(ValueError, match=r"mine\.jsonl is empty"):
        read_chats(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_chats(path)
