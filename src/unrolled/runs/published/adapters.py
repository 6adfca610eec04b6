"""Adapters as PEFT keeps them: a folder of settings and weights that stand beside a checkpoint.

Legend: I inputs and O outputs of a product, R the rank.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import UserError, listed, shown
from unrolled.core.files import CONFIG_BYTES, read_json
from unrolled.models import LanguageModel
from unrolled.nn.adapters import LowRank, Product
from unrolled.runs.published.config import PublishedConfig
from unrolled.runs.published.drafting import plain_family
from unrolled.runs.published.families import Family
from unrolled.runs.published.weights import SafetensorsFile, Shape, WeightOrigin

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BEFORE = "base_model.model."
DOWN = "lora_A"
UP = "lora_B"
MAGNITUDE = "lora_magnitude_vector"
# of patterns of names: nothing in them repeats but dots, some times
PATTERN = re.compile(r"[\w\\.\[\]()|^$-]{0,200}")
# settings that change what an adapter computes, and the values that are known
KNOWN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_rslora": False,
    "alora_invocation_tokens": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "lora_bias": False,
    "layer_replication": None,
    "use_qalora": False,
}
MEANT = {"bias": "none", "use_rslora": False, "lora_bias": False, "use_qalora": False}
# ways to draw A that leave the weights beside it as they are
DRAWN = (True, False, None, "gaussian", "orthogonal")


@dataclass(frozen=True, slots=True)
class Adapter:
    """What stands beside one product.

    Attributes:
        down: A (R, I).
        up: B (O, R).
        scale: what B A is multiplied with.
        magnitude: lengths of the rows (O,), None where they are those that follow.
        parts: equal parts of the outputs that have an adapter each; A has those below each other
            (P R, I).
    """

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None
    parts: int = 1

    @property
    def rank(self) -> int:
        """R."""
        return self.up.shape[1]


@dataclass(frozen=True, slots=True)
class AdapterNames:
    """How modules are called where an adapter is read.

    Attributes:
        family: of the published checkpoint that the model is; None for our own names.
    """

    family: Family | None

    @classmethod
    def of(cls, model: nn.Module) -> AdapterNames:
        """Return the names for a model, whose products have no adapters yet."""
        family = plain_family(model) if isinstance(model, LanguageModel) else None
        return cls(family)

    def origin(self, weight_name: str) -> WeightOrigin | None:
        """Return where a weight of ours stands there; None where there is none like it."""
        if self.family is None:
            return WeightOrigin((weight_name,))
        try:
            return self.family.origin(weight_name, bare=False)
        except KeyError:
            return None

    @property
    def transposed(self) -> bool:
        """Whether products are kept the other way round there."""
        origins = () if self.family is None else self.family.inner.values()
        return any(origin.transposed for origin in origins)


@dataclass(slots=True)
class AdapterFolder:
    """A folder of PEFT: adapters by the names of modules, and weights that are trained whole.

    Attributes:
        path: of the folder.
        adapters: by the name of the product in the checkpoint that they are for.
        whole: weights by their names there.
    """

    path: Path
    adapters: dict[str, Adapter] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Of the weights that are trained whole; see ``Stored``."""
        return {name: tuple(tensor.shape) for name, tensor in self.whole.items()}

    def read(self, name: str) -> Tensor:
        """Return a weight that is trained whole; see ``Stored``."""
        return self.whole[name]

    @classmethod
    def open(cls, path: Path) -> AdapterFolder:
        """Read a folder.

        Raises:
            UserError: it holds no adapters of low rank, or some that compute something else.
        """
        config = _read_config(path)
        stored = SafetensorsFile(path / WEIGHTS)
        folder = cls(path)
        parts: dict[str, dict[str, Tensor]] = {}
        for name in stored.shapes:
            module, kind = _taken_apart(name, path)
            if kind in (DOWN, UP, MAGNITUDE):
                parts.setdefault(module, {})[kind] = stored.read(name)
            else:
                folder.whole[f"{module}.{kind}"] = stored.read(name)
        for module, tensors in parts.items():
            folder.adapters[module] = _adapter(config, module, tensors)
        if not folder.adapters:
            raise UserError(f"{path / WEIGHTS}: it holds no adapters")
        return folder


