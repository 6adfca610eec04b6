"""Packed, binary and hostile files: read in place or refused by name, and nothing is written."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import resource
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data import archives
from unrolled.data.sources import Document, Table, read

ROWS = "text,label\ngood,1\nbad,0\n"


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path: Path) -> Any:
    """No test of this file leaves another file than it made, in its folder or beside it."""
    yield
    beside = {path.name for path in tmp_path.parent.iterdir() if "evil" in path.name}
    assert not beside
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def zipped(path: Path, members: dict[str, str | bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


# ---------------------------------------------------------------------- zip


def test_a_zip_of_one_data_file_is_read_in_place(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "d.zip",
        {
            "set/": b"",
            "set/README.md": "about",
            "__MACOSX/._x": b"\0",
            "set/train.csv": ROWS,
        },
    )
    dataset = table(path)
    assert dataset.rows == [("good", "1"), ("bad", "0")]
    assert (
        dataset.format.describe()
        == "comma-separated, header, UTF-8, zip, without set/README.md"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_a_zip_names_archive_member_and_line(tmp_path: Path) -> None:
    path = zipped(tmp_path / "d.zip", {"train.csv": ROWS + "a,b,c\n"})
    with pytest.raises(DataError, match=r"d\.zip/train\.csv:4: expected 2 fields"):
        read(path)
    assert len(table(path, on_error="skip").rows) == 2


def test_a_zip_of_texts_or_of_tables_is_a_folder(tmp_path: Path) -> None:
    texts = zipped(
        tmp_path / "t.zip",
        {"reviews/pos/1.txt": "so good\n", "reviews/neg/1.txt": "so bad\n"},
    )
    assert table(texts).rows == [("so bad\n", "neg"), ("so good\n", "pos")]
    tables = zipped(tmp_path / "d.zip", {"b.csv": "text,label\nx,1\n", "a.csv": ROWS})
    dataset = table(tables)
    assert dataset.rows == [("good", "1"), ("bad", "0"), ("x", "1")]
    assert dataset.position(dataset.lines[-1]) == (f"{tables}/b.csv", 2)
    song = zipped(tmp_path / "s.zip", {"song.txt": "one\ntwo\n"})
    document = read(song)
    assert isinstance(document, Document)
    assert document.text == "one\ntwo\n"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.csv",
        "a/../../evil.csv",
        "/tmp/evil.csv",
        "..\\evil.csv",
        "C:\\evil.csv",
    ],
)
def test_a_member_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "d.zip", {"good.csv": ROWS, name: ROWS})
    for on_error in ("stop", "skip"):
        with pytest.raises(DataError, match=r"evil\.csv: .* leads outside the archive"):
            read(path, on_error=on_error)  # type: ignore[arg-type]


def test_links_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("passwords.csv")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(
        DataError, match=r"l\.zip/passwords\.csv: this member is a link"
    ):
        read(tmp_path / "l.zip")
    content = bytearray(zipped(tmp_path / "e.zip", {"a.csv": ROWS}).read_bytes())
    content[6] |= 1  # the flag of the member, and of its entry in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "e.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"e\.zip/a\.csv: this member is encrypted"):
        read(tmp_path / "e.zip")


def test_a_zip_bomb_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LARGE", 1 << 20)
    archive = zipped(tmp_path / "b.zip", {"a.csv": ROWS, "b.csv": b"1,2\n" * (1 << 20)})
    with pytest.raises(
        DataError, match=r"b\.zip/b\.csv: this member unpacks to more than 500"
    ):
        read(archive)
    many = {f"{i}.csv": b"1,2\n" * (1 << 17) for i in range(9)}
    with pytest.raises(DataError, match=r"c\.zip: it unpacks to more than 500"):
        read(zipped(tmp_path / "c.zip", many))


def test_a_zip_that_lies_about_its_size_gives_no_more_than_it_said(
    tmp_path: Path,
) -> None:
    content = bytearray(
        zipped(tmp_path / "l.zip", {"a.csv": b"1,2\n" * 9_999}).read_bytes()
    )
    entry = content.index(b"PK\x01\x02")
    for offset in (22, entry + 24):  # the unpacked size, in both directories
        content[offset : offset + 4] = (40).to_bytes(4, "little")
    (tmp_path / "l.zip").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "l.zip")


def test_archives_in_archives_are_refused(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "i.zip", {"a.csv": ROWS}).read_bytes()
    for name, content in {
        "i.zip": inner,
        "a.csv.gz": gzip.compress(ROWS.encode()),
    }.items():
        path = zipped(tmp_path / "o.zip", {name: content})
        with pytest.raises(
            DataError, match=rf"o\.zip/{name}: this is .*unpack it yourself"
        ):
            read(path)
    twice = tmp_path / "t.csv.gz"
    for packed in (inner, gzip.compress(ROWS.encode())):
        twice.write_bytes(gzip.compress(packed))
        with pytest.raises(
            DataError, match=r"t\.csv\.gz: this is .*unpack it yourself"
        ):
            read(twice)


def test_empty_and_damaged_archives(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the archive holds no data file"):
        read(zipped(tmp_path / "e.zip", {}))
    whole = zipped(tmp_path / "d.zip", {"a.csv": ROWS * 99}).read_bytes()
    for broken in (whole[:60], whole[:-30], whole[:40] + b"\xff" * 20 + whole[60:]):
        (tmp_path / "d.zip").write_bytes(broken)
        with pytest.raises(DataError, match=r"d\.zip.*cannot be read.*copy it anew"):
            read(tmp_path / "d.zip")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_zip_with_any_byte_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = zipped(
        tmp_path_factory.getbasetemp() / "any.zip", {"a.csv": ROWS, "b.csv": ROWS}
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path.write_bytes(content)
    with contextlib.suppress(DataError):  # any other exception is a fault
        assert isinstance(read(path), Table | Document)


# ---------------------------------------------------------------------- gzip


def test_a_gzip_bomb_is_refused_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LARGE", 1 << 22)
    bomb = tmp_path / "b.csv.gz"
    with gzip.open(bomb, "wb") as handle:
        for _ in range(200):
            handle.write(b"1,2\n" * (1 << 18))  # 200 MB in 200 KB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        DataError, match=r"b\.csv\.gz: it unpacks to more than 500 times"
    ):
        read(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_text_that_packs_well_is_no_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LARGE", 1 << 16)
    body = "".join(f"{i},{i % 7}\n" for i in range(60_000))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(body.encode()))
    assert len(table(tmp_path / "a.csv.gz").rows) == 60_000


# ---------------------------------------------------------------------- files of other programs


def _npy() -> bytes:
    handle = io.BytesIO()
    np.save(handle, np.arange(9))
    return handle.getvalue()


def _tar() -> bytes:
    handle = io.BytesIO()
    with tarfile.open(fileobj=handle, mode="w") as archive:
        info = tarfile.TarInfo("evil.csv")
        info.size = len(ROWS)
        archive.addfile(info, io.BytesIO(ROWS.encode()))
    return handle.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "a JPEG image"),
        (b"GIF89a\1\0\1\0\0\0", "a GIF image"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
            r"Excel .*save the sheet as CSV",
        ),
        (pickle.dumps({"a": 1}, 4), "a Python pickle"),
        (pickle.dumps({"a": 1}, 2), "a Python pickle"),
        (_npy(), "a NumPy array"),
        (_tar(), "a tar archive.*unpack it"),
        (gzip.compress(_tar()), "a tar archive.*unpack it"),
        (b"SQLite format 3\0" + bytes(80), "NUL bytes"),
        (bytes(1000), "NUL bytes"),
        (bytes(range(256)) * 40, "NUL bytes"),
    ],
)
def test_binary_files_are_called_by_their_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    for on_error in ("stop", "skip"):
        with pytest.raises(DataError, match=rf"data\.csv.*{message}"):
            read(path, on_error=on_error)  # type: ignore[arg-type]


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "evil"), "w"))

    for name in ("train.csv", "train.parquet", "train.txt"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload()))
        with pytest.raises(DataError, match="pickle"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"[Content_Types].xml": "", "xl/workbook.xml": ""},
            r"an Excel workbook.*CSV UTF-8",
        ),
        (
            {"mimetype": "application/vnd.oasis", "content.xml": ""},
            r"OpenDocument.*as CSV",
        ),
        ({"[Content_Types].xml": "", "word/document.xml": ""}, r"a Word document"),
        ({"frames.npy": _npy()}, r"NumPy"),
        ({"archive/data.pkl": pickle.dumps(1)}, r"PyTorch"),
    ],
)
def test_spreadsheets_say_how_to_save_them(
    tmp_path: Path, members: dict[str, str | bytes], message: str
) -> None:
    with pytest.raises(DataError, match=rf"book\.xlsx: this is .*{message}") as caught:
        read(zipped(tmp_path / "book.xlsx", members))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- names of members


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.csv", "a.csv"),
        ("a.csv", "./a.csv"),
        ("x//a.csv", "x/a.csv"),
        ("a.csv", "a.csv\0b"),
    ],
)
def test_a_name_that_stands_twice_is_refused(
    tmp_path: Path, first: str, second: str
) -> None:
    path = tmp_path / "twice.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(first, ROWS)
        archive.writestr(second.replace("\0", "_"), ROWS.replace("good", "film"))
    if "\0" in second:
        path.write_bytes(path.read_bytes().replace(b"a.csv_b", b"a.csv\0b"))
    with pytest.raises(DataError, match="two members have this name"):
        read(path)


@given(
    st.lists(
        st.sampled_from(["a.csv", "./b.csv", "x/c.csv", "./x/./d.csv"]),
        unique=True,
        min_size=1,
    )
)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_member_is_read_once(tmp_path: Path, members: list[str]) -> None:
    rows = {name: f"text,label\n{name} one,1\n{name} two,0\n" for name in members}
    actual = table(zipped(tmp_path / "a.zip", dict(rows))).rows
    expected = {
        (f"{name} {word}", label)
        for name in members
        for word, label in (("one", "1"), ("two", "0"))
    }
    assert set(actual) == expected
    assert len(actual) == len(expected)
