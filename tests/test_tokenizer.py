"""The tokenizers, against tiktoken, a naive trainer and hand-worked cases."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook.tokenizer import (
    END_OF_TEXT,
    GPT2_PATTERN,
    UNKNOWN,
    BPETokenizer,
    CharTokenizer,
    TiktokenTokenizer,
    WordTokenizer,
    count_pre_tokens,
    gpt2,
    learn_merges,
    learn_merges_naively,
    merge,
    pre_tokens,
    split_special,
    utf8,
)
from llmbook.tokenizer import openai as openai_module
from llmbook.tokenizer.openai import encoding_from_js, find_js_ranks

TEXT = (
    "Ona lost the kite, but Tam found it. The kite was in the tree by the "
    "mill; Tam climbed up to it. 'It's torn,' said Tam. They'd mend it: 12 "
    "stitches, 3 knots. Café, naïve, 東京, привет, 🪁 and 👩‍🔧.\n\n"
    "  def f(x):\n\treturn x ** 2\n"
)
SCRIPTS = {
    "english": "Ona lost the kite, but Tam found it. It's 12:45!",
    "german": "Größenwahn über Straßenbahnhöfe, süß & früh.",
    "russian": "Она потеряла змея, но Там его нашёл.",
    "greek": "Η Όνα έχασε τον χαρταετό.",
    "hebrew": "אונה איבדה את העפיפון",
    "arabic": "فقدت أونا الطائرة الورقية",
    "hindi": "ओना ने पतंग खो दी, पर टैम को मिल गई।",
    "thai": "โอนาทำว่าวหาย แต่แทมหาเจอ",
    "chinese": "奥娜丢了风筝，可是塔姆找到了。",
    "japanese": "オナは凧をなくしたが、タムが見つけた。",
    "korean": "오나는 연을 잃어버렸다.",
    "emoji": "🪁 👩‍🔧 👍🏽 🇫🇷 ☃️",
    "code": "def f(x):\n    return {'a': x ** 2}  # √2\n\n\n\t",
    "numbers": "3.14159 1,000,000 ½ Ⅷ ٣ 1e-9",
    "spaces": "  two   three    \u00a0\u3000 end \r\n \n",
    "controls": "a\x00b\x1c\x1f\x85\u200b\ufeffc",
}
# Letters that one engine's Unicode tables know and another's do not yet
# would be cut differently; Python's own older table leaves them out.
# Names of special tokens have tests of their own; hypothesis finds them in
# the package's source.
KNOWN_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cn", "Co"]), max_size=40
).filter(lambda text: END_OF_TEXT not in text and UNKNOWN not in text)


def trained(vocab_size: int = 340, **options) -> BPETokenizer:
    return BPETokenizer.train(TEXT * 3, vocab_size, **options)


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return trained()


@pytest.fixture(scope="module")
def engine(tokenizer: BPETokenizer) -> tiktoken.Encoding:
    return tokenizer.to_tiktoken()


# --- learning merges ---------------------------------------------------


def test_the_words_of_the_paper_merge_as_by_hand():
    # The dictionary of Sennrich et al. 2016, listing 1, without its
    # end-of-word mark: st and es occur 9 times, lo and ow 7 times.
    words = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
    assert learn_merges(words, 5) == [
        (b"s", b"t"),
        (b"e", b"st"),
        (b"o", b"w"),
        (b"l", b"ow"),
        (b"w", b"est"),  # 6 times, as (n, e) and (e, w)
    ]


def test_a_tie_goes_to_the_greater_pair_of_byte_strings():
    assert learn_merges({b"ab": 1, b"zb": 1, b"za": 1}, 3) == [
        (b"z", b"b"),
        (b"z", b"a"),
        (b"a", b"b"),
    ]


def test_a_tie_compares_the_first_parts_before_the_second():
    pieces = {b"xa": 2, b"xab": 1, b"xbq": 1}
    assert learn_merges(pieces, 4) == learn_merges_naively(pieces, 4)


def test_overlapping_pairs_join_from_the_left():
    assert merge([b"a"] * 5, (b"a", b"a")) == [b"aa", b"aa", b"a"]


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=12).map(str.encode),
        st.integers(1, 9),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 40),
)
@example({b"aaaaaaa": 1, b"aaaa": 3}, 9)
@settings(max_examples=150, deadline=None)
def test_incremental_merges_are_the_naive_ones(pieces, n_merges):
    expected = learn_merges_naively(pieces, n_merges)
    assert learn_merges(pieces, n_merges) == expected


@given(st.lists(KNOWN_TEXT, min_size=1, max_size=4), st.integers(0, 30))
@settings(max_examples=80, deadline=None)
def test_incremental_merges_are_the_naive_ones_on_any_text(texts, n_merges):
    pieces = count_pre_tokens(texts)
    expected = learn_merges_naively(pieces, n_merges)
    assert learn_merges(pieces, n_merges) == expected


def learned_by_hugging_face(text: str, n_merges: int) -> list[list[str]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    other = Tokenizer(models.BPE())
    other.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(set(text) - {" "}) + n_merges, show_progress=False
    )
    other.train_from_iterator([text], trainer)
    merges = json.loads(other.to_str())["model"]["merges"]
    return [m.split() if isinstance(m, str) else m for m in merges]


def test_hugging_face_learns_the_same_merges_where_counts_differ():
    words = {b"ab": 50, b"abc": 7, b"cd": 30, b"dd": 3}
    text = " ".join(w.decode() for w, n in words.items() for _ in range(n))
    theirs = learned_by_hugging_face(text, 4)
    ours = learn_merges(words, 4)
    assert [[a.decode(), b.decode()] for a, b in ours] == theirs


def test_hugging_face_breaks_ties_the_other_way_as_the_docstring_says():
    assert learned_by_hugging_face("ab cd", 1) == [["a", "b"]]
    assert learn_merges({b"ab": 1, b"cd": 1}, 1) == [(b"c", b"d")]


def test_the_progress_bar_changes_nothing(capsys):
    assert BPETokenizer.train(TEXT, 262, progress=True) == BPETokenizer.train(
        TEXT, 262
    )
    assert "BPE merges" in capsys.readouterr().err


def test_many_texts_count_as_one_after_the_other():
    together = BPETokenizer.train(["the kite\n", "the mill\n"], 261)
    assert together == BPETokenizer.train("the kite\nthe mill\n", 261)


def test_special_tokens_in_the_text_are_boundaries_and_never_learned():
    text = f"kite{END_OF_TEXT}" * 50
    learned = BPETokenizer.train(text, 260)
    assert not any(b"|" in a + b or b"<" in a + b for a, b in learned.merges)
    assert learned == BPETokenizer.train(["kite"] * 50, 260)


# --- the vocabulary ----------------------------------------------------


def test_ids_are_bytes_then_merges_then_special_tokens(tokenizer):
    assert [tokenizer.token_bytes(i)[0] for i in range(256)] == [*range(256)]
    left, right = tokenizer.merges[0]
    assert tokenizer.token_bytes(256) == left + right
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1 == 339
    assert tokenizer.token_bytes(339) == END_OF_TEXT.encode()


def test_a_vocabulary_of_bytes_alone_encodes_bytes():
    plain = BPETokenizer.train("kite", 256, special_tokens=())
    assert plain.encode("né") == list("né".encode())
    with pytest.raises(ValueError, match="without"):
        _ = plain.end_of_text


def test_the_minimum_vocabulary_holds_bytes_and_special_tokens():
    assert BPETokenizer.train("kite", 257).vocab_size == 257


@pytest.mark.parametrize("size", [256, 255, 0, -1])
def test_too_small_a_vocabulary_is_an_error(size):
    with pytest.raises(ValueError, match="256 bytes and 1 special"):
        BPETokenizer.train("kite", size)


@pytest.mark.parametrize("text", ["", [], ["", ""], END_OF_TEXT])
def test_empty_text_is_an_error(text):
    with pytest.raises(ValueError, match="no text"):
        BPETokenizer.train(text, 300)


def test_a_text_that_runs_out_of_pairs_names_the_largest_vocabulary():
    with pytest.raises(ValueError, match="vocab_size=260") as caught:
        BPETokenizer.train("kite kite", 400, special_tokens=())
    assert "4 merges" in str(caught.value)
    BPETokenizer.train("kite kite", 260, special_tokens=())


def test_bytes_are_refused_with_the_mend():
    with pytest.raises(TypeError, match="decode"):
        BPETokenizer.train([b"kite"], 300)
    with pytest.raises(TypeError, match="decode"):
        trained().encode(b"kite")


@pytest.mark.parametrize("names", ["<|x|>", ["a", "a"], [""], [3]])
def test_faulty_names_of_special_tokens_are_errors(names):
    with pytest.raises(ValueError):
        BPETokenizer([], special_tokens=names)


@pytest.mark.parametrize("pattern", [r"\w+", "(", "x*"])
def test_a_pattern_that_loses_text_or_is_faulty_is_an_error(pattern):
    with pytest.raises(ValueError, match="pattern"):
        BPETokenizer.train("the kite", 300, pattern=pattern)


def test_no_token_crosses_a_pre_token():
    learned = trained(pattern=GPT2_PATTERN)
    for token in learned.vocabulary[256:]:
        text = token.decode("utf-8", "ignore")
        if text.encode() == token:
            assert len(pre_tokens(text)) == 1


# --- encoding and decoding ---------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=200, deadline=None)
def test_decoding_what_was_encoded_gives_the_text(text):
    tokenizer = BPETokenizer([(b"t", b"h"), (b"th", b"e"), (b"\xc3", b"\xa9")])
    ids = tokenizer.encode(text, on_special="text")
    assert tokenizer.decode(ids, errors="strict") == text
    assert tokenizer.decode_bytes(ids) == text.encode()


@given(KNOWN_TEXT)
@example(TEXT)
@example("aaaaaaaaa eeeeeee")
@settings(max_examples=300, deadline=None)
def test_tiktoken_s_engine_gives_the_same_ids(tokenizer, engine, text):
    assert tokenizer.encode(text) == engine.encode(text)


@given(
    st.lists(st.text("abc ", min_size=1, max_size=30), min_size=1),
    st.text("abc ", max_size=40),
    st.integers(0, 30),
)
@settings(max_examples=150, deadline=None)
def test_tiktoken_agrees_with_any_learned_merges(texts, text, n_merges):
    merges = learn_merges(count_pre_tokens(texts), n_merges)
    tokenizer = BPETokenizer(merges)
    assert tokenizer.encode(text) == tokenizer.to_tiktoken().encode(text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_tiktoken_s_engine_agrees_on_every_script(tokenizer, engine, name):
    ids = tokenizer.encode(SCRIPTS[name])
    assert ids == engine.encode(SCRIPTS[name])
    assert tokenizer.decode(ids) == SCRIPTS[name]


def test_the_pattern_cuts_every_assigned_character_as_tiktoken_does(engine):
    characters = [
        chr(code)
        for code in range(0x30000)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
    ]
    bare = BPETokenizer([(b" ", b"a"), (b"a", b"1"), (b"a", b"!")])
    rust = bare.to_tiktoken()
    for start in range(0, len(characters), 4096):
        text = " a".join(characters[start : start + 4096])
        assert bare.encode(text) == rust.encode(text)


def test_nul_bytes_are_characters_like_others(tokenizer):
    assert tokenizer.encode("\x00") == [0]
    assert tokenizer.decode([0, 0]) == "\x00\x00"


def test_no_text_has_no_ids(tokenizer):
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_half_a_character_decodes_to_the_replacement_mark(tokenizer):
    assert tokenizer.decode(list("é".encode())[:1]) == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode([0xC3], errors="strict")


@pytest.mark.parametrize("bad", [-1, 340, 10**9, 1.5, "7", None])
def test_an_id_out_of_range_is_an_error(tokenizer, bad):
    with pytest.raises(ValueError, match="0 to 339"):
        tokenizer.decode([bad])


def test_ids_may_come_as_a_tensor(tokenizer):
    torch = pytest.importorskip("torch")
    assert tokenizer.decode(torch.tensor([107, 105])) == "ki"


@pytest.mark.parametrize("text", ["\ud83e", "kite \udc80", "\udfff\ud800"])
def test_a_lone_surrogate_is_refused_at_its_place(tokenizer, text):
    place = next(i for i, c in enumerate(text) if ord(c) >= 0xD800)
    for encode in (tokenizer.encode, CharTokenizer.train, utf8):
        with pytest.raises(ValueError, match=f"character {place} .*surrogate"):
            encode(text)
    with pytest.raises(ValueError, match="surrogate"):
        BPETokenizer.train(text, 300)


def test_the_cache_changes_no_id(tokenizer, monkeypatch):
    monkeypatch.setattr("llmbook.tokenizer.bpe.CACHE_SIZE", 2)
    small = BPETokenizer(tokenizer.merges)
    ids = small.encode(TEXT)
    assert ids == small.encode(TEXT) == tokenizer.encode(TEXT)
    assert len(small._cache) <= 2


def test_changing_the_ids_that_came_back_changes_nothing(tokenizer):
    first = tokenizer.encode("kite")
    first.append(0)
    assert tokenizer.encode("kite") == first[:-1]


# --- special tokens ----------------------------------------------------


def test_a_special_token_in_plain_text_is_an_error_that_says_where(tokenizer):
    with pytest.raises(ValueError, match="at character 5") as caught:
        tokenizer.encode(f"kite {END_OF_TEXT}")
    assert "allowed_special" in str(caught.value)


def test_a_special_token_as_text_has_no_control_id(tokenizer):
    ids = tokenizer.encode(END_OF_TEXT, on_special="text")
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == END_OF_TEXT


@pytest.mark.parametrize("allowed", ["all", [END_OF_TEXT], {END_OF_TEXT}])
def test_an_allowed_special_token_is_one_id(tokenizer, engine, allowed):
    text = f"the kite{END_OF_TEXT}the mill"
    ids = tokenizer.encode(text, allowed_special=allowed)
    assert ids == engine.encode(text, allowed_special="all")
    assert ids.count(tokenizer.end_of_text) == 1
    assert tokenizer.decode(ids) == text


def test_only_the_allowed_names_become_control_tokens():
    tokenizer = BPETokenizer([], special_tokens=["<|a|>", "<|b|>"])
    ids = tokenizer.encode(
        "<|a|><|b|>", allowed_special=["<|a|>"], on_special="text"
    )
    assert ids == [256, *b"<|b|>"]
    with pytest.raises(ValueError, match=r"<\|b\|>"):
        tokenizer.encode("<|a|><|b|>", allowed_special=["<|a|>"])


def test_the_longest_name_wins_where_two_begin():
    assert split_special("<|ab", ["<|a", "<|ab"]) == [("<|ab", True)]


def test_unknown_names_and_words_are_refused(tokenizer):
    with pytest.raises(ValueError, match="allowed_special names"):
        tokenizer.encode("kite", allowed_special=["<|pad|>"])
    with pytest.raises(ValueError, match="'error' or 'text'"):
        tokenizer.encode("kite", on_special="ignore")


# --- files -------------------------------------------------------------


def test_a_saved_tokenizer_comes_back_the_same(tokenizer, tmp_path):
    path = tmp_path / "new folder" / "tokenizer.json"
    tokenizer.save(path)
    loaded = BPETokenizer.load(path)
    assert loaded == tokenizer
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]


def test_a_failed_save_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    before = path.read_bytes()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        BPETokenizer([]).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_a_clear_error(tokenizer, tmp_path, share):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    data = path.read_bytes().rstrip()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="no whole tokenizer file"):
        BPETokenizer.load(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["merges"].pop(), "changed after"),
        (lambda d: d.update(pattern=r"[\s\S]"), "changed after"),
        (lambda d: d["special_tokens"].append("<|x|>"), "changed after"),
        (lambda d: d["merges"].insert(0, ["zz", "z"]), "changed after"),
        (lambda d: d["merges"].append("abc"), "changed after"),
        (lambda d: d.pop("merges"), "changed after"),
        (lambda d: d.update(sha256=[d["sha256"]]), "changed after"),
        (lambda d: d.pop("sha256"), "changed after"),
        (lambda d: d.update(version=99), "version 99"),
        (lambda d: d.update(format="bpe"), "not written by"),
    ],
)
def test_an_edited_file_is_a_clear_error(tokenizer, tmp_path, edit, message):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        BPETokenizer.load(path)


@pytest.mark.parametrize("data", [b"[]", b"null", b"\xff\xfe", b"PK\x03\x04"])
def test_a_foreign_file_is_a_clear_error(tmp_path, data):
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"tokenizer file|not written by"):
        BPETokenizer.load(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        BPETokenizer.load(tmp_path / "none.json")


def test_the_fingerprint_tells_tokenizers_apart(tokenizer):
    others = [
        trained(339),
        trained(special_tokens=["<|x|>"]),
        BPETokenizer(tokenizer.merges, pattern=r"[\s\S]"),
    ]
    prints = {t.fingerprint() for t in [tokenizer, trained(), *others]}
    assert len(prints) == 4


# --- characters and words ----------------------------------------------


@given(KNOWN_TEXT.filter(bool))
def test_characters_come_back_from_their_own_text(text):
    tokenizer = CharTokenizer.train(text, special_tokens=())
    assert tokenizer.decode(tokenizer.encode(text, on_special="text")) == text
    assert tokenizer.vocab_size == len(set(text)) + 1


@given(KNOWN_TEXT.filter(bool))
def test_words_come_back_from_their_own_text(text):
    tokenizer = WordTokenizer.train(text)
    assert tokenizer.decode(tokenizer.encode(text, on_special="text")) == text


def test_what_a_closed_vocabulary_never_saw_is_unknown():
    for tokenizer in (CharTokenizer.train("ab"), WordTokenizer.train("ab")):
        assert tokenizer.encode("q") == [tokenizer.special_tokens[UNKNOWN]]
        assert tokenizer.decode(tokenizer.encode("q")) == UNKNOWN
        with pytest.raises(ValueError, match="special token"):
            tokenizer.encode(UNKNOWN)


def test_the_most_frequent_words_are_kept():
    tokenizer = WordTokenizer.train("a kite, a mill, a kite", 5)
    assert tokenizer.symbols == [" a", " kite", ","]


@pytest.mark.parametrize("size", [0, 2, 10**6])
def test_a_word_vocabulary_of_an_impossible_size_is_an_error(size):
    with pytest.raises(ValueError, match="allows"):
        WordTokenizer.train("a kite", size)


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_closed_vocabularies_share_the_interface(kind):
    tokenizer = kind.train(TEXT)
    with pytest.raises(ValueError, match="no text"):
        kind.train("")
    with pytest.raises(ValueError, match="out of range"):
        tokenizer.decode([tokenizer.vocab_size])
    ids = tokenizer.encode(f"kite{END_OF_TEXT}", allowed_special="all")
    assert ids[-1] == tokenizer.end_of_text
    assert tokenizer.fingerprint() != kind.train("kite").fingerprint()


# --- GPT-2 -------------------------------------------------------------

# "Hello world": transformers' documentation of GPT2Tokenizer; in small
# letters: tiktoken's own tests (tests/test_simple_public.py).
HELLO = {"Hello world": [15496, 995], "hello world": [31373, 995]}


def check_gpt2(tokenizer: TiktokenTokenizer) -> None:
    assert tokenizer.vocab_size == 50_257
    assert tokenizer.end_of_text == 50_256
    for text, ids in HELLO.items():
        assert tokenizer.encode(text) == ids
    for text in SCRIPTS.values():
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer.encode("\ud83e")
    with pytest.raises(ValueError, match="special token"):
        tokenizer.encode(END_OF_TEXT)
    assert tokenizer.encode(END_OF_TEXT, allowed_special="all") == [50_256]
    assert 50_256 not in tokenizer.encode(END_OF_TEXT, on_special="text")
    with pytest.raises(ValueError, match="50256"):
        tokenizer.decode([50_257])


@pytest.fixture
def js_ranks() -> Path:
    path = find_js_ranks()
    if path is None:
        pytest.skip("js-tiktoken is not in node_modules: run `npm ci`")
    return path


def test_gpt2_from_js_tiktoken_has_the_published_ids(
    js_ranks, monkeypatch, tmp_path
):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    check_gpt2(gpt2())
    assert not list(tmp_path.iterdir())


def our_gpt2(other: TiktokenTokenizer) -> BPETokenizer:
    """GPT-2's merges in our engine; the ids keep our order of bytes."""
    ranks = other.encoding._mergeable_ranks
    inside = BPETokenizer([])
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            merges.append(split_at_last_merge(token, ranks, rank))
    inside.__init__(merges)
    return inside


