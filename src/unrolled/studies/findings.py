"""What a comparison found: rows, means, the order of the layers; as text, JSON and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unrolled.insight.words import Phrase
from unrolled.studies import phrases
from unrolled.studies.running import Result
from unrolled.studies.summary import (
    Row,
    ScoreOrder,
    growths,
    orders,
    summarise,
)
from unrolled.studies.trials import Trial


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
    """Return the findings of runs, by their results' names."""
    rows: list[Row] = []
    baselines: dict[str, Row] = {}
    first = next(result for result in results.values() if "error" not in result)
    metric = first["metric"]
    varied = list(trials[0].varied)
    for trial in trials:
        result = results[trial.name]
        row: Row = {"layer": trial.layer, **trial.varied, "seed": trial.seed}
        names = ("score", "parameters", "seconds", "memory", "steps")
        row |= {name: result.get(name) for name in names}
        row |= {name: result.get(name) for name in ("scored_answers", "scored_rows")}
        row["run"] = trial.name
        if "error" in result:
            row["error"] = result["error"]
        rows.append(row)
        for baseline in result.get("baselines", []):
            score = baseline["scores"].get(metric)
            if score is not None and not varied:
                name = f"{baseline['name']} (seed {trial.seed})"
                baselines[name] = {"name": name, "score": score}
    return Findings(
        metric,
        first["higher_is_better"],
        rows,
        varied,
        list(baselines.values()),
        made,
    )
