"""Text to token ids in several processes, in the order of the text.

A worker is a Python process of its own that is sent texts and answers ids: it needs no copy of
this process, whose threads a fork would break, and does not run the user's script again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError
from unrolled.text.published import tokenizer_of
from unrolled.text.tokenizers import Tokenizer

PIECE = 1 << 20  # characters that a worker encodes at once
MOST = 8  # workers; one process reads for all of them
# Where a text can be cut so that its parts encode as the whole does: after a line end, with a word
# or one single blank to follow. Longer blanks are tokens of their own, which a cut would change.
_SEAM = re.compile(r"\S\n(?=\S)|\S[ \t\n]{0,40}\n(?=[ \t\n]\S)")
_TAIL = 1 << 16  # characters at the end of a piece among which a seam is looked for


@dataclass(frozen=True, slots=True)
class EncodingJob:
    """What a worker encodes: part of a running text, or the texts of some rows.

    ``first`` is false for all parts of a running text but its first. ``limit`` and ``ended`` are
    for rows: the most tokens of a text, the end mark after each.
    """

    texts: list[str]
    first: bool = True
    ended: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Ids:
    """Ids of a job as bytes, how many each text has, UTF-8 bytes read, unknown ids."""

    ids: bytes
    counts: NDArray[np.int32]
    size: int
    unknown: int


def pieces(blocks: Iterable[str], size: int = PIECE) -> Iterator[EncodingJob]:
    """Cut a running text into jobs of about ``size`` characters, whose ids are those of the whole.

    A stretch without a place to cut makes a longer job.
    """
    held = ""
    first = True
    for block in blocks:
        held += block
        if len(held) < size:
            continue
        cut = 0
        for seam in _SEAM.finditer(held, max(0, len(held) - _TAIL)):
            cut = seam.end()
        if cut:
            yield EncodingJob([held[:cut]], first)
            held = held[cut:]
            first = False
    if held:
        yield EncodingJob([held], first)


def encode(tokenizer: Tokenizer, dtype: str, job: EncodingJob) -> Ids:
    """Return the ids of a job."""
    if job.ended:
        cut = None if job.limit is None else job.limit - 1
        rows = [ids[:cut] for ids in tokenizer.encode_many(job.texts)]
        for ids in rows:
            ids.append(tokenizer.eos_id)
        counts = np.array(list(map(len, rows)), dtype=np.int32)
        every_id = itertools.chain.from_iterable(rows)
        flat = np.fromiter(every_id, np.int32, counts.sum())
    else:
        (text,) = job.texts
        flat = tokenizer.encode_array(text, job.first)
        counts = np.array([len(flat)], dtype=np.int32)
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in job.texts)
    unknown = int((flat == tokenizer.unk_id).sum())
    return Ids(flat.astype(dtype).tobytes(), counts, size, unknown)


def in_order(
    tokenizer: Tokenizer, dtype: str, jobs: Iterable[EncodingJob], count: int
) -> Iterator[Ids]:
    """Yield the ids of every job, in the order of the jobs; few are under way at any time.

    Args:
        tokenizer: what encodes.
        dtype: numpy's name of a type that holds every id.
        jobs: read as they are needed, while the workers encode.
        count: workers; with 1 this process does the work itself.

    Raises:
        UserError: a worker died.
    """
    if count == 1:
        yield from (encode(tokenizer, dtype, job) for job in jobs)
        return
    own = threading.local()
    started = list[subprocess.Popen[bytes]]()

    def ask(job: EncodingJob) -> Ids:
        if not hasattr(own, "worker"):
            own.worker = _start()
            started.append(own.worker)
            _send(own.worker.stdin, (tokenizer.kind, tokenizer.saved, dtype))
        return _ask(own.worker, job)

    waiting: deque[Future[Ids]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(ask, job))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            for worker in started:
                worker.kill()
                with contextlib.suppress(OSError):  # its input may be closed
                    worker.communicate()


def _start() -> subprocess.Popen[bytes]:
    # -P: a folder that happens to be called like a library must not stand for it
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from unrolled.data.encoding import work; work()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _send(to: Any, value: Any) -> None:
    pickle.dump(value, to, pickle.HIGHEST_PROTOCOL)
    to.flush()


def _ask(worker: subprocess.Popen[bytes], job: EncodingJob) -> Ids:
    assert worker.stdout is not None
    try:
        _send(worker.stdin, job)
        ids: Ids = pickle.load(worker.stdout)
    except (OSError, EOFError, pickle.UnpicklingError):
        raise UserError(
            f"a process that encodes text ended early (exit code {worker.wait()}); it may have run "
            "out of memory: start again"
        ) from None
    return ids


def work() -> None:
    """Answer jobs on standard input until it ends: the program of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked decides
    source = sys.stdin.buffer
    answers = sys.stdout.buffer
    kind, saved, dtype = pickle.load(source)
    tokenizer = tokenizer_of(kind, saved)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            _send(answers, encode(tokenizer, dtype, pickle.load(source)))
    # whoever asked is gone, and with it the pipe that an ordinary end would flush
    os._exit(0)


def processors() -> int:
    """Return how many workers are of use on this machine."""
    if not hasattr(os, "sched_getaffinity"):
        return 1
    return min(MOST, len(os.sched_getaffinity(0)))
