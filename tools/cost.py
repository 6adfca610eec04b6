"""Works out what the recipes of the paper cost, and writes the tables of docs/paper-scale.md.

    python tools/cost.py            print the tables
    python tools/cost.py --write    put them into the page

Nothing here is measured: sizes come from the recipes, and what hardware can do from HARDWARE.
Legend: W width, F of the feed-forward, L layers of encoder and of decoder, V outputs, N and M
tokens of a source and of its target.
"""

from __future__ import annotations

import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from unrolled.runs.recipes import requested
from unrolled.tasks.language import Language
from unrolled.tasks.recipe import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "paper-scale.md"
DAY = 86_400
P100 = 9.5e12  # FLOP/s in fp32 that the paper reckons with (its footnote 5)

# tokens of a source and of its target, on average, and outputs: assumed
TEXTS = {
    "wmt14-en-de-base": (30, 30, 37_000),
    "wmt14-en-de-big": (30, 30, 37_000),
    "wmt14-en-fr-big": (30, 30, 32_000),
    "wsj-parse": (24, 64, 40),
}
# what the paper says of its trainings: FLOP (table 2) and days on 8 P100 (section 5.2)
PAPER = {
    "wmt14-en-de-base": (3.3e18, 0.5),
    "wmt14-en-de-big": (2.3e19, 3.5),
    "wmt14-en-fr-big": (2.3e19, 3.5),
}
# most FLOP/s of dense products in bf16, as makers say, or as docs/log.md measured
HARDWARE = {
    "2 cores of machine A": 2 * 1.156e12,
    "1 A100": 312e12,
    "1 H100 (SXM)": 989e12,
}
LANGUAGES = ("gpt2-124m", "llama-1b")
GPUS = 8  # of a machine
MAKERS = {"A100": 312e12, "H100": 989e12}
LANGUAGE_HARDWARE = (("A100", 0.2), ("A100", 0.4), ("H100", 0.2), ("H100", 0.4))
SHARES = (0.1, 0.4)  # of that, which a training may reach: assumed


@dataclass(frozen=True, slots=True)
class Model:
    """The sizes of a recipe that its cost follows from."""

    name: str
    width: int
    inner: int
    layers: int
    source: int
    target: int
    outputs: int
    steps: int
    pairs: float
    dropout: bool
    averaged: int
    shared: bool

    @classmethod
    def of(cls, name: str) -> Model:
        """Read them out of a recipe that ships."""
        recipe: Recipe = requested(name, {})
        model = recipe.model
        training = recipe.training
        source, target, outputs = TEXTS[name]
        assert model.feedforward_size
        assert training.max_steps
        assert training.batch_tokens
        return cls(
            name,
            model.hidden,
            model.feedforward_size,
            model.layers,
            source,
            target,
            outputs,
            training.max_steps,
            training.batch_tokens * training.accumulate / max(source, target),
            model.dropout > 0,
            training.average_last if training.average == "last" else 0,
            model.share,
        )

    @property
    def source_tokens(self) -> float:
        """Source tokens of a step."""
        return self.pairs * self.source

    @property
    def target_tokens(self) -> float:
        """Target tokens of a step."""
        return self.pairs * self.target

    @property
    def parameters(self) -> int:
        """Weights of both stacks, and of the one table of tokens where it is shared.

        Parsing has tables of words, letters and brackets, which the data make: left out here.
        """
        w = self.width
        f = self.inner
        attention = 4 * (w * w + w)
        forward = 2 * w * f + f + w
        norm = 2 * w
        stacks = self.layers * (attention + forward + 2 * norm)
        stacks += self.layers * (2 * attention + forward + 3 * norm)
        return stacks + (self.outputs * w if self.shared else 0)


def products(model: Model) -> dict[str, float]:
    """Return the multiplications of one pair of texts, read and written once."""
    w = model.width
    f = model.inner
    n = model.source
    m = model.target
    return {
        "encoder": n * model.layers * (4 * w * w + 2 * w * f + 2 * n * w),
        "keys and values of the source": n * model.layers * 2 * w * w,
        # a step looks back at half of the target on average, and at all of the source
        "decoder": m * model.layers * (6 * w * w + 2 * w * f + m * w + 2 * n * w),
        "output": m * w * model.outputs,
    }


def flops(model: Model) -> float:
    """Return the FLOP of a training: an addition to each product, and twice that back."""
    return 3 * 2 * sum(products(model).values()) * model.pairs * model.steps


