"""Token ids larger than memory: kept as memory-mapped files, which a manifest describes.

    CACHE/<key>/manifest.json    what was encoded, and the size and SHA-256 of every shard
    CACHE/<key>/tokens-0000.bin  ids one after another, in the smallest type that holds them
    CACHE/<key>.json             something small that was worked out before (a vocabulary)

The cache is the folder UNROLLED_CACHE, else ``unrolled`` in the user's cache folder. A key is made
of everything the content follows from: the file's own hash, how it is read, the tokenizer's hash.
So what is found under a key is right, whoever wrote it, and nothing in it is ever changed: all of
it is hashed before it is used (1.4 s a GB), and made anew where it was altered. All of it may be
deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from unrolled._version import __version__
from unrolled.core.errors import DataError, UserError
from unrolled.core.files import (
    Watched,
    advice,
    expanded,
    read_json,
    sha256,
    sync,
    write_json,
    write_text,
)
from unrolled.core.locks import Lock, held
from unrolled.data import hub
from unrolled.data.sources import fingerprint

FORMAT = 1
MANIFEST = "manifest.json"
SHARD = 1 << 28  # bytes of one file
HELD = 16  # look-ups after which mapped pages are given back
SETTLED = 2.0  # seconds; a file written later than this may change again within one clock tick


class Tokens:
    """Ids of a long text, read like an array from mapped files; int32 comes out.

    Only what is asked for is read, and pages are given back after every ``HELD`` look-ups, so that
    memory stays bounded however much was read. ``ends`` are ids that stand after the last file.
    """

    def __init__(
        self, files: Iterable[Path], dtype: str, ends: Iterable[int] = ()
    ) -> None:
        self._paths = [*files]
        self._maps = [_map(path) for path in self._paths]
        self._parts: list[NDArray[Any]] = [np.frombuffer(m, dtype) for m in self._maps]
        self._parts.append(np.array([*ends], dtype=np.int32))
        self._ends = np.cumsum([len(part) for part in self._parts])
        self._reads = 0

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice | NDArray[np.int64]) -> NDArray[np.int32]: ...

    def __getitem__(
        self, at: int | slice | NDArray[np.int64]
    ) -> int | NDArray[np.int32]:
        """Return one id, a stretch of them, or those at the positions in an array of any shape."""
        self._reads += 1
        self._refuse_shortened()
        if self._reads % HELD == 0:
            for mapped in self._maps:
                _give_back(mapped)
        begins = self._ends - np.array([len(part) for part in self._parts])
        if isinstance(at, slice):
            first, last, _ = at.indices(len(self))
            cut = zip(self._parts, begins.tolist(), strict=True)
            stretches = [part[max(0, first - b) : max(0, last - b)] for part, b in cut]
            return np.concatenate(stretches, dtype=np.int32)
        positions = np.asarray(at)
        positions = np.where(positions < 0, positions + len(self), positions)
        if positions.size:
            lowest = int(positions.min())
            highest = int(positions.max())
            if not 0 <= lowest <= highest < len(self):
                raise IndexError(f"no token at {at!r}; there are {len(self):,}")
        ids = np.empty(positions.shape, dtype=np.int32)
        which = np.searchsorted(self._ends, positions, side="right")
        for part in np.unique(which):
            chosen = which == part
            ids[chosen] = self._parts[part][positions[chosen] - begins[part]]
        return int(ids) if isinstance(at, int) else ids

    def _refuse_shortened(self) -> None:
        """Raise UserError where a mapped file was cut: to read past its end ends the process."""
        for path, mapped in zip(self._paths, self._maps, strict=True):
            if mapped.size() < len(mapped):  # that of the file now, and of the map
                raise UserError(
                    f"{path}: this file of the cache was cut short while it was read; start again, "
                    "and it will be made anew"
                )


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


def _give_back(mapped: mmap.mmap) -> None:
    """Let go of the pages in memory, where the system can; they are read again when asked for."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What stands in the cache under one key.

    ``known`` is whether it stood there already.
    """

    folder: Path
    manifest: dict[str, Any]
    known: bool

    def tokens(self, ends: Iterable[int] = ()) -> Tokens:
        """Return the ids, with ``ends`` after them."""
        names = [file["name"] for file in self.manifest["files"]]
        shards = [self.folder / name for name in names if name.startswith("tokens-")]
        return Tokens(shards, self.manifest["dtype"], ends)

    def array(self, name: str) -> NDArray[Any]:
        """Return an array that was kept beside the ids."""
        path = self.folder / f"{name}.npy"
        values: NDArray[Any] = np.load(path, allow_pickle=False)
        return values


class Writer:
    """Writes ids as shards into a folder, and arrays beside them."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.folder = folder
        self.dtype = dtype
        self.files: list[dict[str, Any]] = []
        self._open: IO[bytes] | None = None
        self._hash = hashlib.sha256()

    def add(self, ids: bytes) -> None:
        """Append ids, given as bytes of the shards' type."""
        if not ids:
            return
        if self._open is None:
            name = f"tokens-{len(self.files):04}.bin"
            self._open = (self.folder / name).open("wb")
            self._hash = hashlib.sha256()
        self._open.write(ids)
        self._hash.update(ids)
        if self._open.tell() >= SHARD:
            self.close()

    def close(self) -> None:
        """End the shard that is being written."""
        if self._open is not None:
            handle = self._open
            self._open = None
            with handle:
                handle.flush()
                os.fsync(handle.fileno())
            self._note(Path(handle.name), self._hash.hexdigest())

    def array(self, name: str, values: NDArray[Any]) -> None:
        """Keep an array beside the ids."""
        self.close()
        path = self.folder / f"{name}.npy"
        np.save(path, values)
        sync(path)
        self._note(path, sha256(path))

    def _note(self, path: Path, digest: str) -> None:
        entry = {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
        self.files.append(entry)


def encoded(
    key: Mapping[str, Any], dtype: str, make: Callable[[Writer], dict[str, Any]]
) -> Encoded:
    """Return what is kept under a key; where it is absent or damaged, ``make`` writes it anew.

    It is written beside its place and renamed when it is whole, while a lock keeps other processes
    waiting, which then find it. What an interrupted process left is removed by the next one.

    Args:
        key: what the content follows from; it is kept in the manifest.
        dtype: numpy's name of the type that holds every id.
        make: writes ids and arrays; returns what else the manifest holds.

    Raises:
        UserError: the cache cannot be written, as on a full disk; nothing is left behind.
    """
    folder = cache() / digest(key)
    manifest = _intact(folder, key)
    if manifest is not None:
        return Encoded(folder, manifest, True)
    partial = folder.with_name(f"{folder.name}.partial")
    with _cache_errors():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, "this is being encoded already"):
            # another process may have written it by now
            manifest = _intact(folder, key)
            if manifest is not None:
                return Encoded(folder, manifest, True)
            for old in (folder, partial):
                shutil.rmtree(old, ignore_errors=True)
            partial.mkdir()
            try:
                content = _written(Writer(partial, dtype), make)
                manifest = {"key": dict(key), "dtype": dtype, **content}
                write_json(partial / MANIFEST, signed(manifest))
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            sync(folder.parent)
            return Encoded(folder, manifest, False)


