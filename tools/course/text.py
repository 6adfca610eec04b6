"""Pictures of the patterns over text, of attention and of a GPT."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from figures import COLOURS, INK, SOFT, Picture, Plot, arrow
from torch import Tensor

from runs import anthem, run
from unrolled.nn.positions import rotate, rotation
from unrolled.ops import reference
from unrolled.run import Run
from unrolled.runs.prepare import prepare
from unrolled.tasks.baselines import _features

PATTERNS = (  # name, steps read, steps said, example, whether it is here
    ("one to one", (1,), (1,), "7, 6 → 42", True),
    ("one to many", (1,), (1, 2, 3), "image → caption", False),
    ("many to one", (1, 2, 3), (3,), "review → good", True),
    ("many to many", (1, 2), (3, 4), "translation", False),
    ("aligned", (1, 2, 3), (1, 2, 3), "word → tag", True),
)


def patterns() -> Picture:
    """The five ways of tying inputs and outputs to the steps of a layer."""
    sheet = Picture(
        720,
        300,
        "Five patterns",
        "red: what is read; green: the layer, step by step; blue: what "
        "is said; dashed: not in this version yet",
    )
    for index, (name, read, said, example, here) in enumerate(PATTERNS):
        steps = max(*read, *said)
        middle = (74, 200, 338, 492, 642)[index]
        left = middle - 17 * (steps - 1) - 10
        dash = {} if here else {"stroke_dasharray": "4 3"}
        for step in range(1, steps + 1):
            x = left + 34 * (step - 1)
            boxes = [(164, "#bbf7d0", True), (218, "#fecaca", step in read)]
            boxes.append((110, "#bfdbfe", step in said))
            for y, colour, drawn in boxes:
                if drawn:
                    fill = colour if here else "#ffffff"
                    sheet.add(
                        "rect",
                        x=x,
                        y=y,
                        width=20,
                        height=32,
                        rx=3,
                        fill=fill,
                        stroke=SOFT,
                        **dash,
                    )
            if step in read:
                arrow(sheet, (x + 10, 216), (x + 10, 198))
            if step in said:
                arrow(sheet, (x + 10, 162), (x + 10, 144))
            if step < steps:
                arrow(sheet, (x + 21, 180), (x + 33, 180))
        colour = INK if here else SOFT
        sheet.text(
            middle, 92, name, size=13, anchor="middle", weight=600, colour=colour
        )
        sheet.text(middle, 274, example, size=12, colour=SOFT, anchor="middle")
    return sheet


def sentiment() -> Picture:
    """Two readers of the same held-out reviews: n-grams, and a recurrent layer."""
    from sklearn.linear_model import LogisticRegression

    made = run("reviews-gru")
    prepared = prepare(made.recipe, made.task)
    train, dev, targets = _features(prepared)
    fitted = LogisticRegression(C=3.0, solver="liblinear", max_iter=300, tol=1e-3).fit(
        train, targets
    )
    grams = fitted.predict_proba(dev)[:, 1]
    texts = [
        row[prepared.dev_data.columns.index("document")]
        for row in prepared.dev_data.rows
    ]
    good = made.task.output.names.index("1")  # type: ignore[attr-defined]
    answers = made.answers([(text,) for text in texts])
    layer = np.array([answer.details["probabilities"]["1"] for answer in answers])
    truth = np.asarray(prepared.dev.targets) == good
    sheet = Picture(
        720,
        440,
        "Two readers of the same reviews",
        f"{len(truth):,} held-out film reviews: P(good) by character n-grams and by a GRU alone",
    )
    plot = Plot(
        sheet, (80, 74, 330, 310), (0, 1, "n-gram logistic regression"), (0, 1, "GRU")
    )
    for value, colour in ((True, COLOURS["lstm"]), (False, COLOURS["rnn"])):
        chosen = [i for i in range(1200) if truth[i] == value]
        plot.dots([(grams[i], layer[i]) for i in chosen], colour, 1.8, 0.4)
    plot.line([(0.5, 0), (0.5, 1)], SOFT, 1, "4 4")
    plot.line([(0, 0.5), (1, 0.5)], SOFT, 1, "4 4")
    sheet.legend(
        440, 100, {"a good review": COLOURS["lstm"], "a bad one": COLOURS["rnn"]}
    )
    agree = (grams > 0.5) == (layer > 0.5)
    right = {"n-grams": (grams > 0.5) == truth, "GRU": (layer > 0.5) == truth}
    both = run("reviews").result["scores"]["accuracy"]
    lines = [
        f"n-grams alone: {right['n-grams'].mean():.1%} right",
        f"GRU alone: {right['GRU'].mean():.1%} right",
        f"both in one (the recipe): {both:.1%} right",
        "",
        f"they agree on {agree.mean():.1%} of the reviews",
        f"and are right on {right['GRU'][agree].mean():.1%} of those;",
        f"of the others the GRU has {right['GRU'][~agree].mean():.1%} right",
    ]
    for number, line in enumerate(lines):
        sheet.text(440, 156 + 22 * number, line, size=12.5)
    return sheet


def spaced(made: Run, letters: str) -> list[float]:
    """Return the probability that a word begins at each letter."""
    details = made.answers([(list(letters),)])[0].details
    pairs = zip(details["tags"], details["probabilities"], strict=True)
    return [
        probability if tag == "B" else 1 - probability for tag, probability in pairs
    ]


def spacing() -> Picture:
    """A label at every step: where words begin."""
    letters = "아버지가방에들어가신다"
    sheet = Picture(
        720,
        380,
        "A label at every step: does a word begin here?",
        "words run together, as typed; both layers learnt from 8,000 reviews without their spaces",
    )
    plot = Plot(
        sheet,
        (80, 74, 610, 240),
        (-0.6, len(letters) - 0.4, ""),
        (0, 1, "P(a word begins)"),
    )
    for layer, shift in (("none", -0.2), ("gru", 0.2)):
        for at, probability in enumerate(spaced(run(f"spacing-{layer}"), letters)):
            wide = (plot.x(1) - plot.x(0)) * 0.36
            left = plot.x(at + shift) - wide / 2
            sheet.add(
                "rect",
                x=left,
                y=plot.y(probability),
                width=wide,
                height=plot.y(0) - plot.y(probability),
                fill=COLOURS[layer],
            )
    plot.line([(-0.6, 0.5), (len(letters) - 0.4, 0.5)], SOFT, 1, "4 4")
    sheet.add("rect", x=80, y=316, width=620, height=24, fill="#ffffff")
    for at, letter in enumerate(letters):
        sheet.text(plot.x(at), 342, letter, size=20, anchor="middle", weight=600)
    names = {}
    for layer in ("none", "gru"):
        right = run(f"spacing-{layer}").result["scores"]["accuracy"]
        names[f"{layer}: {right:.1%} right, held out"] = COLOURS[layer]
    sheet.legend(505, 92, names, 20)
    return sheet


def weights_of(made: Run, ids: list[int]) -> Tensor:
    """Return the attention weights (heads, T, T) of a model of one block, from its q and k."""
    model: Any = made.model
    block = model.layer.blocks[0]
    x = model.layer.project(model.embedding(torch.tensor([ids])))
    x = block.attention_norm(x)
    own = block.attention
    parts = [
        part(x).unflatten(2, (-1, own.size)).transpose(1, 2)
        for part in (own.query, own.key, own.value)
    ]
    turn = rotation(torch.arange(len(ids))[None], model.layer.rotary)
    _, weights = reference.attention(
        rotate(parts[0], turn), rotate(parts[1], turn), parts[2]
    )
    return weights[0].detach()


def attention() -> Picture:
    """Where the anthem's attention looks when it must choose the next verse."""
    made = run("anthem-attention")
    text = anthem()
    task = made.task
    ids = [task.tokenizer.eos_id, *task.tokenizer.encode(text)]  # type: ignore[attr-defined]
    weights = weights_of(made, ids)
    sheet = Picture(
        790,
        330,
        "Where attention looks when it must choose the next verse",
        "the verse just read; a mark is as dark as a head's weight on that character, after the "
        "empty line",
    )
    hues = list(COLOURS.values())[1:]
    begin = 0
    for number, verse in enumerate(text.split("\n\n")[:3]):
        end = begin + len(verse) + 2  # the empty line is read
        left = 28 + 256 * number
        row = 0
        column = 0
        for at, letter in enumerate(verse):
            x = left + 12.6 * column
            y = 118 + 40 * row
            for head in range(4):
                weight = float(weights[head, end, begin + at + 1])
                if weight > 0.02:
                    sheet.add(
                        "rect",
                        x=x - 0.5,
                        y=y - 15 - 4 * (head % 2),
                        width=13.5,
                        height=20,
                        rx=3,
                        fill=hues[head],
                        fill_opacity=round(0.85 * weight, 2),
                    )
                    sheet.text(
                        x + 2,
                        y + 17,
                        f"{head + 1}",
                        size=9.5,
                        colour=hues[head],
                        weight=600,
                    )
            sheet.text(x, y, letter.strip(), size=12.5)
            row, column = (row + 1, 0) if letter == "\n" else (row, column + 1)
        follows = text[end:].split("\n")[0][:4].strip()
        sheet.text(left, 86, f"verse {number + 1}", size=13, weight=600)
        sheet.text(left, 286, f"and it writes: {follows} …", size=13, weight=600)
        begin = end
    for head in range(4):
        sheet.legend(28 + 90 * head, 316, {f"head {head + 1}": hues[head]})
    return sheet


