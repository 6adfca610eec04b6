"""YAML, read in time and memory that its length bounds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

from unrolled.core.errors import shown

NODES = 10_000  # values of a recipe, those that are repeated by name counted each time
DIGITS = 100  # of a number


class _Bounded:
    """Lets a loader of YAML stop at its ``NODES``-th value: the library takes 25 us for each."""

    composed = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next value of the text."""
        self.composed += 1
        if self.composed > NODES:
            raise ValueError(f"it holds more than {NODES:,} values")
        return super().compose_node(parent, index)  # type: ignore[misc]


class _Words(_Bounded, yaml.BaseLoader):
    """Leaves every word as typed."""


class _Values(_Bounded, yaml.SafeLoader):
    """Makes numbers, truth values and dates of words, and no object of any program."""


def load_yaml(text: str, leave_words: bool = False) -> Any:
    """Return the value that a YAML text holds, in time and memory that its length bounds.

    Keys are texts as they are typed: a label ``no`` is no false.

    Args:
        text: the text.
        leave_words: leave every word as typed, numbers too.

    Raises:
        yaml.YAMLError, ValueError: it is no YAML, or holds more than a recipe does.
    """
    loader = (_Words if leave_words else _Values)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    finally:
        loader.dispose()


def _check_nodes(root: yaml.Node) -> None:
    """Refuse what would take time without end: a value in itself, repeats of repeats, digits."""
    count = 0
    waiting = [(root, frozenset[int]())]
    while waiting:
        node, above = waiting.pop()
        count += 1
        if id(node) in above or len(above) > 50:
            raise ValueError("a value holds itself, or values are nested too deeply")
        if count > NODES:
            raise ValueError(f"it holds more than {NODES:,} values")
        within = above | {id(node)}
        if isinstance(node, yaml.SequenceNode):
            waiting += [(part, within) for part in node.value]
        elif isinstance(node, yaml.MappingNode):
            keys = [
                key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)
            ]
            twice = next(
                (key for key, times in Counter(keys).items() if times > 1), None
            )
            if twice is not None:
                raise ValueError(
                    f"the key {shown(twice)} stands there twice; join the two"
                )
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise ValueError("a key is a word, not a list or a mapping")
                if key.tag != "tag:yaml.org,2002:merge":
                    key.tag = "tag:yaml.org,2002:str"
                waiting.append((value, within))
        elif node.tag != "tag:yaml.org,2002:str" and len(node.value) > DIGITS:
            raise ValueError(f"a number of {len(node.value):,} digits")
