"""Names by language, of lists that stand in for those of the package."""

from __future__ import annotations

import csv
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unrolled.core.errors import UserError
from unrolled.data.lines import nfc
from unrolled.studies import names

LETTERS = "abcdefghijklmnopqrst"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a few names of each language."""
    for part in ("faker", "faker.providers", names.PACKAGE):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    for language, locale in names.LANGUAGES.items():
        lists = {
            "first_names": [f"{language[0]}{letter}" for letter in LETTERS],
            "first_names_female": OrderedDict([("Anna", 1), ("Zoe\u0301  Maria", 2)]),
            "last_names": ("Anna", "d'Or", "H.-Dieter", "No (a remark)", "", "12"),
            "formats": ("{{last_name}}",),
        }
        module: Any = ModuleType(f"{names.PACKAGE}.{locale}")
        module.Provider = type("Provider", (), lists)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def rows_of(path: Path) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return [tuple(row) for row in csv.reader(handle)]


def test_names_are_distinct_and_made_of_letters(package: None) -> None:
    rows = names.names()
    assert len(rows) == len(set(rows))
    korean = [name for language, name in rows if language == "Korean"]
    assert korean == sorted(
        {"Anna", nfc("Zoe\u0301 Maria"), "d'Or", *(f"K{letter}" for letter in LETTERS)}
    )


def test_no_name_stands_in_both_parts(package: None, tmp_path: Path) -> None:
    assert names.main([str(tmp_path / "names")]) == 0
    files = (names.TRAIN_FILE, names.HELD_FILE)
    (header, *train), (other, *held) = (
        rows_of(tmp_path / "names" / name) for name in files
    )
    assert header == other == names.COLUMNS
    assert sorted([*train, *held]) == sorted(names.names())
    learnt = {name.casefold()[: names.BEGINNING] for _, name in train}
    assert held
    assert learnt.isdisjoint(name.casefold()[: names.BEGINNING] for _, name in held)
    before = [(tmp_path / "names" / name).read_bytes() for name in files]
    assert names.main([str(tmp_path / "names")]) == 0
    assert [(tmp_path / "names" / name).read_bytes() for name in files] == before


def test_without_the_package_it_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for locale in names.LANGUAGES.values():
        monkeypatch.setitem(sys.modules, f"{names.PACKAGE}.{locale}", None)
    assert names.main([str(tmp_path / "names")]) == UserError.exit_code
    assert capsys.readouterr().err == f"unrolled: {names.INSTALL}\n"
    assert not (tmp_path / "names").exists()