def split_at_last_merge(token, ranks, rank):
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
        best = min(range(len(joined)), key=joined.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return tuple(parts)


def test_our_engine_on_gpt2_s_merges_gives_tiktoken_s_tokens(js_ranks):
    other = TiktokenTokenizer(encoding_from_js(js_ranks))
    ours = our_gpt2(other)
    for text in SCRIPTS.values():
        expected = [other.token_bytes(i) for i in other.encode(text)]
        assert [ours.token_bytes(i) for i in ours.encode(text)] == expected


def test_gpt2_without_any_source_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(openai_module, "find_js_ranks", lambda: None)

    def offline(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(RuntimeError, match="npm ci") as caught:
        gpt2()
    assert "TIKTOKEN_CACHE_DIR" in str(caught.value)


@pytest.mark.parametrize("content", ["", "export default {}", "{[", "{}"])
def test_a_damaged_file_of_ranks_is_a_clear_error(tmp_path, content):
    path = tmp_path / "gpt2.js"
    path.write_text(content)
    with pytest.raises(ValueError, match="npm ci"):
        encoding_from_js(path)


@pytest.fixture
def data_cache(monkeypatch) -> Path:
    folder = os.environ.get("LLMBOOK_DATA")
    cache = Path(folder or "", "tiktoken")
    if not folder or not cache.is_dir():
        pytest.skip("LLMBOOK_DATA has no folder tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache.resolve()))
    return cache


@pytest.mark.data
def test_gpt2_from_tiktoken_s_cache_has_the_published_ids(data_cache):
    check_gpt2(gpt2())


@pytest.mark.data
def test_js_tiktoken_and_tiktoken_have_the_same_ranks(data_cache, js_ranks):
    cached, installed = gpt2(), TiktokenTokenizer(encoding_from_js(js_ranks))
    assert cached.fingerprint() == installed.fingerprint()
    for text in SCRIPTS.values():
        assert cached.encode(text) == installed.encode(text)


def test_a_tiktoken_encoding_can_be_wrapped(tokenizer):
    wrapped = TiktokenTokenizer(tokenizer.to_tiktoken())
    assert wrapped.encode(TEXT) == tokenizer.encode(TEXT)
    assert wrapped.end_of_text == tokenizer.end_of_text
    assert len(hashlib.sha256().hexdigest()) == len(wrapped.fingerprint())


def test_pre_tokens_are_cut_as_by_hand():
    # Radford et al. 2019, section 2.2, and OpenAI's published pattern.
    assert pre_tokens("They'd lost 12 kites!  \n go") == [
        "They", "'d", " lost", " 12", " kites", "!", "  \n", " go",
    ]  # fmt: skip
