"""Finished runs side by side, where they were scored on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unrolled.core.errors import UsageError, UserError
from unrolled.core.files import read_json
from unrolled.runs import folder as runs
from unrolled.runs.keys import flat
from unrolled.studies import page
from unrolled.studies.findings import Findings
from unrolled.studies.summary import Row

# what decides which rows are held out where there is no file of them
OF_SPLIT = (
    "seed",
    "data.holdout",
    "data.limit",
    "data.group",
    "data.text",
    "data.numbers",
    "data.categories",
    "data.dates",
    "data.rows",
    "data.sequence",
    "data.window",
    "data.ahead",
    "data.on_error",
    "data.missing",
)
# what stands in the settings and makes no other model
ASIDE = ("name", "layer", "seed", "training.threads", "training.device")
MOST = 4  # keys that name the runs


def is_run_list(words: Sequence[str]) -> bool:
    """Whether words name finished runs and nothing to train: two folders of runs at least."""
    return len(words) > 1 and all(runs.is_run(Path(word)) for word in words[:2])


def compare_runs(
    paths: Sequence[str | Path], out: Path | None = None, lang: str = "auto"
) -> tuple[Findings, Path]:
    """Set finished runs side by side, and write page and JSON.

    Args:
        paths: their folders.
        out: the folder to write into; ``studies/compare-runs`` by default.
        lang: the language of the page.

    Returns:
        The findings, and the folder.

    Raises:
        UserError: a folder holds no finished run, or they were scored by other scores, or on other
            data.
    """
    loaded = [_Finished.read(Path(path)) for path in paths]
    first = loaded[0]
    notes = []
    for run in loaded[1:]:
        if run.metric != first.metric:
            raise UsageError(
                f"{run.path} is scored by {run.metric} and {first.path} by {first.metric}: they "
                "cannot be compared"
            )
        for role in ("train", "dev"):
            if run.data[role] != first.data[role] and (
                role == "dev" or not run.data["dev"]
            ):
                raise UsageError(
                    f"{run.path} and {first.path} were scored on other data ({role}): they cannot "
                    "be compared; score both with `unrolled evaluate RUN FILE`"
                )
        other = [key for key in OF_SPLIT if run.settings[key] != first.settings[key]]
        if other and not run.data["dev"]:
            values = ", ".join(f"{key}={run.settings[key]}" for key in other)
            notes.append(
                f"{run.path} was scored on other held-out rows than {first.path} ({values}): part "
                "of the difference is theirs"
            )
    varied = _differing(loaded)
    rows = [run.row(varied) for run in loaded]
    folder = out or Path("studies") / "compare-runs"
    names = ", ".join(run.path.name for run in loaded)
    made: dict[str, Any] = {"name": names, "notes": notes, "folder": str(folder)}
    findings = Findings(first.metric, first.higher, rows, varied, [], made)
    page.write(findings, folder, lang)
    return findings, folder


class _Finished:
    """A run that has ended."""

    def __init__(self, path: Path, loaded: runs.Loaded) -> None:
        self.path = path
        self.result = loaded.result
        self.metric = loaded.recipe.training.metric or loaded.task.metric
        self.higher = loaded.task.measures[self.metric]
        self.settings = flat(loaded.recipe.model_dump(mode="json"))
        files = read_json(path / runs.FIELDS)["files"]
        by_role = runs.by_role(loaded.recipe, files)
        self.data = {role: by_role.get(role) for role in ("train", "dev")}

    @classmethod
    def read(cls, path: Path) -> _Finished:
        if not runs.is_run(path):
            raise UsageError(f"{path} is no run; name folders of finished runs")
        loaded = runs.load(path)
        if not loaded.result:
            raise UserError(f"{path} is not finished; go on with it, or leave it out")
        return cls(path, loaded)

    def row(self, varied: Sequence[str]) -> Row:
        """Return the row of a table."""
        result = self.result
        return {
            "layer": self.settings["layer"],
            **{key: self.settings[key] for key in varied},
            "seed": self.settings["seed"],
            "score": result["scores"][self.metric],
            "parameters": result["parameters"],
            "seconds": result["seconds"],
            "memory": None,
            "steps": result["steps"],
            "scored_answers": result["scored_answers"],
            "scored_rows": result["scored_rows"],
            "run": str(self.path),
        }


def _differing(loaded: Sequence[_Finished]) -> list[str]:
    """Return the first keys in which runs differ, layer and seed aside."""
    keys = []
    for key, value in loaded[0].settings.items():
        if key in ASIDE or key.startswith(("report.", "data.train", "data.dev")):
            continue
        if any(run.settings[key] != value for run in loaded):
            keys.append(key)
    return keys[:MOST]