def _read_config(path: Path) -> PublishedConfig:
    """Return the settings of a folder. Raises UserError: they ask for what is not known here."""
    file = path / CONFIG
    if not os.path.lexists(file):
        raise UserError(
            f"adapter.init={path}: expected {CONFIG} in this folder, as PEFT writes it"
        )
    try:
        values = read_json(file, CONFIG_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected settings by name")
    config = PublishedConfig(file, values)
    for key, value in KNOWN.items():
        config.must(key, value, MEANT.get(key))
    if values.get("init_lora_weights") not in DRAWN:
        raise config.refusal(
            "init_lora_weights", "true or gaussian: others change the weights beside it"
        )
    dropout = values.get("lora_dropout", 0.0)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise config.refusal("lora_dropout", "a number from 0 to 1")
    return config


def _taken_apart(name: str, path: Path) -> tuple[str, str]:
    """Return the module of a tensor, and what it is of it."""
    if not name.startswith(BEFORE):
        raise UserError(
            f"{path / WEIGHTS}: {shown(name)} is no name that PEFT gives; expected {BEFORE}..."
        )
    rest = name.removeprefix(BEFORE)
    for kind in (DOWN, UP):
        if rest.endswith(f".{kind}.weight"):
            return rest.removesuffix(f".{kind}.weight"), kind
    module, _, kind = rest.rpartition(".")
    # some versions write the weight of a module of magnitudes
    if kind == "weight" and module.endswith(f".{MAGNITUDE}"):
        return module.removesuffix(f".{MAGNITUDE}"), MAGNITUDE
    return module, kind


def _adapter(
    config: PublishedConfig, module: str, tensors: Mapping[str, Tensor]
) -> Adapter:
    """Return the adapter of a module. Raises UserError: a part is missing, or of another shape."""
    where = f"{config.path.parent / WEIGHTS}: {shown(module, 200)}"
    kinds = [DOWN, UP]
    if config.flag("use_dora", False):
        kinds.append(MAGNITUDE)
    for kind in kinds:
        if kind not in tensors:
            raise UserError(f"{where} lacks {kind}")
    if MAGNITUDE in tensors and MAGNITUDE not in kinds:
        raise UserError(
            f"{where} has {MAGNITUDE}, and use_dora of {CONFIG} says that none has"
        )
    down = tensors[DOWN]
    up = tensors[UP]
    if down.dim() != 2 or up.dim() != 2 or len(down) != up.shape[1]:
        shapes = f"{list(down.shape)} and {list(up.shape)}"
        raise UserError(
            f"{where} has {DOWN} and {UP} of shapes {shapes}, which do not go together"
        )
    magnitude = tensors.get(MAGNITUDE)
    if magnitude is not None and magnitude.numel() != len(up):
        raise UserError(
            f"{where} has {magnitude.numel():,} lengths of {len(up):,} rows"
        )
    alpha = _patterned(config, "alpha_pattern", module, config.number("lora_alpha", 8))
    lengths = None if magnitude is None else magnitude.flatten()
    return Adapter(down, up, alpha / len(down), lengths)


def _patterned(config: PublishedConfig, key: str, module: str, usual: float) -> float:
    """Return what a pattern says of a module, by the end of its name or a regular expression.

    Raises:
        UserError: it is no number, or an expression that may take for ever.
    """
    patterns = config.values.get(key) or {}
    if not isinstance(patterns, dict):
        raise config.refusal(key, "numbers by the names of modules")
    for pattern, value in patterns.items():
        if not PATTERN.fullmatch(pattern.replace(".*", "", 2)):
            raise config.refusal(key, f"names of modules, and not {shown(pattern)}")
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise config.refusal(key, f"a positive number for {shown(pattern)}")
        try:
            fits = re.match(rf"(?:.*\.)?(?:{pattern})$", module)
        except re.error:
            raise config.refusal(
                key, f"names of modules, and not {shown(pattern)}"
            ) from None
        if fits:
            return float(value)
    return usual


# ---------------------------------------------------------------------- from theirs to ours


def adapters_for(
    folder: AdapterFolder, products: Sequence[Product], names: AdapterNames
) -> dict[str, Adapter]:
    """Return the adapters of a folder by the names of our weights that they stand beside.

    Args:
        folder: as it was read.
        products: of the model.
        names: how they are called there.

    Raises:
        UserError: an adapter is for a module that is not there, or for another shape.
    """
    used = set[str]()
    ours: dict[str, Adapter] = {}
    for product in products:
        origin = names.origin(product.weight_name)
        assert origin is not None
        modules = [name.removesuffix(".weight") for name in origin.names]
        given = [folder.adapters.get(module) for module in modules]
        if not any(given):
            continue
        used.update(modules)
        joined = _joined(folder, product, origin, given)
        if joined is not None:
            ours[product.weight_name] = joined
    unused = [module for module in folder.adapters if module not in used]
    if unused:
        known = listed(product.name for product in products)
        raise UserError(
            f"{folder.path / WEIGHTS}: {shown(unused[0], 200)} has an adapter there, and this "
            f"model has no such product; it has {known}"
        )
    return ours


def _joined(
    folder: AdapterFolder,
    product: Product,
    origin: WeightOrigin,
    given: Sequence[Adapter | None],
) -> Adapter | None:
    """Return the adapter of a product of ours, of those that make it up there; None: it has none.

    Raises:
        UserError: it is for another shape, or those that are one here are of different kinds.
    """
    outputs, inputs = product.weight.shape
    expected = [outputs * origin.parts // len(given), inputs]
    for adapter in filter(None, given):
        stands = [len(adapter.up), adapter.down.shape[1]]
        if stands != expected:
            raise UserError(
                f"{folder.path / WEIGHTS}: the adapter of {product.name} is for a product of shape "
                f"{stands}, and here it is {expected}"
            )
    if len(given) == 1 and given[0] is not None:
        parts = _taken(given[0], origin.parts * product.parts)
        parts = parts[origin.part * product.parts :][: product.parts]
    else:
        parts = list(given)
    present = [part for part in parts if part is not None]
    if not present:
        return None
    kinds = {(part.scale, part.magnitude is None) for part in present}
    if len(kinds) > 1 or (
        len(present) < len(parts) and present[0].magnitude is not None
    ):
        raise UserError(
            f"{folder.path / CONFIG}: parts of {product.name} have adapters of different kinds, "
            "which are one here"
        )
    return _put_together(parts, present, outputs // len(parts))


def _put_together(
    parts: Sequence[Adapter | None], present: Sequence[Adapter], outputs: int
) -> Adapter:
    """Return one adapter of those of the parts of a product, each of so many outputs."""
    rank = max(part.rank for part in present)
    like = present[0]
    # nothing is learnt of a part that has none
    nothing = replace(
        like,
        down=like.down.new_empty(0, like.down.shape[1]),
        up=like.up.new_zeros(outputs, 0),
    )
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for part in parts:
        whole = part or nothing
        downs.append(_longer(whole.down, rank))
        ups.append(F.pad(whole.up, (0, rank - whole.rank)))
    lengths = [part.magnitude for part in present if part.magnitude is not None]
    return Adapter(
        torch.cat(downs),
        torch.cat(ups),
        like.scale,
        torch.cat(lengths) if lengths else None,
        len(parts),
    )


def _longer(down: Tensor, rank: int) -> Tensor:
    """Return A with rows that were drawn as those of a new adapter: their B is zero."""
    new = down.new_empty(rank - len(down), down.shape[1])
    if new.numel():
        nn.init.kaiming_uniform_(new, a=math.sqrt(5))
    return torch.cat([down, new])


def _taken(adapter: Adapter, count: int) -> list[Adapter | None]:
    """Return an adapter as those of ``count`` equal parts of its outputs, None of one it leaves.

    One that was put together of adapters of the parts is taken apart again; of any other each part
    has all of A.
    """
    if count == 1:
        return [adapter]
    ups = adapter.up.chunk(count)
    magnitudes: Sequence[Tensor | None] = [None] * count
    if adapter.magnitude is not None:
        magnitudes = adapter.magnitude.chunk(count)
    active = [part for part, up in enumerate(ups) if bool(up.any())]
    size = adapter.rank // max(1, len(active))
    blocks = {part: slice(n * size, (n + 1) * size) for n, part in enumerate(active)}
    apart = bool(active) and adapter.rank % len(active) == 0
    for part, block in blocks.items():
        own = torch.zeros_like(ups[part])
        own[:, block] = ups[part][:, block]
        apart = apart and torch.equal(own, ups[part])
    taken: list[Adapter | None] = []
    for part, (up, magnitude) in enumerate(zip(ups, magnitudes, strict=True)):
        if apart and part not in blocks:
            taken.append(None)
            continue
        block = blocks[part] if apart else slice(None)
        taken.append(
            Adapter(adapter.down[block], up[:, block], adapter.scale, magnitude)
        )
    return taken


def made_alike(beside: Mapping[str, Adapter]) -> dict[str, Adapter]:
    """Return adapters of one rank and scale that say the same."""
    rank = max(adapter.rank for adapter in beside.values())
    scale = next(iter(beside.values())).scale
    alike: dict[str, Adapter] = {}
    for name, adapter in beside.items():
        downs = [_longer(down, rank) for down in adapter.down.chunk(adapter.parts)]
        up = adapter.up * (adapter.scale / scale)
        alike[name] = replace(
            adapter,
            down=torch.cat(downs),
            up=F.pad(up, (0, rank - adapter.rank)),
            scale=scale,
        )
    return alike


def put_whole(
    folder: AdapterFolder, model: nn.Module, names: AdapterNames
) -> list[str]:
    """Put the weights that a folder has whole into a model, and return our names of them.

    Raises:
        UserError: the model has none of that name, or one of another shape.
    """
    state = model.state_dict()
    left = dict(folder.whole)
    ours: list[str] = []
    for name, weight in state.items():
        origin = names.origin(name)
        if origin is None or not set(origin.names) <= set(folder.whole):
            continue
        given = origin.read(folder)
        for theirs in origin.names:
            left.pop(theirs, None)
        if given.shape != weight.shape:
            raise UserError(
                f"{folder.path / WEIGHTS}: {name} has shape {list(given.shape)} there, and "
                f"{list(weight.shape)} here"
            )
        weight.copy_(given)
        ours.append(name)
    if left:
        raise UserError(
            f"{folder.path / WEIGHTS}: {shown(next(iter(left)), 200)} is trained whole there, and "
            "this model has no such weight"
        )
    return ours


# ---------------------------------------------------------------------- from ours to theirs


def written_tensors(
    adapters: Mapping[str, Adapter],
    whole: Mapping[str, Tensor],
    names: AdapterNames,
) -> tuple[dict[str, Tensor], dict[str, Adapter]]:
    """Return what a folder of PEFT holds of adapters of ours.

    A product that is a part of theirs has an adapter of its own; theirs has all of them side by
    side, of the sum of their ranks, with zeros where one says nothing of a part.

    Args:
        adapters: by the names of the weights that they stand beside.
        whole: weights that are trained themselves, by our names.
        names: how they are called there.

    Returns:
        The tensors by their names there, and the adapters by those of their modules.
    """
    parts: dict[str, dict[int, Adapter]] = {}
    counts: dict[str, int] = {}
    for weight_name, adapter in adapters.items():
        origin = names.origin(weight_name)
        assert origin is not None
        several = len(origin.names)
        for number, part in enumerate(_divided(adapter)):
            # parts of ours are modules there, or parts of one
            name = origin.names[number % several]
            inner = number // several
            module = name.removesuffix(".weight")
            count = adapter.parts // several
            parts.setdefault(module, {})[origin.part * count + inner] = part
            counts[module] = origin.parts * count
    theirs = {
        module: _side_by_side(standing, counts[module])
        for module, standing in parts.items()
    }
    tensors: dict[str, Tensor] = {}
    for module, adapter in theirs.items():
        tensors[f"{BEFORE}{module}.{DOWN}.weight"] = adapter.down
        tensors[f"{BEFORE}{module}.{UP}.weight"] = adapter.up
        if adapter.magnitude is not None:
            tensors[f"{BEFORE}{module}.{MAGNITUDE}"] = adapter.magnitude
    for weight_name, tensor in whole.items():
        origin = names.origin(weight_name)
        # a part of theirs alone cannot be kept whole
        if origin is None or origin.parts > 1:
            continue
        chunks = tensor.chunk(len(origin.names))
        for name, chunk in zip(origin.names, chunks, strict=True):
            tensors[BEFORE + name] = chunk.T if origin.transposed else chunk
    return tensors, theirs


def _divided(adapter: Adapter) -> list[Adapter]:
    """Return the adapters of the parts of a product."""
    count = adapter.parts
    magnitudes: list[Tensor | None] = [None] * count
    if adapter.magnitude is not None:
        magnitudes = list(adapter.magnitude.chunk(count))
    downs = adapter.down.chunk(count)
    ups = adapter.up.chunk(count)
    divided: list[Adapter] = []
    for down, up, magnitude in zip(downs, ups, magnitudes, strict=True):
        divided.append(Adapter(down, up, adapter.scale, magnitude))
    return divided


def _side_by_side(standing: Mapping[int, Adapter], count: int) -> Adapter:
    """Return one adapter of those of some of ``count`` parts of a product."""
    some = next(iter(standing.values()))
    if count == 1:
        return some
    outputs = len(some.up)
    blocks: list[Tensor] = []
    downs: list[Tensor] = []
    magnitudes: list[Tensor] = []
    for part in range(count):
        adapter = standing.get(part)
        if adapter is None:
            blocks.append(some.up.new_zeros(outputs, 0))
            continue
        blocks.append(adapter.up)
        downs.append(adapter.down)
        if adapter.magnitude is not None:
            magnitudes.append(adapter.magnitude)
    down = torch.cat(downs)
    magnitude = torch.cat(magnitudes) if magnitudes else None
    # a larger rank, and the same scale
    return Adapter(down, torch.block_diag(*blocks), some.scale, magnitude)


def written_config(
    theirs: Mapping[str, Adapter],
    whole: Iterable[str],
    names: AdapterNames,
    base: str | None,
    dropout: float,
) -> dict[str, Any]:
    """Return the settings of a folder of PEFT.

    Args:
        theirs: adapters by the names of their modules.
        whole: our names of weights that are trained themselves.
        names: how they are called there.
        base: the checkpoint that the adapters are for.
        dropout: on what they read.
    """
    ranks = [adapter.rank for adapter in theirs.values()]
    usual = min(ranks)
    scale = next(iter(theirs.values())).scale
    others = {
        module: adapter for module, adapter in theirs.items() if adapter.rank != usual
    }
    origins = [names.origin(name) for name in whole]
    saved: list[str] = []
    for origin in origins:
        if origin is not None and origin.parts == 1:
            saved += [name.rpartition(".")[0] for name in origin.names]
    saved = list(dict.fromkeys(saved))
    magnitudes = any(adapter.magnitude is not None for adapter in theirs.values())
    return {
        "peft_type": "LORA",
        "task_type": None if names.family is None else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": scale * usual,
        "lora_dropout": dropout,
        "target_modules": sorted(theirs),
        "rank_pattern": {module: part.rank for module, part in others.items()},
        "alpha_pattern": {module: scale * part.rank for module, part in others.items()},
        "modules_to_save": saved or None,
        "use_dora": magnitudes,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": names.transposed,
    }


def put(low_rank: LowRank, adapter: Adapter) -> None:
    """Put what was read into an adapter of a model."""
    with torch.no_grad():
        low_rank.down.copy_(adapter.down)
        low_rank.up.copy_(adapter.up)
        if low_rank.magnitude is not None and adapter.magnitude is not None:
            low_rank.magnitude.copy_(adapter.magnitude)
