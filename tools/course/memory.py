"""Pictures of what recurrent layers remember."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from figures import COLOURS, GRID, INK, SOFT, Picture, Plot, arrow

from runs import LAYERS, REFRAIN, anthem, losses, read_anthem, refrains, run
from unrolled.run import Run


def unrolled_graph() -> Picture:
    """The same cell at every step, with the numbers of a trained network in it."""
    made = run("anthem-rnn")
    trace, scores = read_anthem(made)
    names = anthem()[:5]
    shown = scores.detach().softmax(-1)
    sheet = Picture(
        720,
        400,
        "A recurrent network, unrolled: after 동해물과 comes 백",
        "one cell, the same weights at every step; 16 of its 128 hidden values at each",
    )
    tokenizer: Any = made.task.tokenizer  # type: ignore[attr-defined]
    for step in range(1, 6):
        x = 104 + 132 * (step - 1)
        hidden = trace["h"][step, :16].tolist()
        sheet.heat(x - 32, 176, (8, 24), [hidden[:8], hidden[8:]], -1, 1, True)
        sheet.add("rect", x=x - 32, y=176, width=64, height=48, fill="none", stroke=INK)
        sheet.text(
            x, 168, f"h{'₁₂₃₄₅'[step - 1]}", size=13, anchor="middle", weight=600
        )
        arrow(sheet, (x, 306), (x, 228))
        arrow(sheet, (x + 14, 172), (x + 14, 124))
        sheet.text(x + 6, 272, "W_xh", size=11, colour=SOFT)
        sheet.text(x + 20, 152, "W_hy", size=11, colour=SOFT)
        sheet.text(
            x,
            338,
            names[step - 1].replace(" ", "␣"),
            size=26,
            anchor="middle",
            weight=600,
        )
        probability, token = (float(part) for part in shown[step].max(-1))
        guess = tokenizer.decode([int(token)]).replace(" ", "␣")
        sheet.text(x + 8, 104, guess, size=22, anchor="end", weight=600)
        sheet.text(x + 14, 103, f"{probability:.1%}", size=12, colour=SOFT)
        arrow(sheet, (x + 36, 200), (x + 96 if step < 5 else x + 66, 200))
        if step < 5:
            sheet.text(x + 64, 192, "W_hh", size=11, colour=SOFT, anchor="middle")
    arrow(sheet, (48, 200), (68, 200))
    sheet.text(42, 204, "h₀", size=12, colour=SOFT, anchor="end")
    sheet.text(24, 104, "y", size=13, colour=SOFT)
    sheet.text(24, 338, "x", size=13, colour=SOFT)
    sheet.scale(300, 368, "-1", "1", True)
    return sheet


def hidden() -> Picture:
    """The hidden vector while the first line is read."""
    trace, scores = read_anthem(run("anthem-rnn"))
    text = anthem()[:17].rstrip("\n")
    states = trace["h"][1 : len(text) + 1].detach().numpy()
    chosen = np.argsort(-states.std(0))[:40]
    chosen = chosen[np.argsort((states[:, chosen] > 0.5).argmax(0), kind="stable")]
    sheet = Picture(
        720,
        470,
        "What the RNN carries while it reads",
        "40 of 128 hidden values (rows) after each character, from -1 to 1; learnt, not designed",
    )
    cell = 610 / len(text)
    sheet.heat(80, 96, (cell, 8), states[:, chosen].T.tolist(), -1, 1, True)
    tokenizer: Any = run("anthem-rnn").task.tokenizer  # type: ignore[attr-defined]
    for step, letter in enumerate(text):
        x = 80 + cell * (step + 0.5)
        guess = tokenizer.decode([int(scores[step + 1].argmax())])
        sheet.text(
            x, 88, letter.replace(" ", "␣"), size=16, anchor="middle", weight=600
        )
        guess = guess.replace(" ", "␣").replace("\n", "↵")
        sheet.text(x, 438, guess, size=15, colour=COLOURS["lstm"], anchor="middle")
    sheet.text(70, 88, "reads", colour=SOFT, anchor="end")
    sheet.text(70, 438, "guesses", colour=COLOURS["lstm"], anchor="end")
    sheet.scale(560, 450, "-1", "1", True)
    return sheet


def curves() -> Picture:
    """Five layers learn the anthem."""
    sheet = Picture(
        720,
        400,
        "Five layers learn the anthem by heart",
        "loss by step on the anthem, 284 characters; the same recipe, only layer= differs",
    )
    plot = Plot(
        sheet,
        (80, 74, 450, 270),
        (0, 500, "step"),
        (3e-4, 10, "loss, nats a character"),
        True,
    )
    for layer in LAYERS:
        plot.line(losses(f"anthem-{layer}"), COLOURS[layer], 2.2)
    names = {}
    for layer in LAYERS:
        right = run(f"anthem-{layer}").result["scores"]["accuracy"]
        names[f"{layer}: {right:.1%} right"] = COLOURS[layer]
    sheet.legend(548, 110, names, 24)
    return sheet


def gradients() -> Picture:
    """How much the loss hears of what stood long ago."""
    sheet = Picture(
        720,
        400,
        "The gradient on its way back through time",
        "norm of the loss's gradient at a character read k steps before, share of that at k = 0",
    )
    plot = Plot(
        sheet,
        (80, 74, 520, 270),
        (0, 60, "k, steps back"),
        (1e-15, 1, "share of the gradient"),
        True,
    )
    for layer in ("rnn", "gru", "lstm"):
        shares = gradient_by_distance(run(f"anthem-{layer}"), 61)
        plot.line(list(enumerate(shares)), COLOURS[layer], 2.5)
        plot.name(61, shares[-1], layer, COLOURS[layer])
    return sheet


def gradient_by_distance(made: Run, reach: int) -> list[float]:
    """Return the mean norm of d loss_t / d x_(t-k) for k below ``reach``, as a share of k=0."""
    model: Any = made.model
    ids = [made.task.tokenizer.eos_id, *made.task.tokenizer.encode(anthem())]  # type: ignore[attr-defined]
    x = model.embedding(torch.tensor([ids])).detach().requires_grad_()
    y, _ = model.layer.unroll(x)
    chances = model.head(y[0]).log_softmax(-1)
    total = torch.zeros(reach)
    for step in range(reach - 1, len(ids) - 1, 4):
        (gradient,) = torch.autograd.grad(
            chances[step, ids[step + 1]], x, retain_graph=True
        )
        norms = gradient[0].norm(dim=-1)
        total += norms[step - reach + 1 : step + 1].flip(0)
    return (total / total[0]).tolist()


def memory() -> Picture:
    """Four verses, one refrain: what is left of the difference."""
    sheet = Picture(
        720,
        400,
        "Four verses, one refrain: who still knows which verse it is",
        "distance between the states of two verses while both read it, share of their size",
    )
    plot = Plot(
        sheet,
        (80, 74, 560, 252),
        (0, 31, ""),
        (1e-10, 2, "distance of the states"),
        True,
    )
    for layer in ("rnn", "gru", "lstm"):
        made = run(f"anthem-{layer}")
        made.model.double()  # or the distance ends where rounding begins
        trace, _ = read_anthem(made)
        states = trace["c" if layer == "lstm" else "h"].detach()
        apart = []
        for after in range(len(REFRAIN)):
            both = torch.stack(
                [
                    states[at + after + 1]
                    for at in refrains()
                    if at + after + 1 < len(states)
                ]
            )
            apart.append(float(torch.pdist(both).mean() / both.norm(dim=1).mean()))
        plot.line(list(enumerate(apart)), COLOURS[layer], 2.5)
        plot.name(31.5, apart[-1], layer, COLOURS[layer])
    for step, letter in enumerate(REFRAIN):
        sheet.text(
            plot.x(step), 362, letter.replace("\n", "↵"), size=14, anchor="middle"
        )
    return sheet


def gates() -> Picture:
    """The gates of the cells that remember, above those that do not."""
    trace, _ = read_anthem(run("anthem-lstm"))
    spans = [slice(at + 1, at + 1 + len(REFRAIN)) for at in refrains()[:3]]
    cells = torch.stack([trace["c"][span] for span in spans])
    # how far the verses stand apart in a cell, where they are nearest
    apart = (cells.std(0) / cells.abs().mean()).min(0).values
    kept = trace["forget"][spans[0]].mean(0)
    chosen = [
        *apart.argsort(descending=True)[:6].tolist(),
        *kept.argsort()[:6].tolist(),
    ]
    sheet = Picture(
        720,
        530,
        "The gates of an LSTM while it reads the refrain",
        "12 of its 128 cells: above the line 6 that keep the verses apart, below it the 6 that "
        "forget most",
    )
    wide = 620 / len(REFRAIN)
    words = {
        "forget": "forget gate f: keep what the cell holds",
        "input": "input gate i: write to the cell",
        "output": "output gate o: show the cell",
    }
    for row, gate in enumerate(words):
        top = 92 + 138 * row
        values = trace[gate][spans[0]][:, chosen].detach().T.tolist()
        sheet.text(70, top - 8, words[gate], size=12.5, weight=600)
        sheet.heat(70, top, (wide, 8.5), values[:6], 0, 1, False)
        sheet.heat(70, top + 55, (wide, 8.5), values[6:], 0, 1, False)
        sheet.add("rect", x=70, y=top, width=620, height=106, fill="none", stroke=GRID)
    for step, letter in enumerate(REFRAIN):
        centre = 70 + wide * (step + 0.5)
        sheet.text(centre, 492, letter.replace("\n", "↵"), size=14, anchor="middle")
    sheet.scale(540, 508, "0", "1", False)
    return sheet


def gru() -> Picture:
    """Three cells on Shakespeare, equal steps."""
    sheet = Picture(
        720,
        400,
        "Two gates or three: GRU and LSTM on Shakespeare",
        "training loss by step, 256 hidden values; in brackets the layer's held-out loss and size",
    )
    plot = Plot(
        sheet,
        (80, 74, 600, 270),
        (0, 280, "step"),
        (1.6, 3.6, "loss, nats a character"),
    )
    names = {}
    for layer in ("rnn", "gru", "lstm"):
        made = run(f"quick-{layer}")
        plot.line(losses(f"quick-{layer}"), COLOURS[layer], 2.5)
        size = sum(weight.numel() for weight in made.model.layer.parameters())  # type: ignore[operator,union-attr]
        names[
            f"{layer} (held out {made.result['scores']['loss']:.3f}, {size:,} weights)"
        ] = COLOURS[layer]
    sheet.legend(380, 110, names, 22)
    return sheet
