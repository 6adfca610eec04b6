"""Encodings: told from the bytes where they tell, and asked for where they do not."""

from __future__ import annotations

import csv
import gzip
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.sources import Document, read

REVIEW = "재미있는 영화였다. 배우들 연기도 좋았고, 다시 보고 싶다! ㅋㅋ (10/10)"


def spreadsheet(rows: int) -> str:
    """A table as a Korean spreadsheet writes it: CRLF, quotes only where they are needed."""
    handle = io.StringIO()
    writer = csv.writer(handle)
    writer.writerow(["번호", "리뷰", "평점"])
    writer.writerows([i, f'{REVIEW} "{i}"\n둘째 줄', i % 5] for i in range(rows))
    return handle.getvalue()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_spreadsheet_in_cp949(write: Any, zipped: bool) -> None:
    data = spreadsheet(20_000).encode("cp949")
    dataset = table(write(gzip.compress(data) if zipped else data))
    packed = ", gzip" if zipped else ""
    assert (
        dataset.format.describe()
        == f"comma-separated, header, CP949, mixed line ends{packed}"
    )
    assert dataset.columns == ["번호", "리뷰", "평점"]
    assert len(dataset.rows) == 20_000
    assert dataset.rows[7] == ("7", f'{REVIEW} "7"\n둘째 줄', "2")
    assert dataset.lines[-1] == 2 + 2 * 19_999


@pytest.mark.parametrize(
    ("encoding", "description"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("cp949", "CP949"),
        ("euc-kr", "CP949"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16-LE"),
        ("utf-16-be", "UTF-16-BE"),
        ("utf-32", "UTF-32"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_korean_in_every_encoding_is_said_aloud(
    write: Any, encoding: str, description: str, newline: str
) -> None:
    text = f"리뷰\t감정{newline}" + "".join(
        f"{REVIEW}\t{i % 2}{newline}" for i in range(30)
    )
    dataset = table(write(text.encode(encoding), "data.txt"))
    assert dataset.format.describe() == f"tab-separated, header, {description}"
    assert dataset.rows == [(REVIEW, str(i % 2)) for i in range(30)]
    document = read(write((f"{REVIEW}{newline}" * 9).encode(encoding), "song.txt"))
    assert isinstance(document, Document)
    assert document.text == f"{REVIEW}\n" * 9


def test_english_in_utf_16_without_a_mark(write: Any) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        dataset = table(write("text\tlabel\ngood film\t1\n".encode(encoding)))
        assert dataset.rows == [("good film", "1")]


@pytest.mark.parametrize("before", [10, 40_000, 200_000])
def test_the_first_korean_may_stand_anywhere(write: Any, before: int) -> None:
    rows = "text,label\n" + "plain words only,1\n" * before
    dataset = table(write((rows + f'"{REVIEW}",0\n').encode("cp949")))
    assert dataset.rows[-1] == (REVIEW, "0")
    assert dataset.format.encoding == "cp949"
    dataset = table(write((rows + f'"{REVIEW}",0\n').encode()))
    assert (dataset.rows[-1], dataset.format.encoding) == ((REVIEW, "0"), "utf-8")


korean = st.text(
    st.one_of(
        st.sampled_from(
            "가나다라마바사아자차카타파하의는이을를에고지도하다영화좋싫었습니"
        ),
        st.sampled_from(" ,.!?ab1~…·ㅋㅠ\n"),
    ),
    min_size=1,
    max_size=60,
)


@given(korean.filter(lambda text: sum("가" <= c <= "힣" for c in text) * 2 > len(text)))
@settings(max_examples=150, deadline=None)
def test_korean_text_is_read_alike_in_utf_8_and_cp949(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    from unrolled.data.archives import Origin
    from unrolled.data.charsets import encoding_of

    path = tmp_path_factory.getbasetemp() / "korean.txt"
    for encoding in ("utf-8", "cp949"):
        data = text.encode(encoding)
        path.write_bytes(data)
        detected = encoding_of(Origin(path))
        # a few syllables of CP949 can be UTF-8 too, which is always tried first
        assert detected == (
            "utf-8" if encoding == "utf-8" or _is_utf8(data) else "cp949"
        )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


OTHERS = {
    "latin-1": "Une soirée très réussie à l'été, où l'élève préféré mangea un gâteau.\n",
    "cp1252": "„Größe“ – über Ähren, Öl & Äpfel: schöne Grüße €5\n",
    "cp1251": "Очень хороший фильм, смотрели всей семьёй и остались довольны.\n",
    "koi8-r": "Очень хороший фильм, смотрели всей семьёй и остались довольны.\n",
    "shift_jis": "とても面白い映画でした。また見たいと思います。\n",
    "euc_jp": "とても面白い映画でした。また見たいと思います。\n",
    "gb18030": "这部电影非常好看，演员的表演也很出色，我还想再看一遍。\n",
    "big5": "這部電影非常好看，演員的表演也很出色，我還想再看一遍。\n",
    "iso8859-7": "Πολύ καλή ταινία, θα την ξαναδούμε.\n",
    "cp1254": "Çok güzel bir film, şiddetle öneririm. İyi seyirler!\n",
}


@pytest.mark.parametrize("encoding", OTHERS)
@pytest.mark.parametrize("times", [1, 50])
def test_other_encodings_are_not_taken_for_korean_but_asked_for(
    write: Any, encoding: str, times: int
) -> None:
    text = OTHERS[encoding] * times
    path = write(text.encode(encoding), "data.txt")
    with pytest.raises(
        DataError, match=r"data\.txt:1: not valid UTF-8 .*data\.encoding=NAME"
    ) as e:
        read(path)
    if encoding in ("latin-1", "cp1252", "cp1251", "shift_jis", "gb18030"):
        assert encoding in str(e.value)
    document = read(path, encoding=encoding)
    assert isinstance(document, Document)
    assert document.text == text


western = st.lists(
    st.sampled_from(
        [
            "été",
            "Ähre",
            "größe",
            "À",
            "Éléphant",
            "¿Qué",
            "¡Sí!",
            "naïf",
            "«oui»",
            "20°",
            "Çelik",
            "coração",
            "Ørsted",
            "Åse",
            "ça",
            "Àpropos",
            "niño",
            "Ärger",
            "Übung",
            "Öl",
            "São",
            "\n",
        ]
    ),
    min_size=1,
    max_size=60,
).map(" ".join)


@given(western)
@settings(max_examples=200, deadline=None)
def test_latin_1_is_never_taken_for_korean(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    from unrolled.data.archives import Origin
    from unrolled.data.charsets import encoding_of

    path = tmp_path_factory.getbasetemp() / "western.txt"
    path.write_bytes(text.encode("latin-1"))
    assert encoding_of(Origin(path)) == "utf-8"


def test_damage_does_not_change_what_the_file_is(write: Any) -> None:
    good = f"{REVIEW}\t1\n" * 20
    path = write(
        ("text\tlabel\n" + good).encode()
        + "나쁜\t0\n".encode("cp949") * 3
        + good.encode()
    )
    with pytest.raises(DataError, match=r"data\.txt:22: not valid UTF-8"):
        read(path)
    assert len(table(path, on_error="skip").rows) == 40


def test_what_the_user_says_is_not_questioned(write: Any) -> None:
    path = write("리뷰\t감정\n좋다\t1\n싫다\t0\n".encode("cp949"), "data.txt")
    assert table(path, encoding="latin-1").format.encoding == "iso8859-1"
    with pytest.raises(DataError, match=r":1: not valid UTF-8"):
        read(path, encoding="utf-8")