def activations(model: Model) -> float:
    """Return the bytes that are kept for the way back, for a whole step at once, under bf16.

    Products keep what they read in bf16 (2 bytes); norms what they read in fp32 (4); dropout a
    byte for each number; attention queries, keys, values and its result. Its weights are not kept
    (fused attention), nor are the scores of the outputs, which are made some at a time.
    """
    w = model.width
    f = model.inner
    mask = 1 if model.dropout else 0
    selfs = 3 * 2 * w + 3 * 2 * w + 2 * w + mask * w + 4 * w
    forward = 2 * w + 2 * f + mask * w + 4 * w
    look = 2 * w + 2 * w + 2 * w + mask * w + 4 * w
    memory = 2 * 2 * w + 2 * 2 * w
    source = selfs + forward + memory
    target = selfs + look + forward
    per_layer = model.source_tokens * source + model.target_tokens * target
    return model.layers * per_layer


def kept_averages(model: Model) -> int:
    """Return how many copies of the weights there are while their average is scored.

    Those of the last evaluations, their mean, the best so far, and the live ones, put aside.
    """
    return model.averaged + 3 if model.averaged else 0


def memory(model: Model) -> dict[str, float]:
    """Return bytes by what they are for, where one device holds a whole step."""
    weights = 4.0 * model.parameters
    return {
        "weights": weights,
        "gradients": weights,
        "Adam": 2 * weights,
        "bf16 copies": weights / 2,
        "averages": kept_averages(model) * weights,
        "activations": activations(model),
    }


def cells(*values: object) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(map(str, values)) + " |"


def table(*head: str) -> list[str]:
    """Return the head of a table."""
    return [cells(*head), "|" + "---|" * len(head)]


def work(models: list[Model]) -> list[str]:
    """Return the table of work."""
    parts = list(products(models[0]))
    rows = table("recipe", "weights", *parts, "a step of training", "the training")
    for model in models:
        counts = products(model)
        shown = [f"{2 * counts[part] / model.target / 1e6:.1f}" for part in parts]
        total = flops(model)
        weights = f"{model.parameters / 1e6:.1f} M"
        step = f"{total / model.steps / 1e12:.1f} TFLOP"
        rows.append(
            cells(f"`{model.name}`", weights, *shown, step, f"{total:.2g} FLOP")
        )
    return rows


def check(models: list[Model]) -> list[str]:
    """Return the table that compares the formula with the paper."""
    rows = table(
        "recipe",
        "the paper's days on 8 P100",
        "the paper's FLOP",
        "ours",
        "share of the P100's rate",
    )
    for model in models:
        if model.name in PAPER:
            reported, days = PAPER[model.name]
            utilization = flops(model) / (days * DAY * 8 * P100)
            row = (
                f"{days:g}",
                f"{reported:.2g}",
                f"{flops(model):.2g}",
                f"{utilization:.0%}",
            )
            rows.append(cells(f"`{model.name}`", *row))
    return rows


def time(models: list[Model]) -> list[str]:
    """Return the table of tokens a second and days."""
    pairs = itertools.product(HARDWARE, SHARES)
    heads = [f"{name}, at {utilization:.0%}" for name, utilization in pairs]
    rows = table("recipe", *heads)
    for model in models:
        shown = []
        for rate in HARDWARE.values():
            for utilization in SHARES:
                seconds = flops(model) / (rate * utilization)
                tokens = model.target_tokens * model.steps / seconds
                shown.append(f"{lasting(seconds)} ({number(tokens)}/s)")
        rows.append(cells(f"`{model.name}`", *shown))
    return rows


def space(models: list[Model]) -> list[str]:
    """Return the table of memory."""
    parts = list(memory(models[0]))
    rows = table("recipe", *parts, "all, in GB", "a process of 8", "checkpoint")
    for model in models:
        sizes = memory(model)
        whole = sum(sizes.values())
        part = whole - sizes["activations"] * 7 / 8
        # weights, Adam, averages, and the best weights so far
        kept = sizes["weights"] * (2 + model.averaged) + sizes["Adam"]
        shown = [f"{value / 1e9:.1f}" for value in (*sizes.values(), whole, part, kept)]
        rows.append(cells(f"`{model.name}`", *shown))
    return rows


def lasting(seconds: float) -> str:
    """Return a time in hours, or in days where it is a day or more."""
    days = seconds / DAY
    return f"{number(days)} d" if days >= 1 else f"{number(24 * days)} h"


def number(value: float) -> str:
    """Return a number with two digits that count."""
    return f"{float(f'{value:.2g}'):,.10g}"


