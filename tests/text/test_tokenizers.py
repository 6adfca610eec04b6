"""Tokenizers: round trips, the library as the oracle, streams, special look-alikes, linear time."""

from __future__ import annotations

import json
import multiprocessing
import time
import unicodedata
from pathlib import Path

import pytest
import tokenizers as library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.text.tokenizers import KINDS, SPECIALS, Tokenizer

TEXTS = [
    "아 더빙.. 진짜 짜증나네요 목소리",
    "흠...포스터보고 초딩영화줄....오버연기조차 가볍지 않구나 ㅋㅋㅋ ㅠㅠ",
    "너무재밓었다그래서보는것을추천한다",
    "교도소 이야기구먼 ..솔직히 재미는 없다..평점 조정",
    "Before we proceed any further, hear me speak.\nSpeak, speak.\n",
    "<pad> is <unk> and <bos> is <eos>, don't you think? (yes)  2 blanks",
    "café naïve 각 가ㄱ 나 없다 값 1,234.5 😀 한국어",
] * 3
LOOK_ALIKES = "<pad><unk> <bos>\n<eos> a<pad>b<unk"
korean = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3))
anything = st.text(st.characters(exclude_categories=["Cs"]))
mixed = st.one_of(
    korean, anything, st.text(st.sampled_from("가각ㅋㅠ ㄱㅏae\u0301.,<>\n▁(😀"))
)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Tokenizer]:
    return {kind: Tokenizer.fit(kind, TEXTS, 600) for kind in KINDS}


