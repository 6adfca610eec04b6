"""``unrolled train``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from unrolled.core.errors import UsageError, UserError
from unrolled.core.terminal import clean
from unrolled.core.terminal import out as print_out

Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE_OR_DATA", help="A recipe's name, a YAML file, or a data file."
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the recipe to change."),
]
Out = Annotated[
    str | None, typer.Option(help="Folder of the run; runs/<name> by default.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest checkpoint.")
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**63 - 1,
        help="Equal seeds give equal runs, on one machine, versions and number of threads.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would be trained, and train nothing."),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="With --dry-run: print how the data is understood as JSON."
    ),
]


def train(
    target: Target,
    changes: Changes = None,
    out: Out = None,
    resume: Resume = False,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on a recipe or on your own file.

    Examples:

      unrolled train reviews.csv

      unrolled train reviews.csv layer=lstm model.hidden=256 training.max_minutes=5

      unrolled train shakespeare-lstm --out runs/bard
    """
    from unrolled.run import start
    from unrolled.runs.keys import parse
    from unrolled.runs.plan import make_plan
    from unrolled.runs.recipes import as_yaml
    from unrolled.training.stopping import Interrupted, Terminated

    keys = parse(changes or [])
    if as_json and not dry_run:
        raise UsageError(
            "--json is for --dry-run: it prints how the data is understood"
        )
    if not dry_run:
        try:
            start(target, keys, out, resume, seed)
        except (Interrupted, Terminated) as stopped:
            error = UserError(str(stopped))
            error.exit_code = stopped.code
            raise error from None
        return
    if seed is not None:
        keys["seed"] = seed
    plan = make_plan(target, keys, out, resume, dry_run=True)
    if as_json:
        facts = plan.prepared.facts
        if plan.transfer is not None:
            facts = {**facts, "init": plan.transfer.to_json()}
        print_out(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    print_out("\n".join(map(clean, plan.lines())))
    print_out("\n# the resolved recipe\n" + as_yaml(plan.recipe), end="")