def gpt() -> Picture:
    """A GPT needs what stands before: loss by how much of it it sees."""
    made = run("gpt")
    model: Any = made.model
    held = prepare(made.recipe, made.task).dev.tokens.astype(np.int64)
    width = model.context
    count = min(400, len(held) // width)
    rows = torch.from_numpy(held[: count * width].reshape(count, width))
    start = torch.full((count, 1), made.task.tokenizer.eos_id)  # type: ignore[attr-defined]
    with torch.no_grad():
        scores, _ = model(torch.cat([start, rows[:, :-1]], 1))
    loss = torch.nn.functional.cross_entropy(
        scores.transpose(1, 2), rows, reduction="none"
    ).mean(0)
    sheet = Picture(
        720,
        400,
        "A GPT reads its context",
        f"loss of a character by how many stand before it, {count} held-out windows of {width}",
    )
    plot = Plot(
        sheet,
        (80, 74, 600, 270),
        (0, width, "characters before"),
        (1.5, 3.5, "loss, nats"),
    )
    bigrams = made.result["baselines"][0]["scores"]["loss"]
    plot.line([(0, bigrams), (width, bigrams)], SOFT, 1.5, "4 4")
    plot.name(width, bigrams + 0.08, "bigrams, which see one", SOFT, "end")
    plot.line(list(enumerate(loss.tolist())), COLOURS["attention"], 2.5)
    plot.name(width, 1.72, "GPT of two blocks", COLOURS["attention"], "end")
    return sheet
