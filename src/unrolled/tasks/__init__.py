"""Fields, model and scores of each kind of problem; recipes; run folders."""

from unrolled.tasks.base import Evaluation, Prediction, Task
from unrolled.tasks.labelled import Classify, Regress
from unrolled.tasks.language import Language
from unrolled.tasks.parse import Parse
from unrolled.tasks.rewrite import Rewrite
from unrolled.tasks.tag import Tag
from unrolled.tasks.tag_frames import FrameTag
from unrolled.tasks.translate import Translate

TASKS: dict[str, type[Task]] = {
    "classify": Classify,
    "regress": Regress,
    "tag": Tag,
    "language": Language,
    "translate": Translate,
    "rewrite": Rewrite,
    "parse": Parse,
}


def kind_of(name: str, frames: bool) -> type[Task]:
    """Return the task of a name, for sequences of numbers where ``frames``."""
    return FrameTag if frames and name == "tag" else TASKS[name]


__all__ = [
    "TASKS",
    "Classify",
    "Evaluation",
    "Language",
    "Parse",
    "Prediction",
    "Regress",
    "Rewrite",
    "Tag",
    "Task",
    "Translate",
    "kind_of",
]
