"""Which pages of a cache texts have, and which of them begin alike and share theirs.

Shapes: P steps of a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_FIRST = -1  # what stands before the first page of a text


class _Content(NamedTuple):
    """What stands in a full page: its tokens, after those of the page before."""

    before: int
    tokens: tuple[int, ...]


class Pages:
    """Hands out pages; full ones are found again by what stands in them.

    A page that nobody has any more keeps what stands in it until another text needs room: the one
    that was left longest ago goes first. A text that ends leaves its last page first, so that
    what texts have in common goes last (as in Kwon et al. 2023, section 4, without copies).

    Args:
        size: P, a power of two.
        count: how many there are at first; see ``grow``.
    """

    def __init__(self, size: int, count: int) -> None:
        self.size = size
        self.count = count
        self._empty = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._contents: dict[int, _Content] = {}
        self._known: dict[_Content, int] = {}
        # full pages without users, in the order they were left
        self._left: dict[int, None] = {}

    @property
    def free(self) -> int:
        """How many pages can be taken."""
        return len(self._empty) + len(self._left)

    def grow(self, count: int) -> None:
        """Let there be ``count`` pages, more than before."""
        self._empty = [*range(count - 1, self.count - 1, -1), *self._empty]
        self._users += [0] * (count - self.count)
        self.count = count

    def shared(self, tokens: Sequence[int]) -> list[int]:
        """Take the full pages that hold the beginning of a text, but for its last token.

        The last has to be read, for its scores.
        """
        pages: list[int] = []
        before = _FIRST
        for start in range(0, len(tokens) - self.size, self.size):
            part = tuple(tokens[start : start + self.size])
            page = self._known.get(_Content(before, part))
            if page is None:
                break
            self._left.pop(page, None)
            self._users[page] += 1
            pages.append(page)
            before = page
        return pages

    def take(self) -> int:
        """Take an empty page. Raises IndexError: there is none."""
        if self._empty:
            page = self._empty.pop()
        else:
            if not self._left:
                raise IndexError("no page is free")
            page = next(iter(self._left))
            del self._left[page]
            del self._known[self._contents.pop(page)]
        self._users[page] = 1
        return page

    def fill(self, page: int, before: int | None, tokens: Sequence[int]) -> None:
        """Note what stands in a full page, where no other page is known to hold the same.

        Args:
            page: which.
            before: the page before it in its text, None where it is the first.
            tokens: the P of it.
        """
        content = _Content(_FIRST if before is None else before, tuple(tokens))
        is_followed = before is None or before in self._contents
        if is_followed and content not in self._known:
            self._known[content] = page
            self._contents[page] = content

    def leave(self, pages: Sequence[int]) -> None:
        """Give back the pages of a text."""
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._contents:
                self._left[page] = None
            else:
                self._empty.append(page)
