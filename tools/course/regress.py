"""Pictures of the network without memory."""

from __future__ import annotations

import itertools
import math

import numpy as np
from figures import COLOURS, INK, SOFT, Picture, Plot

from runs import run, table


def regression() -> Picture:
    """A straight line and a curve over the same measurements."""
    header, rows = table("breast_cancer.csv")
    x, y = (header.index(name) for name in ("mean_radius", "mean_area"))
    points = [(float(row[x]), float(row[y])) for row in rows]
    sheet = Picture(
        720,
        400,
        "A line, and a network with a hidden layer",
        "569 cell nuclei: mean area by mean radius (Breast Cancer Wisconsin)",
    )
    plot = Plot(
        sheet, (80, 74, 610, 270), (5, 30, "mean radius"), (0, 2600, "mean area")
    )
    at = [5 + n / 4 for n in range(101)]
    for name, words, colour in (
        ("line", "linear regression", COLOURS["rnn"]),
        ("curve", "two hidden layers", COLOURS["lstm"]),
    ):
        made = run(name)
        answers = [
            answer.details["value"] for answer in made.answers([[v] for v in at])
        ]
        plot.line(
            [(a, v) for a, v in zip(at, answers, strict=True) if 0 <= v <= 2600],
            colour,
            2.5,
        )
        error = made.result["scores"]["rmse"]
        sheet.legend(
            110,
            96 if name == "line" else 116,
            {f"{words}: held-out rmse {error:.1f}": colour},
        )
    plot.dots(points, INK, 1.8, 0.35)
    return sheet


def logistic() -> Picture:
    """The logistic curve, and where the tumours stand on it."""
    made = run("logistic")
    header, rows = table("breast_cancer.csv")
    answers = made.answers([[float(cell) for cell in row[:-1]] for row in rows])
    probabilities = [answer.details["probabilities"]["malignant"] for answer in answers]
    sheet = Picture(
        720,
        380,
        "A weighted sum, squeezed into a probability",
        f"569 tumours along z = w·x + b of 30 measurements; held-out accuracy "
        f"{made.result['scores']['accuracy']:.4f}",
    )
    plot = Plot(
        sheet, (80, 74, 610, 250), (-12, 12, "z"), (-0.08, 1.08, "P(malignant)")
    )
    zs = [n / 10 for n in range(-120, 121)]
    plot.line([(z, 1 / (1 + math.exp(-z))) for z in zs], SOFT, 2)
    draw = np.random.default_rng(0)
    for kind, colour, base in (
        ("malignant", COLOURS["rnn"], 1.0),
        ("benign", COLOURS["lstm"], 0.0),
    ):
        points = []
        for row, probability in zip(rows, probabilities, strict=True):
            if row[header.index("diagnosis")] == kind:
                probability = min(max(probability, 1e-6), 1 - 1e-6)
                z = math.log(probability / (1 - probability))
                points.append((min(max(z, -12), 12), base + draw.uniform(-0.05, 0.05)))
        plot.dots(points, colour, 2.2, 0.45)
    sheet.legend(100, 112, {"malignant (the diagnosis)": COLOURS["rnn"]})
    sheet.legend(100, 132, {"benign": COLOURS["lstm"], "σ(z) = 1 / (1 + e^-z)": SOFT})
    return sheet


def multiplication() -> Picture:
    """The table as the network writes it, and the row of seven beyond the table."""
    made = run("multiplication")
    sheet = Picture(
        720,
        400,
        "The multiplication table, learnt from a CSV",
        "left: what the network answers; right: 7 × n, inside and outside of what it has seen",
    )
    pairs = list(itertools.product(range(1, 10), repeat=2))
    answers = [answer.details["value"] for answer in made.answers(pairs)]
    sheet.heat(
        50, 96, (32, 28), [answers[9 * n : 9 * n + 9] for n in range(9)], 0, 150, False
    )
    for (a, b), value in zip(pairs, answers, strict=True):
        x = 50 + 32 * (b - 0.5)
        y = 96 + 28 * (a - 0.5) + 4
        sheet.text(x, y, f"{value:.1f}", size=10.5, anchor="middle")
    for n in range(1, 10):
        sheet.text(
            50 + 32 * (n - 0.5), 88, str(n), size=11, colour=SOFT, anchor="middle"
        )
        sheet.text(
            42, 96 + 28 * (n - 0.5) + 4, str(n), size=11, colour=SOFT, anchor="end"
        )
    plot = Plot(sheet, (430, 96, 265, 252), (0, 20, "n"), (0, 145, "7 × n"))
    sheet.add(
        "rect",
        x=plot.x(1),
        y=96,
        width=plot.x(9) - plot.x(1),
        height=252,
        fill="#eff6ff",
    )
    sheet.text(plot.x(5), 112, "trained on", size=11, colour=SOFT, anchor="middle")
    at = [n / 4 for n in range(81)]
    predictions = [
        answer.details["value"] for answer in made.answers([[7, n] for n in at])
    ]
    plot.line([(n, 7 * n) for n in at], SOFT, 1.5, "4 4")
    plot.line(list(zip(at, predictions, strict=True)), COLOURS["lstm"], 2.5)
    plot.name(15.6, 122, "true", SOFT, "end")
    plot.name(19.5, predictions[-1] + 8, "network", COLOURS["lstm"], "end")
    return sheet
