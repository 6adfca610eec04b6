"""Weights of one model in another, and the weights of a model from the bottom to the top.

Legend: D features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.nn.layer import Layer
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.spelling import SpelledWords

# the same part in the names of other patterns: what reads a text, and what writes one
READERS = {
    "embedding.words.": "embedding.",
    "source.words.": "embedding.",
    "source.": "embedding.",
    "encoder.": "layer.",
}
WRITERS = {
    "target.": "embedding.",
    "decoder.layer.": "layer.",
    "decoder.": "layer.",
}
# parts that texts go through, in order; those that are none of them stand at the top
ORDER = (
    ("embedding",),
    ("source", "target"),
    ("layer", "encoder", "columns"),
    ("decoder",),
)


def counterpart(name: str, others: Sequence[str]) -> str | None:
    """Return which weight of another model is of the same part; None: none is.

    The one of the same name is; else what reads there is what reads here, whatever the pattern
    calls it, and what writes here begins as what reads there.

    Args:
        name: of a weight.
        others: names of the other model.
    """
    if name in others:
        return name
    by_part = {_renamed(other, READERS): other for other in others}
    for parts in (READERS, WRITERS):
        other = by_part.get(_renamed(name, parts))
        if other is not None:
            return other
    return None


def _renamed(name: str, parts: dict[str, str]) -> str:
    for prefix, part in parts.items():
        if name.startswith(prefix):
            return part + name.removeprefix(prefix)
    return name


def fitted(model: nn.Module, name: str, weight: Tensor) -> Tensor | None:
    """Return a weight of another model as the one of this name is; None: it does not fit.

    Where a recurrent layer reads more features than the other, those of the reverse direction
    below it or those beside the vectors of words, they weigh nothing at first: what both read
    gives the same outputs.

    Args:
        model: whose weight it becomes.
        name: of a weight of it.
        weight: what is there in the other one.
    """
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    own: Tensor = getattr(module, leaf)
    if weight.shape == own.shape:
        return weight
    known = None
    if isinstance(module, Recurrent):
        known = _shared_inputs(model, module, leaf)
    if known is None or weight.shape != (len(own), known):
        return None
    return F.pad(weight, (0, own.shape[1] - known))


def _shared_inputs(model: nn.Module, layer: Recurrent, name: str) -> int | None:
    """Return how many inputs, the first ones, a narrower layer reads too; None: there is none."""
    own: Tensor = getattr(layer, name)
    kind, _, number = name.removesuffix("_reverse").partition("_l")
    if kind != "weight_ih":
        return None
    if number != "0":
        return own.shape[1] // layer.directions
    embedding = getattr(model, "embedding", None)
    if not isinstance(embedding, SpelledWords) or layer is embedding.layer:
        return None
    return embedding.words.width


def depths(model: nn.Module) -> list[list[str]]:
    """Return the names of the weights of a model in groups, from the bottom to the top.

    Embeddings come first, then each layer of a stack, and last what makes outputs of the highest.
    A weight that stands in two parts, as tied output weights do, is of the lower one.
    """
    groups: list[list[nn.Parameter]] = []
    parts = dict(model.named_children())
    for names in ORDER:
        beside = [_depths_of(parts.get(name)) for name in names]
        for groups_of_depth in itertools.zip_longest(*beside, fillvalue=[]):
            group: list[nn.Parameter] = []
            for weights in groups_of_depth:
                group += weights
            groups.append(group)
    # what was not named yet stands at the top
    groups.append(list(model.parameters()))
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    result: list[list[str]] = []
    for group in groups:
        # of each weight the first group counts
        kept = [named.pop(id(parameter), None) for parameter in group]
        result.append([name for name in kept if name is not None])
    return [group for group in result if group]


def _depths_of(part: nn.Module | None) -> list[list[nn.Parameter]]:
    if part is None:
        return []
    return part.depths() if isinstance(part, Layer) else [list(part.parameters())]