@pytest.fixture(scope="module")
def libraries(
    fitted: dict[str, Tokenizer], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, library.Tokenizer]:
    folder = tmp_path_factory.mktemp("saved")
    for kind, tokenizer in fitted.items():
        tokenizer.save(folder / f"{kind}.json")
    return {
        kind: library.Tokenizer.from_file(str(folder / f"{kind}.json"))
        for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_specials_come_first(fitted: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = fitted[kind]
    assert [tokenizer.token(id) for id in range(4)] == list(SPECIALS)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (
        0,
        1,
        2,
        3,
    )
    assert tokenizer.decode([0, 1, 2, 3]) == ""
    assert tokenizer.size <= 600


@pytest.mark.parametrize("kind", ["chars", "jamo", "bpe", "unigram", "bytes"])
def test_exact_round_trip_of_the_training_texts(
    fitted: dict[str, Tokenizer], kind: str
) -> None:
    for text in TEXTS:
        ids = fitted[kind].encode(text)
        assert fitted[kind].unknown(ids) == 0
        assert fitted[kind].decode(ids) == text


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
@given(text=mixed)
@settings(max_examples=200, deadline=None)
def test_bytes_round_trip_any_text(
    fitted: dict[str, Tokenizer], kind: str, text: str
) -> None:
    ids = fitted[kind].encode(text)
    assert fitted[kind].decode(ids) == text
    assert all(id >= 4 for id in ids)


@pytest.mark.parametrize("kind", ["chars", "jamo"])
@given(text=mixed.filter(bool))
@settings(max_examples=150, deadline=None)
def test_characters_round_trip_what_was_learnt(kind: str, text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    tokenizer = Tokenizer.fit(kind, [text], 100_000)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@given(text=mixed)
@settings(max_examples=150, deadline=None)
def test_the_library_reads_the_file_and_gives_the_same_ids(
    fitted: dict[str, Tokenizer],
    libraries: dict[str, library.Tokenizer],
    kind: str,
    text: str,
) -> None:
    if kind == "jamo":  # there the library decomposes more than Hangul
        text = "".join(
            c for c in text if c.isascii() or "가" <= c <= "힣" or c in "ㅋㅠㄱ▁😀"
        )
    ids = fitted[kind].encode(text)
    assert libraries[kind].encode(text, add_special_tokens=False).ids == ids
    assert libraries[kind].get_vocab_size() == fitted[kind].size
    if kind in ("chars", "unigram") and 1 not in ids:
        assert libraries[kind].decode(ids, skip_special_tokens=False) == fitted[
            kind
        ].decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_streamed_text_is_the_decoded_text(
    fitted: dict[str, Tokenizer], kind: str, data: st.DataObject
) -> None:
    tokenizer = fitted[kind]
    random = st.lists(st.integers(0, tokenizer.size - 1), max_size=30)
    ids = data.draw(st.one_of(random, mixed.map(tokenizer.encode)))
    stream = tokenizer.stream()
    parts = [stream.feed(id) for id in ids] + [stream.finish()]
    assert "".join(parts) == tokenizer.decode(ids)
    if kind in ("bpe", "bytes"):
        spelt = b"".join(tokenizer._bytes[id] for id in ids)
        assert "".join(parts) == spelt.decode("utf-8", "replace")
    if kind == "jamo":  # what is out is final: no later jamo joins it
        joined = "".join(tokenizer.token(id) for id in ids if id > 3)
        hangul = unicodedata.normalize("NFC", "".join(parts))
        assert hangul == unicodedata.normalize("NFC", joined)


def test_stream_waits_for_whole_characters(fitted: dict[str, Tokenizer]) -> None:
    stream = fitted["bytes"].stream()
    assert [stream.feed(4 + byte) for byte in "가a".encode()] == ["", "", "가", "a"]
    assert stream.feed(4 + 0xEA) + stream.finish() == "\ufffd"
    jamo = fitted["jamo"]
    stream = jamo.stream()
    assert [stream.feed(id) for id in jamo.encode("각가ㅋㅋ나")] == [
        "",
        "",
        "각",
        "",
        "",
        "가ㅋ",
        "ㅋ",
        "",
        "",
    ]
    assert stream.finish() == "나"
    assert stream.finish() == ""


def test_words_are_set_with_usual_blanks(fitted: dict[str, Tokenizer]) -> None:
    words = fitted["words"]
    text = "Before we proceed any further, hear me speak.\nSpeak, don't (yes)"
    assert words.decode(words.encode(text)) == text
    ids = words.encode("이것은 처음 보는 말")
    assert words.unknown(ids) == 4


def test_whitespace_takes_text_that_was_cut_into_words_as_it_is() -> None:
    text = " = Title = \n \n the <unk> of @-@ , don't . \n<eos> the\n"
    tokenizer = Tokenizer.fit("whitespace", [text])
    ids = tokenizer.encode(text)
    # the known word lists: whitespace words, and a token for every line end
    expected = [w for line in text.split("\n")[:-1] for w in [*line.split(), "\n"]]
    at = expected.index("<eos>")
    expected[at : at + 1] = ["<", "eos>"]
    assert [tokenizer.token(id) for id in ids] == expected
    assert tokenizer.size == len(set(expected)) + 3  # <unk> is a special already
    assert tokenizer.unknown(ids) == 1
    assert tokenizer.decode(ids) == "= Title =\n\nthe of @-@ , don't .\n< eos> the\n"


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_looks_like_a_special_token_is_text(
    fitted: dict[str, Tokenizer], kind: str
) -> None:
    # so often in the texts that a trainer would like to make a piece of it
    eager = Tokenizer.fit(kind, ["<pad><eos> <unk>" * 50, LOOK_ALIKES] * 50, 400)
    for tokenizer in (fitted[kind], eager):
        ids = tokenizer.encode(LOOK_ALIKES)
        assert not {0, 2, 3} & set(ids)
        if kind not in ("words", "whitespace"):
            assert tokenizer.decode(tokenizer.encode("<eos><pad>")) == "<eos><pad>"


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(fitted: dict[str, Tokenizer], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    fitted[kind].save(path)
    loaded = Tokenizer.load(path)
    assert loaded.kind == kind
    assert loaded.size == fitted[kind].size
    assert loaded.encode_many(TEXTS) == fitted[kind].encode_many(TEXTS)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_same_texts_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    texts = [
        f"{word} {other}"
        for word in " ".join(TEXTS).split()
        for other in ("가나", "speak!")
    ]
    for name in ("a", "b"):
        Tokenizer.fit(kind, iter(texts), 400).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_size_frequency_and_order_of_characters() -> None:
    tokenizer = Tokenizer.fit("chars", ["ccc", "bb", "aa", "d"], size=7)
    assert [tokenizer.token(id) for id in range(4, 7)] == ["c", "a", "b"]
    assert tokenizer.encode("cad") == [4, 5, 1]
    assert Tokenizer.fit("chars", ["ccc", "bb", "d"], min_count=2).size == 6
    assert Tokenizer.fit("words", ["x x y"], min_count=2).encode("x y") == [4, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_empty_texts(kind: str, texts: list[str]) -> None:
    with pytest.raises(
        UserError, match=f"no {kind} vocabulary: they are all empty; add text"
    ):
        Tokenizer.fit(kind, texts)


def test_nothing_common_enough() -> None:
    for kind in ("chars", "jamo", "words", "unigram"):
        with pytest.raises(UserError, match="no token 9 times or more"):
            Tokenizer.fit(kind, ["a b"], min_count=9)
    with pytest.raises(UserError, match="no words vocabulary"):
        Tokenizer.fit("words", ["   "])


def test_wrong_kind_and_size() -> None:
    with pytest.raises(UsageError, match="did you mean 'unigram'"):
        Tokenizer.fit("unigrams", ["a"])
    with pytest.raises(UsageError, match="at least 260"):
        Tokenizer.fit("bpe", ["a"], size=100)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"model": {"type": "BPE", "vocab": {}}}']
)
def test_load_refuses_other_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match="cannot be read"):
        Tokenizer.load(path)
    path.write_text(content)
    with pytest.raises(DataError, match="no tokenizer that unrolled saved"):
        Tokenizer.load(path)


def test_load_refuses_ids_with_holes(
    fitted: dict[str, Tokenizer], tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    fitted["chars"].save(path)
    document = json.loads(path.read_text())
    document["model"]["vocab"]["Ω"] = 9999
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="no tokenizer that unrolled saved"):
        Tokenizer.load(path)


@pytest.mark.parametrize("id", [-1, 10**6])
def test_ids_outside_the_vocabulary(fitted: dict[str, Tokenizer], id: int) -> None:
    for tokenizer in fitted.values():
        with pytest.raises(ValueError, match="expected an id from 0"):
            tokenizer.decode([id])
        with pytest.raises(ValueError, match="expected an id from 0"):
            tokenizer.token(id)


@pytest.mark.parametrize("kind", KINDS)
def test_halves_of_surrogate_pairs_are_no_crash(
    fitted: dict[str, Tokenizer], kind: str
) -> None:
    ids = fitted[kind].encode("a\ud800b")
    assert ids == fitted[kind].encode("a\ufffdb")
    assert Tokenizer.fit(kind, ["a\ud800b c"], 300).size > 4


def test_tokens_for_showing(fitted: dict[str, Tokenizer]) -> None:
    assert fitted["bytes"].token(4 + 0xEA) == "<EA>"
    assert fitted["bytes"].token(4 + ord("a")) == "a"
    assert fitted["chars"].token(fitted["chars"].encode("한")[0]) == "한"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["a", " ", "\n", "가나다", "\u0301\u0316", "<", "a'"])
def test_time_is_linear_in_a_long_run(
    fitted: dict[str, Tokenizer], kind: str, unit: str
) -> None:
    text = unit * (200_000 // len(unit))
    start = time.perf_counter()
    ids = fitted[kind].encode(text)
    assert time.perf_counter() - start < 4  # a quadratic rule would take minutes
    assert len(ids) <= 5 * len(text)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "words", "jamo"])
