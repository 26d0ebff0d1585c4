"""Tokenizers of other orders of ids, against the tokenizers library."""

import functools
import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook import hub
from llmbook.hub.tokens import _split, letter_bytes, tokenizer_from_hub
from llmbook.tokenizer import END_OF_TEXT, BPETokenizer, TiktokenTokenizer

library = pytest.importorskip("tokenizers")

TEXT = """The kite is lost. Ona can't find it, and 12 crows don't care.
They'll look for it in 1984 places: behind the mill, under the bridge, up
in the old oak that nobody climbs.\n\n  Nobody but Ona, that is.\r\n
def climb(oak):\n    return [branch for branch in oak if branch.height > 2]
Où est le cerf-volant ? Wo ist der Drachen? ½ 漢字かな 12٣४\n"""
SPECIAL = [END_OF_TEXT, "<|im_start|>", "<|im_end|>"]


@functools.cache
def smol(whole_alphabet=False):
    """A tokenizer made as SmolLM2's was, of a much smaller text.

    Control tokens first, then the bytes that the text has, then merges;
    digits stand alone.
    """
    steps = library.pre_tokenizers
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = steps.Sequence(
        [
            steps.Digits(individual_digits=True),
            steps.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=360 if whole_alphabet else 220,
        special_tokens=SPECIAL,
        initial_alphabet=steps.ByteLevel.alphabet() if whole_alphabet else [],
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    made.encode_special_tokens = True  # their names are plain characters
    return made


@functools.cache
def ours(whole_alphabet=False):
    return tokenizer_from_hub(json.loads(smol(whole_alphabet).to_str()))


# Letters that Unicode got lately are cut by each library's own tables.
letters = st.characters(codec="utf-8", exclude_categories=["Cs", "Cn"])
texts = st.text(
    letters | st.sampled_from(" \n\t019½²٣४'sdtll") | st.sampled_from(TEXT)
)


@given(texts)
@example(TEXT)
@example("  1  a 12\n 3\n\n4 's1's '1s  ")
@example("<|endoftext|> <|im_start|>1<|im_end|>")
@example("the" * 300 + "\x00" * 300 + "é漢" * 200)
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("whole", [False, True])
def test_smollm2s_recipe_gives_the_ids_of_the_library(whole, text):
    expected = smol(whole).encode(text).ids
    assert ours(whole).encode(text, on_special="text") == expected


def test_the_two_orders_of_ids_are_read_by_two_classes():
    assert isinstance(ours(), hub.HubTokenizer)
    assert isinstance(ours(whole_alphabet=True), TiktokenTokenizer)
    assert ours().special_tokens == {n: i for i, n in enumerate(SPECIAL)}
    assert ours().end_of_text == 0
    assert ours().vocab_size == 220


def test_a_byte_without_a_token_is_left_out():
    assert b"\x00" not in {ours().token_bytes(i) for i in range(220)}
    assert ours().decode(ours().encode("lo\x00st")) == "lost"
    assert ours().encode("lo\x00st") == ours().encode("lost")
    whole = ours(whole_alphabet=True)
    assert whole.decode(whole.encode("lo\x00st")) == "lo\x00st"


def test_special_tokens_are_read_where_they_are_allowed():
    ids = ours().encode("a<|im_end|>", allowed_special="all")
    assert ids == [*ours().encode("a"), 2]
    with pytest.raises(ValueError, match="special token"):
        ours().encode("a<|im_end|>")
    with pytest.raises(ValueError, match="out of range"):
        ours().token_bytes(220)


def made_of(vocabulary, merges, special=()):
    """A file of these tokens, cut at nothing but GPT-2's pattern."""
    content = json.loads(smol().to_str())
    content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
    content["added_tokens"] = [
        content["added_tokens"][0] | {"id": i, "content": name}
        for name, i in special
    ]
    content["model"]["vocab"] = vocabulary
    content["model"]["merges"] = [" ".join(pair) for pair in merges]
    return content


def drawn(R):
    """Merges in any order that a file may have, and ids in any order."""
    known, merges = list("abcd"), []
    for _ in range(R.randint(1, 12)):
        pair = R.choice(known), R.choice(known)
        new = "".join(pair) not in known
        if pair not in merges and (new or R.random() < 0.3):
            merges.append(pair)
            known += ["".join(pair)] if new else []
    if R.random() < 0.2:
        R.shuffle(merges)
    alphabet = sorted(letter_bytes()) if R.random() < 0.7 else "abcd"
    found = list(dict.fromkeys([*alphabet, *("".join(p) for p in merges)]))
    if R.random() < 0.3:
        R.shuffle(found)
    return made_of({token: i for i, token in enumerate(found)}, merges)


def test_merges_are_applied_in_their_order_whatever_the_ids():
    R, kinds = random.Random(0), set()
    for _ in range(150):
        content = drawn(R)
        theirs = library.Tokenizer.from_str(json.dumps(content))
        found = tokenizer_from_hub(content)
        kinds.add(type(found))
        for length in (4, 8, 16, 250):
            text = "".join(R.choices("abcd", k=length))
            assert found.encode(text) == theirs.encode(text).ids
    assert kinds == {hub.HubTokenizer, TiktokenTokenizer}


def test_the_ids_of_the_bytes_first_are_our_own_tokenizer():
    order = {byte: letter for letter, byte in letter_bytes().items()}
    vocabulary = {order[value]: value for value in range(256)} | {"ab": 256}
    found = tokenizer_from_hub(made_of(vocabulary, [("a", "b")]))
    assert found == BPETokenizer([(b"a", b"b")], [])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocab": {"a": 0, "b": 2}, "merges": []}, "do not count from 0"),
        ({"vocab": {"a": 0.0, "b": 1.0}, "merges": []}, "do not count from 0"),
        ({"vocab": {"a": 0, "b": 0}, "merges": []}, "do not count from 0"),
        ({"vocab": {"a": 0}, "merges": ["a b"]}, "lacks what"),
        ({"vocab": {"a": 0, "漢": 1}, "merges": []}, "stands for no byte"),
        ({"vocab": {"a": 0, "aa": 1}, "merges": ["a"]}, "the merge 'a'"),
        ({"vocab": {"a": 0, "aa": 1}, "merges": [["a"]]}, "the merge"),
        ({"vocab": {"a": 0, "aa": 1}, "merges": [" a"]}, "the merge ' a'"),
        ({"vocab": {"a": 0}, "merges": [3]}, "lacks what"),
        ({"type": "Unigram"}, "does more"),
    ],
)
def test_a_vocabulary_with_gaps_is_refused(change, message):
    content = made_of({}, [])
    content["model"] |= change
    with pytest.raises(ValueError, match=message):
        tokenizer_from_hub(content)


