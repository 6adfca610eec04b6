"""Checks that a training is sound, before its first epoch: each may be asked by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unrolled.checks import data, endings, files, leaks, learning, model
from unrolled.checks.base import Check, Context, Finding, ask
from unrolled.checks.published import examine_published
from unrolled.core.words import command, path_word
from unrolled.runs import folder as runs
from unrolled.runs.keys import words
from unrolled.runs.plan import Plan, make_plan
from unrolled.training.precision import callers_state_kept

__all__ = [
    "CHECKS",
    "Check",
    "Context",
    "Finding",
    "ask",
    "examine",
    "examine_published",
    "quick",
]

CHECKS = (
    Check("files of the run", files.unchanged),
    Check("how the data is read", data.reading),
    Check("rows in both parts", leaks.shared, quick=True),
    Check("texts in both parts", leaks.shared_text, quick=True),
    Check("same row, other label", data.conflicts, quick=True),
    Check("columns that tell", leaks.column, quick=True),
    Check("tokens that tell", leaks.token, quick=True),
    Check("rare labels", data.labels, quick=True),
    Check("the scored part", data.scored, quick=True),
    Check("order of the rows", data.order, quick=True),
    Check("cut texts", data.cut, quick=True),
    Check("unknown tokens", data.unknown),
    Check("empty inputs", data.empty),
    Check("padding", model.padding),
    Check("batch of one", model.alone),
    Check("looking ahead", model.ahead),
    Check("step by step", model.stepped),
    Check("reach of the loss", learning.reached),
    Check("loss against a guess", learning.beginning),
    Check("end of texts", endings.ending),
    Check("where reading begins", endings.begins),
    Check("rows by heart", learning.by_heart),
    Check("stop and resume", learning.resumed),
)
SHOWN = 3  # findings that a training begins with


def examine(target: str, changes: Mapping[str, Any]) -> Context:
    """Return what the checks look at: a recipe or a data file as planned, or a run as trained.

    Raises:
        UserError: what ``make_plan`` raises; the data of a run are no longer those it was begun
            with; or its weights are damaged.
    """
    known = runs.is_run(Path(target))
    with callers_state_kept():
        plan = make_plan(target, dict(changes), resume=known, dry_run=True)
        trained = known and (Path(target) / runs.MODEL).exists()
        model = runs.load(Path(target)).model if trained else plan.model
    device = plan.compute_device.device
    if device.type == "cuda":
        # it may round what it multiplies, where numbers are to be equal
        torch.backends.cudnn.allow_tf32 = False
    return Context(plan, model.to(device).eval(), trained)


def quick(plan: Plan) -> list[str]:
    """Return a line for each warning and problem of the quick checks, the ``SHOWN`` gravest."""
    checks = [check for check in CHECKS if check.quick]
    findings = ask(checks, Context(plan, plan.model))
    unsound = [finding for finding in findings if finding.status != "ok"]
    # a stable sort: problems first, both in the order of the checks
    unsound.sort(key=lambda finding: finding.status != "problem")
    if not unsound:
        return []
    lines = [f"{finding.status}: {finding.message}" for finding in unsound[:SHOWN]]
    request = plan.request
    doctor = command("doctor", path_word(request.target), *words(request.changes))
    return [*lines, f"more: {doctor}"]
