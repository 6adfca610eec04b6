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
            str(folder),
            "train it on, or anew, and digests are kept",
        )
    size = sum(
        (folder / name).stat().st_size for name in runs.READ if (folder / name).exists()
    )
    told = f"{count} files, {size / 1e6:.1f} MB, are those that the training wrote (SHA-256)"
    return Finding("ok", told)