@pytest.mark.parametrize(
    "special, message",
    [
        ([("<|end|>", 300)], "do not count from 0"),
        ([("<|end|>", 5)], "do not count from 0"),
        ([("<|end|>", -1)], "do not count from 0"),
        ([("<|end|>", 256), ("<|user|>", 256)], "do not count from 0"),
        ([("<|end|>", 256), ("", 257)], "is no name"),
        ([("<|end|>", 256), ("\ud800", 257)], "lone surrogate"),
        ([("a", 256)], "do not count from 0"),
    ],
)
def test_special_tokens_that_cannot_be_are_refused(special, message):
    vocabulary = {letter: i for i, letter in enumerate(letter_bytes())}
    with pytest.raises(ValueError, match=message):
        tokenizer_from_hub(made_of(vocabulary, [], special))


def test_the_same_merge_a_thousand_times_takes_no_room():
    vocabulary = {token: i for i, token in enumerate(["a", "aa", "aaaa"])}
    merges = [("a", "a")] * 1000 + [("aa", "aa")] * 1000
    with pytest.raises(ValueError, match="2000 merges join 1000001000 pairs"):
        tokenizer_from_hub(made_of(vocabulary, merges))


@pytest.mark.parametrize("pattern", ["", r"\p{L}+", "("])
def test_a_pattern_of_a_file_may_lose_nothing(pattern):
    vocabulary = {letter: i for i, letter in enumerate(letter_bytes())}
    content = made_of(vocabulary, [])
    last = content["pre_tokenizer"] | {"use_regex": False}
    content["pre_tokenizer"] = {"pretokenizers": [_split(pattern), last]}
    with pytest.raises(ValueError, match=r"leaves characters|is faulty"):
        tokenizer_from_hub(content).encode("Ona lost it.")


def test_digits_in_groups_are_refused():
    content = json.loads(smol().to_str())
    cuts = content["pre_tokenizer"]["pretokenizers"]
    cuts[0]["individual_digits"] = False
    with pytest.raises(ValueError, match=r"cut text by one|lacks what"):
        tokenizer_from_hub(content)


def test_an_added_token_that_is_not_special_is_refused():
    content = json.loads(smol().to_str())
    content["added_tokens"][1]["special"] = False  # read in every text
    with pytest.raises(ValueError, match="cut text by one"):
        tokenizer_from_hub(content)


def test_it_is_saved_with_its_ids(tmp_path):
    text = json.dumps(hub.tokenizer_to_hub(ours()))
    (tmp_path / "tokenizer.json").write_text(text)
    back = hub.load_tokenizer(tmp_path)
    assert back.fingerprint() == ours().fingerprint()
    theirs = library.Tokenizer.from_str(text)
    theirs.encode_special_tokens = True
    for text in (TEXT, "lo\x00st 1984", "<|im_end|>"):
        ids = ours().encode(text, on_special="text")
        assert theirs.encode(text).ids == ids
        assert back.encode(text, on_special="text") == ids
        assert theirs.decode(ids) == ours().decode(ids)


def test_fingerprints_tell_tokenizers_apart():
    merges, vocabulary = ["ab", "bc"], {t: i for i, t in enumerate("abc")}
    vocabulary |= {"ab": 3, "bc": 4}
    first, again, other = (
        tokenizer_from_hub(made_of(vocabulary, order))
        for order in (merges, merges, merges[::-1])
    )
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != other.fingerprint()