def test_learning_from_one_endless_word(kind: str) -> None:
    start = time.perf_counter()
    Tokenizer.fit(kind, ["gattaca" * 30_000, " " * 100_000], 400)
    assert time.perf_counter() - start < 10


def _encode(tokenizer: Tokenizer) -> int:
    return len(tokenizer.encode(TEXTS[0]))


def test_no_warning_in_a_forked_process(
    fitted: dict[str, Tokenizer], capfd: pytest.CaptureFixture[str]
) -> None:
    fitted["bpe"].encode_many(TEXTS * 50)
    process = multiprocessing.get_context("fork").Process(
        target=_encode, args=(fitted["bpe"],)
    )
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert capfd.readouterr().err == ""


# documents that were changed, and texts without end


def leaves(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Return the places in a JSON document, those of lists and objects among them."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [
        path,
        *(leaf for key, part in inner for leaf in leaves(part, (*path, key))),
    ]


@pytest.mark.parametrize("kind", KINDS)
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_changed_document_is_refused_or_encodes_as_it_says(
    fitted: dict[str, Tokenizer], tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    path = tmp_path / "tokenizer.json"
    fitted[kind].save(path)
    document = json.loads(path.read_text("utf-8"))
    keys = data.draw(st.sampled_from(leaves(document)[1:]))
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    new = data.draw(
        st.sampled_from(
            [
                None,
                True,
                -1,
                7,
                10**12,
                0.5,
                "",
                "x",
                "(a|a)*b",
                [],
                {},
                ["x", "y"],
                "\ud800",
            ]
        )
    )
    before = inner[keys[-1]]
    inner[keys[-1]] = new
    path.write_text(json.dumps(document), "utf-8")
    try:
        tokenizer = Tokenizer.load(path)
    except UserError as error:
        assert "tokenizer.json" in str(error)  # noqa: PT017
        return
    if tokenizer.kind != kind:
        # letters of syllables that are not taken apart are characters like any other
        assert (kind, keys, new, tokenizer.kind) == (
            "jamo",
            ("normalizer",),
            None,
            "chars",
        )
        assert tokenizer.decode(tokenizer.encode("a b")) == fitted["jamo"].decode(
            tokenizer.encode("a b")
        )
        return
    # what is left to change: the text of a token or its score, which then stand as they say
    assert type(new) is type(before)
    assert keys[0] == "model" or before == new
    for text in ("", "a b 한국", "x" * 2000, LOOK_ALIKES):
        ids = tokenizer.encode(text)
        assert all(0 <= id < tokenizer.size for id in ids)
        tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["chars", "words", "bpe", "bytes"])
