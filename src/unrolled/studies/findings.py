"""What a comparison found: rows, means, the order of the layers; as text, JSON and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unrolled.insight.words import Phrase
from unrolled.studies import phrases
from unrolled.studies.running import BASELINE_JOB, Result
from unrolled.studies.summary import (
    Row,
    ScoreOrder,
    growths,
    orders,
    summarise,
)
from unrolled.studies.trials import Trial

# of the result of a run, for its row
SHOWN = (
    *("score", "parameters", "seconds", "memory"),
    *("steps", "scored_answers", "scored_rows"),
)


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of a comparison.

    Attributes:
        metric, higher: the score, and whether more of it is better.
        rows: one a run: ``layer``, the varied keys, ``seed``, ``score``, ``parameters``,
            ``seconds`` of training, ``memory`` (peak, in megabytes); ``error`` in place of a score
            where it failed.
        varied: the keys in which runs differ beside layer and seed.
        baselines: simple methods on the same rows: name and score.
        made: how the runs were made.
    """

    metric: str
    higher: bool
    rows: list[Row]
    varied: list[str]
    baselines: list[Row]
    made: Mapping[str, Any]

    @property
    def summary(self) -> list[Row]:
        """A row for each layer and varied values: means and intervals."""
        return summarise(self.rows, self.varied, self.metric)

    @property
    def order(self) -> list[ScoreOrder]:
        """The layers from best to worst, by seed."""
        return orders(self.rows, self.varied, self.higher)

    @property
    def growth(self) -> list[Row]:
        """What more rows would bring."""
        return growths(self.rows, self.varied, self.higher)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "metric": self.metric,
            "higher_is_better": self.higher,
            "rows": self.rows,
            "summary": self.summary,
            "order": [asdict(order) for order in self.order],
            "growth": self.growth,
            "baselines": self.baselines,
            "made": dict(self.made),
        }

    def sentences(self) -> list[Phrase]:
        """Say what the numbers mean: of the order, of more rows, of runs that failed."""
        said = [
            *phrases.of_order(self.order, self.varied),
            *phrases.of_growth(self.growth, self.varied, self.metric),
            *phrases.of_failures(self.rows),
        ]
        return said

    def lines(self) -> list[str]:
        """Return the table and what it says, for a terminal."""
        head = [*self._keys(), self.metric, "95%", "parameters", "seconds", "memory"]
        cells = [head]
        for entry in self.summary:
            cells.append([*phrases.names(entry, self._keys()), *phrases.cells(entry)])
        for baseline in self.baselines:
            score = f"{baseline['score']:.4f}"
            blank = [""] * (len(head) - 1)
            blank[len(self._keys()) - 1] = score
            cells.append([baseline["name"], *blank])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        table = [
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            )
            for row in cells
        ]
        return [*(line.rstrip() for line in table), "", *map(str, self.sentences())]

    def _keys(self) -> list[str]:
        return ["layer", *self.varied]


def gather(
    trials: Sequence[Trial], results: Mapping[str, Result], made: Mapping[str, Any]
) -> Findings:
    """Return the findings of runs and of simple methods, by the names of their jobs."""
    by_name = [results[trial.name] for trial in trials]
    first = next(result for result in by_name if "error" not in result)
    metric = first["metric"]
    rows = [_row(trial, result) for trial, result in zip(trials, by_name, strict=True)]
    baselines = []
    for method in results.get(BASELINE_JOB, {}).get("baselines", []):
        score = method["scores"].get(metric)
        if score is not None:
            name = f"{method['name']} (seed {trials[0].seed})"
            baselines.append({"name": name, "score": score})
    varied = list(trials[0].varied)
    higher = first["higher_is_better"]
    return Findings(metric, higher, rows, varied, baselines, made)


def _row(trial: Trial, result: Result) -> Row:
    """Return the row of a run."""
    row: Row = {"layer": trial.layer, **trial.varied, "seed": trial.seed}
    row |= {name: result.get(name) for name in SHOWN}
    row["run"] = trial.name
    if "error" in result:
        row["error"] = result["error"]
    return row
