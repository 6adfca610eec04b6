"""What a resume may change of what a run was begun with: raised limits, files that moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from unrolled.core.errors import UserError
from unrolled.runs.begun import Before, ended, refuse_changes
from unrolled.runs.keys import deep
from unrolled.tasks.base import Task
from unrolled.tasks.recipe import Recipe

RUN = Path("runs/reviews")
KEYS = {"data.train": "reviews.csv", "training.max_steps": 40, "model.hidden": 8}
FILES = {"train": "digest of the reviews"}


def recipe(changes: dict[str, Any]) -> Recipe:
    return Recipe.read(deep(KEYS | changes))


def refuse(
    changes: dict[str, Any], files: dict[str, str], given: dict[str, Any]
) -> None:
    """Resume with other keys in the file of the run, and others that are given now."""
    # the task is compared before, by its digest
    before = Before(recipe({}), cast(Task, None), FILES, None)
    refuse_changes(RUN, before, recipe(changes | given), files, given)


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({}, {}),
        # a limit is raised, in the file of the run or now
        ({"training.max_steps": 41}, {}),
        ({}, {"training.max_steps": 41}),
        ({"training.max_steps": None}, {}),
        # or lowered, by who says so
        ({}, {"training.max_steps": 39}),
        # data may have moved, and reports may show other things
        ({"data.train": "elsewhere/reviews.csv"}, {}),
        ({}, {"report.rows": 3}),
    ],
)
def test_limits_and_the_paths_of_data_may_change(
    changes: dict[str, Any], given: dict[str, Any]
) -> None:
    refuse(changes, FILES, given)


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({"model.hidden": 9}, {}, "model.hidden was 8 and is now 9"),
        ({}, {"model.hidden": 9}, "model.hidden was 8 and is now 9"),
        ({}, {"layer": "lstm"}, "layer was 'gru' and is now 'lstm'"),
        ({}, {"seed": 1}, "seed was 0 and is now 1"),
        (
            {"training.max_steps": 39},
            {},
            "training.max_steps was 40 and is now 39",
        ),
        (
            {"training.max_epochs": 3},
            {},
            "training.max_epochs was None and is now 3",
        ),
    ],
)
def test_another_key_is_refused_with_both_of_its_values(
    changes: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match="cannot be resumed with other") as caught:
        refuse(changes, FILES, given)
    assert message in str(caught.value)
    assert str(caught.value).startswith("runs/reviews cannot be resumed")


def test_other_bytes_of_the_data_are_refused_by_the_name_of_the_file() -> None:
    with pytest.raises(UserError, match=r"a/b\.csv is not the file it was begun with"):
        refuse({"data.train": "a/b.csv"}, {"train": "another digest"}, {})


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"stopped": "no progress", "steps": 5}, "no progress"),
        (
            {"stopped": "limit", "steps": 1200},
            "it reached its limit at step 1,200 (raise training.max_steps to go on)",
        ),
    ],
)
def test_how_a_run_ended_is_said(result: dict[str, Any], message: str) -> None:
    assert ended(result) == message
