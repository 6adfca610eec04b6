"""What stands beside a graph: what it reads and gives, and lines of Python that use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.export.onnx.models import Port
from unrolled.text.tokenizers import Tokenizer

# what a reader of rows begins with
PADDED = '''\
def padded(rows):
    """Return ids side by side, zeros behind shorter rows, and how many are real."""
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids, lengths
'''
TEXTS = '''\
tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
rows = [{rows}]


def ids_of(row):
    """Return the ids of the texts of a row, {end} after each."""
    ids = []
    for text in row:
        ids += tokenizer.encode(text).ids{cut} + [{end}]
    return ids


inputs = {{}}
inputs["tokens"], inputs["lengths"] = padded([ids_of(row) for row in rows])
'''
CODE_POINTS = """\
points = [list(map(ord, "\\x1f".join(row){cut})) for row in rows]
inputs["code_points"], inputs["code_point_counts"] = padded(points)
"""
FEATURES = """\
# what the columns of fields -> inputs -> vector in meta.json say, scaled as it says there
inputs["features"] = np.zeros({shape}, np.float32)
"""
WORDS = """\
known = {{word: id for id, word in enumerate(json.loads(Path("words.json").read_text("utf-8")), 2)}}
rows = [["some", "words"], ["and", "some", "more"]]
inputs = {{}}
"""
KNOWN_WORDS = """\
ids = [[known.get(word, 1) for word in row] for row in rows]
inputs["tokens"], inputs["lengths"] = padded(ids)
"""
SPELT_WORDS = """\
tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
ids = [[known.get(word, 1) for word in row] for row in rows]
inputs["tokens"], inputs["lengths"] = padded(ids)
distinct = sorted(set(sum(rows, [])))
pieces = [[{begin}, *tokenizer.encode(word).ids[:64], {end}] for word in distinct]
inputs["pieces"], inputs["piece_counts"] = padded(pieces)
indices = [[distinct.index(word) for word in row] for row in rows]
inputs["word_indices"], _ = padded(indices)
"""
STEPS = """\
# {width} numbers at each step: {columns}
numbers = np.zeros(({steps}, {width}))
steps = {scaled}
inputs = {{"steps": steps[None].astype(np.float32), "lengths": np.array([len(steps)])}}
"""
VECTORS = """\
# {width} numbers: {columns}
numbers = np.zeros((2, {width}))
vectors = {scaled}
inputs = {{"vectors": vectors.astype(np.float32)}}
"""
LABELS = """\
(scores,) = session.run(None, inputs)
shares = np.exp(scores - scores.max(-1, keepdims=True))
probabilities = shares / shares.sum(-1, keepdims=True)
best = scores.argmax(-1)
for row in range(len(scores)):
    print({said}, probabilities[row].max(-1))
"""
VALUES = """\
(scaled_values,) = session.run(None, inputs)
output = meta["fields"]["output"]
{change}print(scaled_values[:, 0] * output["deviation"] + output["mean"])
"""
CHANGE = "# how much is added to the value of the last step\n"
STATES = """\
tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
state = {{{states}}}
ids = {prompt}
tokens = ids
written = []
for _ in range(20):
    inputs = {{"tokens": np.array([tokens]), "lengths": np.array([len(tokens)])}}
    logits, *after = session.run(None, inputs | state)
    state = dict(zip(state, after))  # what was read need not be read again
    scores = logits[0, -1]
    scores[{unwritten}] = -np.inf
    tokens = [int(scores.argmax())]
    if tokens[0] in {ends}:
        break
    written += tokens
print(tokenizer.decode(written))
"""
CONTEXT = """\
tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
ids = {prompt}
begin = len(ids)
for _ in range(20):
    tokens = ids{cut}  # positions that it reads
    inputs = {{"tokens": np.array([tokens]), "lengths": np.array([len(tokens)])}}
    (logits,) = session.run(None, inputs)
    scores = logits[0, -1]
    scores[{unwritten}] = -np.inf
    best = int(scores.argmax())
    if best in {ends}:
        break
    ids.append(best)