def _written(
    writer: Writer, make: Callable[[Writer], dict[str, Any]]
) -> dict[str, Any]:
    """Let ``make`` write, and return the manifest's account of it."""
    try:
        more = make(writer)
    finally:
        writer.close()
    return {**more, "files": writer.files}


def _intact(folder: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest when it is of this key, and it and every file have their hashes."""
    try:
        manifest = read_signed(folder / MANIFEST)
        if manifest["key"] != as_json(key):
            return None  # a folder that was put in the place of another
        for entry in manifest["files"]:
            if sha256(folder / entry["name"]) != entry["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest


def as_json(values: Mapping[str, Any]) -> Any:
    """Return values as a file of JSON gives them back: tuples as lists, keys as text."""
    return json.loads(json.dumps(dict(values)))


def signed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the hash of what they hold."""
    return {**values, "sha256": _sum(values)}


def read_signed(path: Path) -> dict[str, Any]:
    """Return what ``signed`` wrote into a file. Raises OSError, ValueError: it was altered."""
    values = read_json(path)
    known = values.pop("sha256", None)
    if known != _sum(values):
        raise ValueError("it was altered")
    return values


def _sum(values: Mapping[str, Any]) -> str:
    plain = json.dumps(values, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def remembered(key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """Return a small value that is kept under a key as JSON; computed where it is not there.

    A lock keeps other processes waiting while one computes it.
    """
    path = cache() / f"{digest(key)}.json"
    known = _recalled(path, key)
    if known is not None:
        return known["value"]
    with contextlib.ExitStack() as stack:
        with _cache_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            busy = "this is being worked out already"
            stack.enter_context(_locked(path, busy))
        # another process may have written it by now
        known = _recalled(path, key)
        if known is not None:
            return known["value"]
        value = compute()
        with _cache_errors():
            # rows may hold an infinity, which write_json would refuse; only ``json`` reads this
            kept = signed({"key": dict(key), "value": value})
            write_text(path, json.dumps(kept, ensure_ascii=False))
        return value


def _recalled(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what ``remembered`` wrote for a key; None where it is absent or damaged."""
    try:
        kept = read_signed(path)
        return kept if kept["key"] == as_json(key) and "value" in kept else None
    except (OSError, ValueError, KeyError):
        return None


def _locked(path: Path, busy: str) -> contextlib.AbstractContextManager[Lock]:
    """Hold what stands at ``path`` of the cache, waiting until no other process does."""
    lock = path.with_name(f"{path.name}.lock")
    advice = "set UNROLLED_CACHE to another folder"
    return held(lock, f"{path}: {busy}", advice, blocking=True)


def identity(path: Path) -> str:
    """Return the fingerprint of a source, hashed again only when a file may have changed.

    It is remembered with size, times and inode of every file. The time of change cannot be set
    back by a user, so a file of the same size and date with other content is noticed.
    """
    if hub.is_hub(path):
        return fingerprint(path)
    watched = Watched(path)
    if time.time() - watched.newest() < SETTLED:
        return fingerprint(path)
    # one hash for the files of a folder, of which there may be many
    seen = hashlib.sha256(json.dumps(watched.stamps).encode()).hexdigest()
    key = {"file": str(path.resolve()), "seen": seen}
    return str(remembered(key, lambda: fingerprint(path)))


@contextlib.contextmanager
def unchanged(*paths: Path) -> Iterator[None]:
    """Raise DataError where a file was written to, or replaced, while the block read it."""
    watched = [Watched(path) for path in paths]
    yield
    refuse_changed(watched)


def refuse_changed(watched: Iterable[Watched]) -> None:
    """Raise DataError where one of the files is no longer the one that reading began with."""
    for file in watched:
        if file.changed():
            raise DataError(
                "the file changed while it was read; start again", file.path
            )


def cache() -> Path:
    """Return the folder of encoded data."""
    own = os.environ.get("UNROLLED_CACHE")
    if own:
        return expanded(own)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "unrolled"


def digest(key: Mapping[str, Any]) -> str:
    """Return the name of a key."""
    content = {"format": FORMAT, "version": __version__, **key}
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextlib.contextmanager
def _cache_errors() -> Iterator[None]:
    """Raise what the system refuses in the cache as UserError."""
    try:
        yield
    except OSError as error:
        raise _no_cache(error) from None


def _no_cache(error: OSError) -> UserError:
    full = shutil.disk_usage(next(p for p in [cache(), *cache().parents] if p.exists()))
    return UserError(
        f"{cache()}: encoded data cannot be kept here ({error.strerror or error}; "
        f"{full.free / 1e9:.1f} GB free){advice(error)}, or set UNROLLED_CACHE to another folder"
    )
