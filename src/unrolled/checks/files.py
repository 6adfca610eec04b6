"""Are the files of a run those that its training wrote?"""

from __future__ import annotations

from unrolled.checks.base import Context, Finding
from unrolled.core import digests
from unrolled.runs import folder as runs


def unchanged(context: Context) -> Finding | None:
    """The files that are read back have the digests that the training kept; all are hashed."""
    folder = context.plan.folder
    if not context.trained:
        return None
    count = digests.verify(folder, runs.READ)
    if not count:
        return Finding(
            "warning",
            "an older version wrote this run, and kept no digests: a changed file goes unseen",
            where=str(folder),
            advice="train it on, or anew, and digests are kept",
        )
    paths = [folder / name for name in runs.READ]
    megabytes = sum(path.stat().st_size for path in paths if path.exists()) / 1e6
    files = f"{count} files, {megabytes:.1f} MB"
    return Finding("ok", f"{files}, are those that the training wrote (SHA-256)")
