"""Writing on: one token at a time through the step form, the state carried along.

Or some tokens at a time, guessed by a draft and checked by the model; see ``speculative``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from unrolled.decoding.grammar import TextGrammar
from unrolled.decoding.sampling import OUT, Sampling, choose, probabilities_of
from unrolled.decoding.speculative import GUESSES, Drafter, Guess, check

# called with the probabilities of all tokens (V,), before temperature and filters, and the choice
Observe = Callable[[Tensor, int], None]
MakeDraft = Callable[[torch.Generator | None], Drafter]
CHUNK = 256  # tokens of a prompt read at once: memory stays constant however long it is


class Stepper(Protocol):
    """What decoding asks of a model: many tokens at once for the prompt, the step for the rest."""

    @property
    def context(self) -> int | None:
        """Positions the model can read; None is no limit."""
        ...

    @property
    def reads_prompts_whole(self) -> bool:
        """Whether memory stays bounded however long a prompt is that is read at once."""
        ...

    @property
    def answers_later(self) -> bool:
        """Whether a step only asks: ``now`` of what it returns answers, all texts at once."""
        ...

    def read_prompt(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read tokens (B, T); return scores of the next (B, V) and the state."""
        ...

    def unroll(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read tokens (B, T); return scores after each (B, T, V) and the state."""
        ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Any, Any]:
        """Read one token a row (B,); return scores (B, V), or what answers later, and the state."""
        ...


def read(
    model: Stepper, tokens: Sequence[int], device: torch.device, state: Any = None
) -> tuple[Tensor, Any]:
    """Read one sequence of tokens in chunks; return the last scores (1, V) and the state."""
    logits = torch.empty(0)
    chunk = len(tokens) if model.reads_prompts_whole else CHUNK
    for start in range(0, len(tokens), chunk):
        part = torch.tensor([list(tokens[start : start + chunk])], device=device)
        logits, state = model.read_prompt(part, state)
    return logits, state


class TokenReader:
    """Reads tokens one by one; where the model's context is full, reads the last half anew.

    Args:
        model: what reads.
        prompt: at least one token, read at once.
        device: where the model is.
        mark: the token that all the model has seen begins with; what is read anew begins with it
            too. None has none.
        notice: called with a sentence when the window slides for the first time.
        keep: keep the text of a model without limit, too, as a draft needs it.
    """

    def __init__(
        self,
        model: Stepper,
        prompt: Sequence[int],
        device: torch.device,
        notice: Callable[[str], None],
        mark: int | None = None,
        keep: bool = False,
    ) -> None:
        self.model = model
        self.keep = keep
        self.device = device
        self.notice = notice
        self.context = model.context
        self.has_slid = False
        self.mark = mark
        self.recent = list(prompt)
        self._scores: Any = torch.empty(0)
        # whether the window slides before the next token is chosen
        self._slides_next = False
        self.state: Any = None
        # of a state that cannot forget: how many tokens it had read, and a copy
        self._kept: tuple[int, Any] = (0, None)
        if self.context is not None and len(self.recent) > self.context:
            self._slide("the prompt is longer than")
        else:
            self._read()

    @property
    def logits(self) -> Tensor:
        """The scores of the next token (1, V)."""
        if self._slides_next:
            self._slides_next = False
            self._slide("the text outgrew")
        if not isinstance(self._scores, Tensor):
            self._scores = self._scores.now()
        return self._scores

    def feed(self, token: Tensor) -> None:
        """Read one more token (1,); ``logits`` are then the scores of the next."""
        if self.context is None and not self.keep:
            self._scores, self.state = self.model.step(token, self.state)
            return
        full = self.left < 1
        self.recent.append(int(token))
        if full and self.model.answers_later:
            # who asks early may never need the answer
            self._slides_next = True
        elif full:
            self._slide("the text outgrew")
        else:
            self._scores, self.state = self.model.step(token, self.state)

    @property
    def left(self) -> int:
        """How many more tokens can be read before the window slides."""
        return 2**31 if self.context is None else self.context - len(self.recent)

    @property
    def can_forget(self) -> bool:
        """Whether ``forget`` works: a cache of keys and values can, a recurrent state cannot."""
        return hasattr(self.state, "shortened")

    def feed_all(self, tokens: Sequence[int]) -> Tensor:
        """Read some more tokens, no more than are ``left``; return the scores after each (T, V)."""
        row = torch.tensor([list(tokens)], device=self.device)
        logits, self.state = self.model.unroll(row, self.state)
        self.recent += tokens
        self._scores = logits[:, -1]
        return logits[0]

    def forget(self, count: int) -> None:
        """Forget the newest tokens; ``logits`` are no longer those of the next."""
        if count:
            self.state = self.state.shortened(count)
            del self.recent[-count:]

    def become(self, recent: Sequence[int]) -> None:
        """Read what is needed to have read ``recent``, and forget all else."""
        shared = 0
        for own, other in zip(self.recent, recent, strict=False):
            if own != other:
                break
            shared += 1
        # something has to be read, for its scores
        shared = min(shared, len(recent) - 1)
        if self.can_forget:
            self.forget(len(self.recent) - shared)
        else:
            shared = self._back_to(shared)
        rest = recent[shared:]
        self._scores, self.state = read(self.model, rest, self.device, self.state)
        self.recent = list(recent)
        if not self.can_forget:
            self._kept = (len(recent), _copied(self.state))

    def _back_to(self, most: int) -> int:
        """Go back to the state that was kept, if it had read ``most`` tokens or fewer."""
        length, state = self._kept
        if state is None or length > most:
            self.state = None
            return 0
        self.state = _copied(state)
        return length

    def _slide(self, reason: str) -> None:
        assert self.context is not None
        if not self.has_slid:
            self.notice(
                f"{reason} the model's context of {self.context} tokens; the window slides"
            )
            self.has_slid = True
        self.recent = self.recent[-max(1, self.context // 2) :]
        if self.mark is not None and len(self.recent) > 1:
            self.recent[0] = self.mark
        self._read()

    def _read(self) -> None:
        self._scores, self.state = read(self.model, self.recent, self.device)


def _copied(state: Any) -> Any:
    """Return a copy of a state that a stream changes in place."""
    copies = {name: part.clone() for name, part in state.to_tensors().items()}
    return type(state).from_tensors(copies)


@torch.no_grad()
def generate(
    model: Stepper,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    *,
    seed: int | None = None,
    ends: Sequence[int] = (),
    banned: Sequence[int] = (),
    device: torch.device | None = None,
    notice: Callable[[str], None] = lambda text: None,
    mark: int | None = None,
    observe: Observe | None = None,
    grammar: TextGrammar | None = None,
    draft: MakeDraft | None = None,
) -> Iterator[int]:
    """Yield tokens that follow a prompt.

    Args:
        model: anything with ``read_prompt``, ``unroll``, ``step`` and ``context``.
        prompt: at least one token.
        max_new_tokens: the most tokens yielded.
        sampling: how they are chosen.
        seed: equal seeds give equal texts; None draws from torch's own generator.
        ends: tokens that end the text; they are not yielded.
        banned: tokens never chosen.
        device: where the model is.
        notice: called with a sentence once when the text outgrows the model's context; then the
            model reads the last half of its context anew, each time the context is full.
        mark: the token that all the model was trained on begins with, and so what is read anew.
        observe: called before each token is yielded.
        grammar: what the text has to be; it ends where nothing can follow.
        draft: makes what guesses tokens, from the source of randomness; not beside a grammar.

    Raises:
        ValueError: the prompt is empty.
        UsageError: no token of the vocabulary is what the grammar asks for.
    """
    if not prompt:
        raise ValueError("the prompt holds no token; begin with what begins a text")
    device = device or torch.device("cpu")
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    reader = TokenReader(model, prompt, device, notice, mark, keep=draft is not None)
    # the mark that stands before a text was not said: the end must not become unlikely
    words = [token for token in prompt if token not in ends]
    chooser = _Chooser(sampling, banned, generator, words, reader.logits)
    draft = _usable(draft, reader, notice)
    tokens = _one_by_one(reader, chooser, grammar, ends, observe)
    if draft is not None:
        tokens = _with_draft(reader, chooser, draft(generator), ends, observe)
    for _ in range(max_new_tokens):
        token = next(tokens)
        if token in ends:
            return
        yield token
        if grammar is not None and grammar.is_finished:
            return
    if grammar is not None and not grammar.is_complete:
        notice(f"{max_new_tokens} tokens did not complete the text; allow more")


def _usable(
    draft: MakeDraft | None, reader: TokenReader, notice: Callable[[str], None]
) -> MakeDraft | None:
    """Return a draft whose guesses a model can forget; of others say that it is left out."""
    if draft is None or reader.can_forget:
        return draft
    notice("a draft is left out: it helps models of attention alone")
    return None


class _Chooser:
    """How tokens are chosen from scores, and which were said."""

    def __init__(
        self,
        sampling: Sampling,
        banned: Sequence[int],
        generator: torch.Generator | None,
        words: Sequence[int],
        logits: Tensor,
    ) -> None:
        self.sampling = sampling
        self.banned = list(banned)
        self.generator = generator
        self.said: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self.said = torch.zeros_like(logits, dtype=torch.bool)
            self.say(words)

    def say(self, tokens: Sequence[int]) -> None:
        """Note what is said."""
        if self.said is not None:
            self.said[:, list(tokens)] = True

    def token(self, logits: Tensor) -> Tensor:
        """Return the next token (1,), of scores (1, V) that are changed."""
        logits[:, self.banned] = OUT
        return choose(logits, self.sampling, self.said, self.generator)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return with what probability each token comes next (B, V)."""
        logits = logits.clone()
        logits[:, self.banned] = OUT
        return probabilities_of(logits, self.sampling, self.said)

    def along(self, logits: Tensor, guesses: Sequence[int]) -> Tensor:
        """Return those of each step (G + 1, V) where ``guesses`` are said one after the other."""
        if self.said is None:
            return self.probabilities(logits)
        before = self.said.clone()
        steps: list[Tensor] = []
        for number in range(len(logits)):
            steps.append(self.probabilities(logits[number : number + 1]))
            self.say(guesses[number : number + 1])
        self.said = before
        return torch.cat(steps)


def _one_by_one(
    reader: TokenReader,
    chooser: _Chooser,
    grammar: TextGrammar | None,
    ends: Sequence[int],
    observe: Observe | None,
) -> Iterator[int]:
    """Yield tokens without end, each read when the one after it is asked for.

    A model that answers later is asked at once, so that the next token of all texts is asked for
    before the first of them needs it.
    """
    asks_early = reader.model.answers_later
    while True:
        if grammar is not None:
            allowed = grammar.allowed().to(reader.logits.device)
            reader.logits.masked_fill_(~allowed, OUT)
        token = chooser.token(reader.logits)
        if grammar is not None and int(token) not in ends:
            grammar.take(int(token))
        if observe is not None and int(token) not in ends:
            observe(reader.logits[0].float().softmax(dim=-1), int(token))
        if asks_early and int(token) not in ends:
            reader.feed(token)
        yield int(token)
        chooser.say(token.tolist())
        if not asks_early:
            reader.feed(token)


def _with_draft(
    reader: TokenReader,
    chooser: _Chooser,
    draft: Drafter,
    ends: Sequence[int],
    observe: Observe | None,
) -> Iterator[int]:
    """Yield tokens without end: those of a draft that the model keeps, and what it says itself."""

    def see(logits: Tensor, token: int) -> None:
        """Show the scores (V,) that a token was chosen by."""
        if observe is None or token in ends:
            return
        scores = logits.clone()
        scores[chooser.banned] = OUT
        observe(scores.float().softmax(dim=-1), token)

    pending = int(chooser.token(reader.logits))
    see(reader.logits[0], pending)
    yield pending
    while True:
        chooser.say([pending])
        room = min(GUESSES, reader.left - 1)
        guess = Guess([])
        if room > 0:
            recent = [*reader.recent, pending]
            guess = draft.guess(recent, room, chooser.probabilities)
        if not guess.tokens:
            reader.feed(torch.tensor([pending], device=reader.device))
            pending = int(chooser.token(reader.logits))
            see(reader.logits[0], pending)
            yield pending
            continue
        logits = reader.feed_all([pending, *guess.tokens])
        probabilities = chooser.along(logits, guess.tokens)
        kept, following = check(guess, probabilities, chooser.generator)
        for number, token in enumerate([*guess.tokens[:kept], following]):
            see(logits[number], token)
            yield token
        reader.forget(len(guess.tokens) - kept)
        chooser.say(guess.tokens[:kept])
        pending = following