print(tokenizer.decode(ids[begin:]))
"""


@dataclass(frozen=True, slots=True)
class Description:
    """What a graph's inputs and outputs mean.

    Attributes:
        task, pattern: in words.
        labels: of classes, in the order of the scores; none for values and tokens.
        fields: of the task, as plain values.
        feature_columns: the column that each number is of, where numbers are read.
        tokenizer: what cuts texts, or words, into pieces.
    """

    task: str
    pattern: str
    labels: tuple[str, ...]
    fields: Mapping[str, Any]
    feature_columns: tuple[str, ...]
    tokenizer: Tokenizer | None


def document(
    description: Description,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    context: int | None,
) -> dict[str, Any]:
    """Return what ``meta.json`` holds, plain values."""
    values: dict[str, Any] = {
        "task": description.task,
        "pattern": description.pattern,
        "inputs": [port.to_json() for port in inputs],
        "outputs": [port.to_json() for port in outputs],
        "labels": list(description.labels),
        "context": context,
        "feature_columns": list(description.feature_columns),
        "fields": dict(description.fields),
    }
    tokenizer = description.tokenizer
    if tokenizer is not None:
        values["start"] = tokenizer.start_id
        values["ends"] = list(tokenizer.end_ids)
        values["unwritten"] = list(tokenizer.unwritten_ids)
    return values


def page(
    description: Description,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    context: int | None,
) -> str:
    """Return ``README.md``: tables of inputs and outputs, and lines that use them."""
    lines = [
        f"# A model for ONNX Runtime: {description.task}",
        "",
        "`model.onnx` reads any number of rows of any length; `meta.json` says what its inputs and "
        "outputs are, and how the values of a row become numbers. Texts are read in NFC.",
        "",
        *_table("input", inputs),
        *_table("output", outputs),
    ]
    if context is not None:
        lines += [f"It reads {context:,} steps at most.", ""]
    packages = "onnxruntime tokenizers" if description.tokenizer else "onnxruntime"
    lines += [f"In this folder, after `pip install {packages}`:", "", "```python"]
    return "\n".join(lines) + "\n" + _code(description, inputs, context) + "```\n"


def _table(kind: str, ports: Sequence[Port]) -> list[str]:
    rows = [f"| {kind} | type | shape | |", "|---|---|---|---|"]
    for port in ports:
        values = port.to_json()
        shape = ", ".join(map(str, port.shape))
        rows.append(f"| `{port.name}` | {values['type']} | {shape} | {port.meaning} |")
    return [*rows, ""]


def _code(description: Description, inputs: Sequence[Port], context: int | None) -> str:
    names = {port.name: port for port in inputs}
    head = ["import json", "from pathlib import Path", ""]
    head += ["import numpy as np", "import onnxruntime"]
    if description.tokenizer is not None:
        head.append("import tokenizers")
    start = [
        "",
        'meta = json.loads(Path("meta.json").read_text("utf-8"))',
        'session = onnxruntime.InferenceSession("model.onnx")',
    ]
    code = "\n".join([*head, *start]) + "\n"
    if description.pattern == "language model":
        return code + _writing(description, names, context)
    return code + _reading(description, names) + _answering(description)


def _writing(
    description: Description, names: Mapping[str, Port], context: int | None
) -> str:
    """Return lines that write on from a prompt, each time the likeliest token."""
    tokenizer = description.tokenizer
    assert tokenizer is not None
    plain = f'[{tokenizer.start_id}, *tokenizer.encode("a text").ids]'
    # a published document puts its mark before a text by itself
    own = tokenizer.kind == "published"
    values = {
        "prompt": 'tokenizer.encode("a text").ids' if own else plain,
        "unwritten": list(tokenizer.unwritten_ids),
        "ends": list(tokenizer.end_ids),
        "cut": "" if context is None else f"[-{context}:]",
    }
    states: list[str] = []
    for name, port in names.items():
        if name.startswith("state"):
            count, _, size = port.shape
            states.append(f'"{name}": np.zeros(({count}, 1, {size}), np.float32)')
    if not states:
        return CONTEXT.format(**values)
    return STATES.format(states=", ".join(states), **values)


def _reading(description: Description, names: Mapping[str, Port]) -> str:
    """Return lines that make the inputs of some rows."""
    fields = description.fields.get("inputs", {})
    if "steps" in names or "vectors" in names:
        return _numbers(description, names)
    parts = ["\n\n", PADDED, "\n\n"]
    if fields.get("kind", "words") in ("words", "words_and_columns"):
        parts.append(WORDS.format())
        tokenizer = description.tokenizer
        if "pieces" not in names or tokenizer is None:
            parts.append(KNOWN_WORDS)
        else:
            marks = {"begin": tokenizer.bos_id, "end": tokenizer.eos_id}
            parts.append(SPELT_WORDS.format(**marks))
    else:
        parts.append(_texts(description, names, fields.get("text", fields)))
    if "features" in names:
        width = names["features"].shape[-1]
        shape = f"(len(rows), {width})"
        if len(names["features"].shape) == 3:
            shape = f'(*inputs["tokens"].shape, {width})'
        parts.append(FEATURES.format(shape=shape))
    return "".join(parts)


def _texts(
    description: Description, names: Mapping[str, Port], field: Mapping[str, Any]
) -> str:
    tokenizer = description.tokenizer
    assert tokenizer is not None
    count = len(field["columns"])
    most = field["max_tokens"]
    row = ", ".join(['"a text"'] * count)
    longer = ", ".join(['"another, longer text"'] * count)
    cut = "" if most is None else f"[: {most - 1}]"
    rows = f"[{row}], [{longer}]"
    text = TEXTS.format(rows=rows, end=tokenizer.eos_id, cut=cut)
    if "code_points" in names:
        kept = "" if most is None else f"[: {8 * most}]"
        text += CODE_POINTS.format(cut=kept)
    return text


def _numbers(description: Description, names: Mapping[str, Port]) -> str:
    fields = description.fields["inputs"]
    is_steps = "steps" in names
    port = names["steps" if is_steps else "vectors"]
    width = int(port.shape[-1])
    scaled = _scaled(fields, width)
    values = {
        "width": width,
        "columns": ", ".join(description.feature_columns),
        "scaled": scaled,
        "steps": fields.get("reading", {}).get("window") or 3,
    }
    return (STEPS if is_steps else VECTORS).format(**values)


def _scaled(fields: Mapping[str, Any], width: int) -> str:
    """Return what scales numbers, where numbers are all that is read."""
    if len(fields.get("means", ())) == width:
        read = 'meta["fields"]["inputs"]'
        return f'(numbers - {read}["means"]) / {read}["deviations"]'
    columns = fields.get("features", ())
    kinds = {column["kind"] for column in columns}
    if len(columns) == width and kinds == {"number"}:
        scales = [column["column"]["scale"] for column in columns]
        means = [scale["mean"] for scale in scales]
        deviations = [scale["deviation"] for scale in scales]
        return f"(numbers - {means}) / {deviations}"
    return "numbers  # scaled as fields -> inputs in meta.json says"


def _answering(description: Description) -> str:
    if not description.labels:
        reading = description.fields["inputs"].get("reading", {})
        return VALUES.format(change=CHANGE if reading.get("difference") else "")
    name = 'meta["labels"][best[row]]'
    if description.pattern.startswith("many to many"):
        steps = 'best[row, : inputs["lengths"][row]]'
        name = f'[meta["labels"][label] for label in {steps}]'
    return LABELS.format(said=name)
