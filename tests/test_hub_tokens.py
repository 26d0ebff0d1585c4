"""Tokenizers of other orders of ids, against the tokenizers library."""

import functools
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook import hub
from llmbook.config import GPTConfig
from llmbook.hub.tokens import tokenizer_from_hub
from llmbook.model import GPT
from llmbook.tokenizer import END_OF_TEXT, TiktokenTokenizer

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
@settings(max_examples=300, deadline=None)
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


def chain(merges, numbers=None):
    """A file whose merges join a, b, c and d."""
    made = list("abcd")
    made += dict.fromkeys("".join(pair) for pair in merges)
    numbers = numbers or range(len(made))
    content = json.loads(smol().to_str())
    content["added_tokens"] = []
    content["model"]["vocab"] = dict(zip(made, numbers, strict=True))
    content["model"]["merges"] = [" ".join(pair) for pair in merges]
    return content


TWICE = [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc"), ("abc", "d")]
ORDER = [("a", "b"), ("b", "c"), ("bc", "d"), ("ab", "cd"), ("c", "d")]


@given(st.text("abcd") | st.text("abcd", min_size=200))
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize(
    "content",
    [
        chain(TWICE),  # abc is made by two merges
        chain(ORDER[:3], [6, 2, 3, 1, 0, 5, 4]),  # ids in no order
        chain(
            [("c", "d"), ("b", "c"), ("a", "b"), ("ab", "cd")],
            [0, 1, 2, 3, 7, 6, 5, 4],
        ),
    ],
    ids=["twice", "no-order", "backwards"],
)
def test_merges_are_applied_in_their_order_whatever_the_ids(content, text):
    theirs = library.Tokenizer.from_str(json.dumps(content))
    found = tokenizer_from_hub(content)
    assert isinstance(found, hub.HubTokenizer)
    assert found.encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocab": {"a": 0, "b": 2}, "merges": []}, "do not count from 0"),
        ({"vocab": {"a": 0}, "merges": ["a b"]}, "lacks what"),
        ({"vocab": {"a": 0, "漢": 1}, "merges": []}, "stands for no byte"),
    ],
)
def test_a_vocabulary_with_gaps_is_refused(change, message):
    content = chain([])
    content["model"] |= change
    with pytest.raises(ValueError, match=message):
        tokenizer_from_hub(content)


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
    transformers = pytest.importorskip("transformers")
    model = GPT(GPTConfig(vocab_size=220, n_layer=1, n_embd=8, n_head=2))
    folder = hub.save_pretrained(model, ours(), tmp_path / "model")
    back = hub.load_tokenizer(folder)
    assert back.fingerprint() == ours().fingerprint()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, "lo\x00st 1984", "<|im_end|>"):
        ids = ours().encode(text, on_special="text")
        assert theirs.encode(text, split_special_tokens=True) == ids
        assert back.encode(text, on_special="text") == ids
        assert theirs.decode(ids) == ours().decode(ids)


def test_fingerprints_tell_tokenizers_apart():
    first, again = (tokenizer_from_hub(chain(TWICE)) for _ in range(2))
    assert first.fingerprint() == again.fingerprint()
    other = tokenizer_from_hub(chain([*TWICE[2:], *TWICE[:2]]))
    assert first.fingerprint() != other.fingerprint()
