"""Text that goes on from a prompt, as it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unrolled.core.errors import UsageError, shown
from unrolled.decoding.generate import MakeDraft
from unrolled.decoding.grammar import GrammarText
from unrolled.decoding.sampling import Sampling
from unrolled.decoding.speculative import RepeatDraft
from unrolled.models import LanguageModel
from unrolled.runs import arguments
from unrolled.runs.predictor import Predictor
from unrolled.tasks.base import TokenChoice
from unrolled.training.precision import torch_defaults

NGRAM = "ngram"


def stream(
    predictor: Predictor,
    prompt: str | Sequence[int],
    max_new_tokens: int,
    sampling: dict[str, Any],
    seed: int | None = None,
    stop: Sequence[str] = (),
    notice: Callable[[str], None] = lambda text: None,
    choices: list[TokenChoice] | None = None,
    json_schema: str | Path | dict[str, Any] | None = None,
    grammar: str | Path | None = None,
    draft: str | Predictor | None = None,
    precision: str = "float32",
) -> Iterator[str]:
    """Yield pieces of text.

    Args:
        predictor: of a language model.
        prompt: what stands before, a text or its ids; an empty text starts a new one.
        max_new_tokens: the most tokens written.
        sampling: how tokens are drawn; see ``Sampling``.
        seed: of the draws; None draws others each time.
        stop: texts before which it ends.
        notice: called with a sentence where the prompt is longer than the model reads.
        choices: takes each token with its probability and alternatives.
        json_schema: a JSON schema that the text has to follow: a dictionary, JSON, or a file of it.
        grammar: a file of a grammar that it has to follow, as Lark or GBNF.
        draft: what guesses tokens, which the model then checks at once: ``ngram``, what followed
            the last tokens before; or a smaller model over the same vocabulary.
        precision: of the weights that are read at every step; see ``Layer.stream``.

    Raises:
        UsageError: the run answers rows, or an argument is wrong.
    """
    options = _options(
        predictor,
        sampling,
        stop,
        notice,
        _grammar_text(json_schema, grammar, draft),
    )
    _check_arguments(prompt if isinstance(prompt, str) else "", max_new_tokens, seed)
    with ExitStack() as lent:
        pieces = predictor.task.generate(
            predictor.model,
            prompt,
            max_new_tokens,
            seed=seed,
            choices=choices,
            stepper=lent.enter_context(predictor.stepping(precision)),
            draft=None if draft is None else _draft(predictor, draft, lent),
            **options,
        )
        while True:
            # entered anew for each piece: the caller's own code runs between them
            with torch_defaults(), predictor.compute_device.autocast():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def texts(
    predictor: Predictor,
    prompts: Sequence[str],
    max_new_tokens: int,
    sampling: dict[str, Any],
    seed: int | None = None,
    stop: Sequence[str] = (),
    notice: Callable[[str], None] = lambda text: None,
    json_schema: str | Path | dict[str, Any] | None = None,
    grammar: str | Path | None = None,
    precision: str = "float32",
) -> list[str]:
    """Return what goes on from each of some prompts, written side by side.

    What prompts begin with alike is read once where the native core steps attention. Text i is what
    ``stream`` makes of the seed + i, whatever is written beside it; through torch, whose sums
    depend on how many rows there are, up to rounding.

    Args:
        predictor: of a language model.
        prompts: what stands before each text.
        max_new_tokens, sampling, stop, notice, json_schema, grammar, precision: see ``stream``.
        seed: of the first text; None draws others each time.

    Raises:
        UsageError: see ``stream``.
    """
    options = _options(
        predictor,
        sampling,
        stop,
        _said_once(notice),
        _grammar_text(json_schema, grammar, None),
    )
    prompts = arguments.texts("prompts", prompts)
    for prompt in prompts:
        _check_arguments(prompt, max_new_tokens, seed)
    with ExitStack() as lent:
        lent.enter_context(torch_defaults())
        lent.enter_context(predictor.compute_device.autocast())
        stepper = lent.enter_context(predictor.stepping(precision, many=True))
        stepper.forget()
        writers: list[Iterator[str]] = []
        for number, prompt in enumerate(prompts):
            writer = predictor.task.generate(
                predictor.model,
                prompt,
                max_new_tokens,
                seed=None if seed is None else following_seed(seed, number),
                stepper=stepper,
                **options,
            )
            writers.append(writer)
        return _in_turn(writers)


def _said_once(notice: Callable[[str], None]) -> Callable[[str], None]:
    """Return what passes each sentence on the first time alone."""
    said: set[str] = set()

    def pass_on(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            notice(sentence)

    return pass_on


def following_seed(seed: int, number: int) -> int:
    """Return the seed of a text, by its number among those that are written together."""
    return (seed + number) % 2**63


def _in_turn(writers: Sequence[Iterator[str]]) -> list[str]:
    """Return what each writes, one piece of each in turn: all ask for their next token together."""
    written: list[list[str]] = [[] for _ in writers]
    alive = list(range(len(writers)))
    while alive:
        going_on: list[int] = []
        for number in alive:
            piece = next(writers[number], None)
            if piece is not None:
                written[number].append(piece)
                going_on.append(number)
        alive = going_on
    return ["".join(pieces) for pieces in written]


def _options(
    predictor: Predictor,
    sampling: dict[str, Any],
    stop: Sequence[str],
    notice: Callable[[str], None],
    grammar: GrammarText | None,
) -> dict[str, Any]:
    """Return how a text is written, for a task.

    Raises:
        UsageError: the run answers rows, or a setting is wrong.
    """
    predictor.task.check_generates()
    return {
        "sampling": Sampling.read(sampling),
        "stop": arguments.texts("stop", stop),
        "device": predictor.compute_device.device,
        "notice": notice,
        "grammar": grammar,
    }


def _check_arguments(prompt: str, max_new_tokens: int, seed: int | None) -> None:
    if not isinstance(prompt, str):
        raise UsageError(f"prompt is {shown(prompt)}; give a text")
    arguments.whole("max_new_tokens", max_new_tokens)
    if seed is not None:
        arguments.whole("seed", seed)


def _grammar_text(
    json_schema: str | Path | dict[str, Any] | None,
    grammar: str | Path | None,
    draft: str | Predictor | None,
) -> GrammarText | None:
    """Return what a text has to be. Raises UsageError: options that go without each other."""
    if draft is not None and (json_schema is not None or grammar is not None):
        raise UsageError("a draft guesses past a grammar; leave one of the two out")
    if json_schema is not None and grammar is not None:
        raise UsageError("a text follows json_schema or grammar; leave one of them out")
    if json_schema is not None:
        return GrammarText.of_schema(json_schema)
    return None if grammar is None else GrammarText.of_file(grammar)


def _draft(predictor: Predictor, draft: str | Predictor, lent: ExitStack) -> MakeDraft:
    """Return what makes a draft; ``lent`` holds what it needs until the text is written.

    Raises:
        UsageError: it cannot guess for this run.
    """
    if draft == NGRAM:
        return lambda generator: RepeatDraft()
    if not isinstance(draft, Predictor):
        raise UsageError(f"draft is {shown(draft)}; give {NGRAM}, or a loaded run")
    draft.task.check_generates()
    device = predictor.compute_device.device
    if draft.compute_device.device != device:
        raise UsageError(
            f"the draft computes on {draft.compute_device.device} and the run on {device}; open "
            "both with the same device="
        )
    task: Any = predictor.task
    stepper = lent.enter_context(draft.stepping())
    return task.draft_by(draft.task, stepper, device)


@torch_defaults()
@torch.no_grad()
def logits(predictor: Predictor, ids: Sequence[int]) -> Tensor:
    """Return the scores (T, V) of the token after each of ``ids`` (T,); see ``Run.logits``."""
    model = predictor.model
    if not isinstance(model, LanguageModel):
        raise UsageError("logits are of a language model; this run answers rows")
    size = model.head.out_features
    try:
        values = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"ids is {shown(ids)}; give a list of token ids") from None
    is_whole = not values.is_floating_point() and values.dtype != torch.bool
    if values.dim() != 1 or not len(values) or not is_whole:
        raise UsageError(f"ids is {shown(ids)}; give a list of token ids")
    if int(values.min()) < 0 or int(values.max()) >= size:
        raise UsageError(f"ids are from 0 to {size - 1}, and {shown(ids)} are others")
    if model.context is not None and len(values) > model.context:
        raise UsageError(
            f"the model reads {model.context:,} tokens, and there are {len(values):,}; give fewer"
        )
    rows = values.to(predictor.compute_device.device, torch.int64)[None]
    with predictor.stepping() as stepper:
        scores, _ = stepper.unroll(rows)
    return scores[0].float().cpu()


def with_choices(
    predictor: Predictor,
    prompt: str,
    max_new_tokens: int,
    sampling: dict[str, Any],
    **options: Any,
) -> tuple[str, list[TokenChoice]]:
    """Return a text as ``stream`` makes it, and the tokens of it.

    Tokens that only a stop text held, which is left out, are left out too.
    """
    choices: list[TokenChoice] = []
    pieces = stream(
        predictor, prompt, max_new_tokens, sampling, choices=choices, **options
    )
    text = "".join(pieces)
    return text, [choice for choice in choices if choice.start < len(text)]