@dataclass(frozen=True, slots=True)
class LanguageSizes:
    """What the cost of pre-training follows from: ``operations`` are those of one token."""

    name: str
    weights: int
    operations: int
    tokens: int
    steps: int
    width: int
    layers: int
    inner: int
    rows: int
    window: int
    again: bool
    gated: bool

    @classmethod
    def of(cls, name: str) -> LanguageSizes:
        """Count what the model of a recipe has; nothing of it takes memory."""
        recipe = requested(name, {})
        vocabulary = SimpleNamespace(size=recipe.data.vocabulary)
        task = Language(vocabulary, (), None)  # type: ignore[arg-type]
        with torch.device("meta"):
            model = task.build(recipe)
        training = recipe.training
        assert training.max_steps
        operations = task.operations_per_token(model, recipe)
        assert operations is not None
        config = recipe.model
        return cls(
            name,
            sum(weight.numel() for weight in model.parameters()),
            int(operations),
            training.batch_size * training.accumulate * training.window,
            training.max_steps,
            config.hidden,
            config.layers,
            config.feedforward_size or 4 * config.hidden,
            training.batch_size,
            training.window,
            training.checkpoint_activations,
            config.feedforward == "swiglu",
        )


def language_time(models: list[LanguageSizes]) -> list[str]:
    """Return the table of the work and the time of pre-training."""
    heads = [
        f"{GPUS} {name}, at {fraction:.0%}" for name, fraction in LANGUAGE_HARDWARE
    ]
    rows = table(
        "recipe", "weights", "a token", "tokens", "a step", "the training", *heads
    )
    for model in models:
        total = float(model.operations) * model.tokens * model.steps
        shown = [
            f"{model.weights / 1e6:,.0f} M",
            f"{model.operations / 1e9:.2f} GFLOP",
            f"{model.tokens * model.steps / 1e9:,.0f} G",
            f"{model.operations * model.tokens / 1e15:.2g} PFLOP",
            f"{total:.2g} FLOP",
        ]
        for name, fraction in LANGUAGE_HARDWARE:
            seconds = total / (GPUS * MAKERS[name] * fraction)
            hours = number(GPUS * seconds / 3600)
            shown.append(f"{lasting(seconds)} ({hours} GPU hours)")
        rows.append(cells(f"`{model.name}`", *shown))
    return rows


def block_bytes(width: int, inner: int, gated: bool) -> float:
    """Return the bytes that a block keeps of a token for the way back, under bf16.

    As counted of small ones: layer norms and GELU, or rms norms and SwiGLU with a quarter of the
    heads for keys and values.
    """
    return 35.0 * width + 8 * inner if gated else 24.0 * width + 4 * inner


def language_space(models: list[LanguageSizes]) -> list[str]:
    """Return the table of the memory of one of the GPUs."""
    parts = ("weights, gradients, Adam", "gathered", "activations", "all, in GB")
    rows = table("recipe", *parts, "the same, whole", "checkpoint")
    for model in models:
        sixteen = 16 * model.weights
        block = (model.weights - model.width) / model.layers
        # two units in bf16 and their gradients
        gathered = 2 * 2 * 2 * block
        tokens = model.rows * model.window / GPUS
        per_token = model.layers * block_bytes(model.width, model.inner, model.gated)
        if model.again:
            # one block at a time, and of the others what they read
            per_token = per_token / model.layers + model.layers * 4 * model.width
        activations = tokens * per_token
        divided = sixteen / GPUS + gathered + activations
        shown = [sixteen / GPUS, gathered, activations, divided]
        shown += [sixteen + activations, 16 * model.weights]
        rows.append(
            cells(f"`{model.name}`", *(f"{value / 1e9:.1f}" for value in shown))
        )
    return rows


TABLES = {"work": work, "check": check, "time": time, "space": space}
LANGUAGE_TABLES = {"language-time": language_time, "language-space": language_space}


def tables() -> dict[str, str]:
    """Return all tables by their names."""
    models = [Model.of(name) for name in TEXTS]
    filled = {name: "\n".join(make(models)) for name, make in TABLES.items()}
    languages = [LanguageSizes.of(name) for name in LANGUAGES]
    for name, make_language in LANGUAGE_TABLES.items():
        filled[name] = "\n".join(make_language(languages))
    return filled


def filled(page: str) -> str:
    """Return a page with its tables as they are now, each under ``<!-- cost: NAME -->``."""
    for name, text in tables().items():
        mark = f"<!-- cost: {name} -->\n"
        before, _, after = page.partition(mark)
        page = before + mark + text + "\n" + re.sub(r"\A(\|.*\n)*", "", after)
    return page


def main() -> None:
    """Print the tables, or write the page."""
    if "--write" in sys.argv:
        PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
        return
    for name, text in tables().items():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
