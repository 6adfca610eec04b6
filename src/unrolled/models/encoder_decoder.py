"""A decoder that writes a sequence from a memory, whatever made it: text, image, label.

Shapes: S sources, M steps of a source, T target steps, B rows of a search, V outputs, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, cast

from torch import Tensor, nn

from unrolled.nn import Attention, Forms, RecurrentDecoder, TokenEmbedding
from unrolled.nn.decoding import DecoderParts, NativeDecoder
from unrolled.nn.dropout import Dropout
from unrolled.nn.forms import unlike
from unrolled.nn.memory import DecoderState
from unrolled.nn.state import State
from unrolled.nn.stepper import why_not_native


class Steps(Protocol):
    """What a search asks of a model."""

    def start(self, source: Tensor, lengths: Tensor, *extra: Tensor) -> State:
        """Read sources (S, M) of real lengths (S,); return the state before the first step."""
        ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token a row (B,); return scores of the next (B, V) and the state."""
        ...


class EncoderDecoder(Forms):
    """What reads a source, and a decoder tied to it by the memory that it looks at.

    Args:
        source: what turns sources into vectors.
        encoder: what makes of these the memory that the decoder looks at.
        target: token ids to vectors; it may know more ids than are written.
        decoder: a layer with ``attend``.
        outputs: V.
        dropout: before the output weights.
        tie: use the first V target vectors as output weights (Press and Wolf 2017).
        bias: of the output weights.

    Raises:
        ValueError: the widths do not allow ``tie``.
    """

    forms = ("step", "step_attending", "read")

    def __init__(
        self,
        source: nn.Module,
        encoder: nn.Module,
        target: TokenEmbedding,
        decoder: Attention | RecurrentDecoder,
        outputs: int,
        dropout: float = 0.0,
        tie: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.source = source
        self.encoder = encoder
        self.target = target
        self.decoder = decoder
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(decoder.output_size, outputs, bias)
        if tie:
            if target.weight.shape != self.head.weight.shape:
                raise ValueError(
                    f"model.tie needs a target embedding of shape {tuple(self.head.weight.shape)}, "
                    f"as the output weights, got {tuple(target.weight.shape)}; set model.embedding="
                    f"{decoder.output_size}, or model.tie=false"
                )
            self.head.weight = target.weight

    @property
    def embedding(self) -> nn.Module:
        """What turns sources into vectors."""
        return self.source

    @property
    def limit(self) -> int | None:
        """The most steps a source may have, its end mark included; None is no limit."""
        return None

    @property
    def longest(self) -> int | None:
        """The most tokens that can be written; None is no limit."""
        return self.decoder.context

    @property
    def attends(self) -> bool:
        """Whether the decoder looks back at its source, so that there is an alignment."""
        return isinstance(self.decoder, Attention) or self.decoder.attend_to is not None

    @abstractmethod
    def start(self, source: Tensor, lengths: Tensor, *extra: Tensor) -> DecoderState:
        """Read sources; return the state before the first step, a row a source."""

    @abstractmethod
    def plain(self) -> type[EncoderDecoder]:
        """Return the class whose steps the native core knows, of which this is to be one."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row (B,): scores of the next (B, V), and the state."""
        output, state = self.decoder.step(self.target(tokens), state)
        return self.head(self.dropout(output)), state

    def step_attending(
        self, tokens: Tensor, state: State
    ) -> tuple[Tensor, State, Tensor]:
        """Return what ``step`` does, and where each row looks in its source (B, M)."""
        attention_weights: list[Tensor] = []  # of every block
        inputs = self.target(tokens)[:, None]
        decoder_state = cast(DecoderState, state)
        outputs, state = self.decoder.unroll_attending(
            inputs, decoder_state, None, attention_weights
        )
        scores = self.head(self.dropout(outputs[:, 0]))
        return scores, state, self.decoder.alignment(attention_weights)[:, 0]

    def read(
        self, source: Tensor, lengths: Tensor, inputs: Tensor, *extra: Tensor
    ) -> Tensor:
        """Return what ``head`` turns into scores (S, T, D), where the true tokens are read.

        Args:
            source, lengths, extra: see ``start``.
            inputs: the tokens that stand before those to be written (S, T); padding may follow.
        """
        return self._read(source, lengths, inputs, *extra)

    def _read(
        self, source: Tensor, lengths: Tensor, inputs: Tensor, *extra: Tensor
    ) -> Tensor:
        state = self.start(source, lengths, *extra)
        return self.dropout(self.decoder.unroll(self.target(inputs), state)[0])

    def forward(
        self, source: Tensor, lengths: Tensor, inputs: Tensor, *extra: Tensor
    ) -> Tensor:
        """Return scores (S, T, V); see ``read``."""
        return self.head(self._read(source, lengths, inputs, *extra))

    def align(
        self, source: Tensor, lengths: Tensor, inputs: Tensor, *extra: Tensor
    ) -> Tensor:
        """Return where each step looks in its source (S, T, M): attention, the mean over heads.

        Raises:
            ValueError: the decoder has no attention.
        """
        attention_weights: list[Tensor] = []  # of every block
        state = self.start(source, lengths, *extra)
        self.decoder.unroll_attending(
            self.target(inputs), state, None, attention_weights
        )
        return self.decoder.alignment(attention_weights)

    def stepper(self) -> Steps:
        """Return what says what this model says and may step faster, in evaluation.

        That is the model itself where the native core cannot step its decoder.
        """
        parts = DecoderParts(self.target, self.decoder, self.head)
        changed = unlike(self, self.plain()) or unlike(self.dropout, Dropout)
        if self.training or changed or why_not_native(parts) is not None:
            return self
        return Native(self, parts)


class Native:
    """A model in evaluation whose decoder is stepped by the native core, packed when it is made.

    It says what the model says, but for the last bits. One is for one thread at a time.
    """

    def __init__(self, model: EncoderDecoder, parts: DecoderParts) -> None:
        self.model = model
        self.start = model.start
        decoder = NativeDecoder(parts)
        self.step = decoder.step
        self.best = decoder.best
        self.step_attending = model.step_attending
