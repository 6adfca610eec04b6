"""Names by which columns are known: texts, answers, and the values of objects."""

from __future__ import annotations

TEXT_NAMES = (
    "text",
    "document",
    "sentence",
    "review",
    "comment",
    "message",
    "content",
    "utterance",
    "body",
    "question",
    "q",
    "title",
    "words",
    "tokens",
)
LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "classes",
    "category",
    "categories",
    "target",
    "sentiment",
    "intent",
    "tag",
    "tags",
    "ner_tags",
    "ner",
    "y",
    "answer",
    "stars",
    "rating",
    "price",
    "score",
    "polarity",
    "species",
    "phase",
    "result",
    "output",
    "product",
    "upos",
)
LABEL_WORDS = ("label", "class", "category", "sentiment", "target", "score")
# what the value of an object is named: {"label": {"name": "good", "id": 1}}
VALUES = ("name", "label", "value", "text", "body", "id")
# of these, the names that a text may stand under too: a translation, a reply
TEXT_ANSWERS = ("target", "answer", "output", "result")