@pytest.mark.parametrize("number", [True, 1.0])
def test_an_id_that_only_equals_one_is_refused(
    fitted: dict[str, Tokenizer], tmp_path: Path, kind: str, number: float
) -> None:
    path = tmp_path / "tokenizer.json"
    fitted[kind].save(path)
    document = json.loads(path.read_text("utf-8"))
    vocabulary = document["model"]["vocab"]
    (second,) = (token for token, id in vocabulary.items() if id == 1)
    vocabulary[second] = number
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"model": {"vocab": {"a": 0}}}', "[]", "7", "\0", ""]
)
def test_a_document_of_another_kind_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(mixed.map(lambda text: text * 9), max_size=3),
    most=st.integers(0, 40),
)
def test_tokens_beyond_the_limit_are_those_of_the_whole_left_out(
    kind: str, texts: list[str], most: int
) -> None:
    tokenizer = FITTED[kind]
    whole = tokenizer.encode_many(texts)
    assert tokenizer.encode_many(texts, most=most) == [ids[:most] for ids in whole]


@pytest.mark.parametrize("kind", ["words", "whitespace", "chars", "jamo", "bytes"])
def test_tokens_beyond_the_limit_take_no_time(kind: str) -> None:
    text = "x y. " * 1_000_000
    began = time.process_time()
    assert len(FITTED[kind].encode_many([text], most=100)[0]) == 100
    assert time.process_time() - began < 0.5


FITTED = {kind: Tokenizer.fit(kind, TEXTS, 600) for kind in KINDS}
