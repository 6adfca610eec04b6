"""Fields, model and scores of each kind of problem; recipes; run folders."""

from unrolled.tasks.base import Answer, Evaluation, Task
from unrolled.tasks.labelled import Classify, Regress
from unrolled.tasks.language import Language
from unrolled.tasks.tag import Tag

TASKS: dict[str, type[Task]] = {
    "classify": Classify,
    "regress": Regress,
    "tag": Tag,
    "language": Language,
}

__all__ = ["TASKS", "Answer", "Classify", "Evaluation", "Language", "Regress", "Tag", "Task"]
