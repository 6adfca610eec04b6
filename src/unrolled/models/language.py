"""Language model: the aligned pattern with targets shifted by one; over attention, a GPT."""

from __future__ import annotations

from torch import Tensor, nn

from unrolled.core.errors import UsageError
from unrolled.models.batched import Batched, JoinedTexts, TextPool
from unrolled.nn import Forms, Layer, State, TokenEmbedding
from unrolled.nn.dropout import Dropout
from unrolled.nn.packed_model import TransformerParts
from unrolled.nn.paged_texts import PagedTexts
from unrolled.nn.stepper import why_not_native
from unrolled.nn.stream import Stream
from unrolled.nn.streaming import open_model_stream, parts_class


class LanguageModel(Forms):
    """Embedding, a causal layer, and scores of the next token at every step.

    Args:
        embedding: token ids to vectors.
        layer: any causal layer.
        vocabulary: number of tokens.
        dropout: before the output weights.
        tie: use the embedding as output weights (Press and Wolf 2017); needs equal widths.
        bias: of the output weights.
        valued: whether it says, too, what is to be earned from each step on (``value``), for a
            training by rewards; writing does not ask for it.

    Raises:
        ValueError: the layer is not causal, or the widths do not allow ``tie``.
    """

    forms = ("read", "read_documents", "read_prompt", "read_prompts", "step")
    reads_prompts_whole = False
    answers_later = False

    def __init__(
        self,
        embedding: TokenEmbedding,
        layer: Layer,
        vocabulary: int,
        dropout: float = 0.0,
        tie: bool = False,
        bias: bool = True,
        valued: bool = False,
    ) -> None:
        super().__init__()
        if not layer.causal:
            raise ValueError(
                "a language model reads from left to right; set model.bidirectional=false"
            )
        self.embedding = embedding
        self.layer = layer
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(layer.output_size, vocabulary, bias)
        if tie:
            if embedding.weight.shape[1] != layer.output_size:
                raise ValueError(
                    f"model.tie needs the embedding ({embedding.weight.shape[1]}) as wide as the "
                    f"layer's output ({layer.output_size}); set model.embedding={layer.output_size}"
                )
            self.head.weight = embedding.weight
        if valued:
            self.value = nn.Linear(layer.output_size, 1)
            # nothing is expected before anything was earned
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)

    @property
    def context(self) -> int | None:
        """Positions the model can read; None is no limit."""
        return self.layer.context

    def initial_state(self, batch: int) -> State:
        """Return the state before a text, for ``batch`` rows."""
        return self.layer.initial_state(batch)

    def read(
        self, tokens: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read tokens (B, T): what ``head`` turns into scores (B, T, D), and the state."""
        return self._read(tokens, state, lengths)

    def _read(
        self, tokens: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        steps, state = self.layer.unroll(self.embedding(tokens), state, lengths)
        return self.dropout(steps), state

    def read_documents(
        self, tokens: Tensor, starts: Tensor | None, state: State | None, carry: bool
    ) -> tuple[Tensor, State | None]:
        """Read rows of several documents, none of which sees another; see :class:`Layer`.

        Where no state is wanted, none is made: attention keeps no keys and values.

        Args:
            tokens: (B, T).
            starts: bool (B, T), true where a document begins; None: each row is of one.
            state: what the first step of each row goes on from; None at the start.
            carry: whether the state afterwards is wanted.

        Returns:
            What ``head`` turns into scores (B, T, D), and the state.
        """
        vectors = self.embedding(tokens)
        after: State | None = None
        if carry or state is not None:
            if starts is None:
                steps, after = self.layer.unroll(vectors, state)
            else:
                steps, after = self.layer.unroll_documents(vectors, starts, state)
        elif starts is None:
            steps = self.layer.read(vectors)
        else:
            steps = self.layer.read_documents(vectors, starts)
        return self.dropout(steps), after

    def forward(
        self, tokens: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read tokens (B, T): scores of each next token (B, T, V), and the state."""
        steps, state = self._read(tokens, state, lengths)
        return self.head(steps), state

    def unroll(
        self, tokens: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run the model, its hooks included."""
        scores: tuple[Tensor, State] = self(tokens, state, lengths)
        return scores

    def read_prompt(
        self, tokens: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Read tokens (B, T): scores of the next (B, V), and the state."""
        steps, state = self.read(tokens, state)
        return self.head(steps[:, -1]), state

    def read_prompts(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Read prompts of ``lengths`` (B,), padded to (B, T): scores of the next, and the state."""
        steps, state = self.read(tokens, None, lengths)
        last = (lengths - 1)[:, None, None].expand(-1, 1, steps.shape[-1])
        return self.head(steps.gather(1, last)[:, 0]), state

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row (B,): scores of the next (B, V), and the state."""
        output, state = self.layer.step(self.embedding(tokens), state)
        return self.head(self.dropout(output)), state

    def operations_per_token(self, steps: int) -> int:
        """Return the operations of training on one token, in windows of ``steps``.

        Two for each multiplication forward and four backward: 6 N for N weights of products, and
        12 L W T for L blocks of attention of width W over T steps (Chowdhery et al. 2022, appendix
        B), of which a causal mask needs half. Tables that are looked up, biases and norms count
        nothing. A frozen weight needs four, since it has no gradient itself.
        """
        tables: set[int] = set()
        for module in self.modules():
            if isinstance(module, nn.Embedding | TokenEmbedding):
                tables.add(id(module.weight))
        # tied, it is the output weights, too
        tables.discard(id(self.head.weight))
        operations = 6 * self.layer.mixing_products(steps)
        for weight in self.parameters():
            if weight.dim() > 1 and id(weight) not in tables:
                operations += (6 if weight.requires_grad else 4) * weight.numel()
        return operations

    def stream(self, batch: int = 1, precision: str = "float32") -> Stream:
        """Return what reads token ids (B,) and gives scores (B, V); see :meth:`Layer.stream`."""
        return open_model_stream(self, LanguageModel, batch, precision)

    def stepper(self, precision: str = "float32") -> LanguageModel | Streamed:
        """Return what says what this model says and steps faster, for one text at a time.

        That is the model itself while it trains, and where the native core cannot step it.

        Args:
            precision: of the weights; see :meth:`Layer.stream`.

        Raises:
            UsageError: there is no such precision, or no step in it.
        """
        return Streamed(self, precision) if self._steps_natively(precision, 1) else self

    def batched(self, precision: str = "float32") -> Batched:
        """Return what steps many texts at once, each at its own length.

        Args:
            precision: of the weights; see :meth:`Layer.stream`.

        Raises:
            UsageError: there is no such precision, or no step in it.
        """
        path = "torch"
        if self._steps_natively(precision, 2):
            in_pages = parts_class(self.layer) is TransformerParts
            path = "pages" if in_pages else "native"

        def open_pool() -> TextPool:
            if path == "pages":
                parts = TransformerParts.of_model(self, LanguageModel)
                return PagedTexts(parts, precision)
            stepper = self if path == "torch" else Streamed(self, precision)
            return JoinedTexts(stepper, self.head.weight.device)

        return Batched(
            open_pool,
            self.context,
            precision,
            path,
        )

    def _steps_natively(self, precision: str, rows: int) -> bool:
        """Say whether the native core steps so many rows. Raises UsageError: see ``stepper``."""
        parts = parts_class(self.layer).of_model(self, LanguageModel)
        if precision not in parts.precisions:
            known = ", ".join(parts.precisions)
            raise UsageError(f"precision is {precision}; choose out of {known}")
        reason = why_not_native(parts, rows)
        if reason is None and self.training:
            reason = "the model is in training"
        if reason is not None and precision != "float32":
            raise UsageError(f"no step with weights in {precision}: {reason}")
        return reason is None


class Streamed:
    """A language model in evaluation that steps through a stream, packed at the first step.

    What ``step`` returned, scores and state alike, is overwritten by the next one.
    """

    answers_later = False

    def __init__(self, model: LanguageModel, precision: str = "float32") -> None:
        self.model = model
        self.precision = precision
        self.context = model.context
        self._stream: Stream | None = None
        self._rows = 0

    def read_prompt(
        self, tokens: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Read tokens (B, T): scores of the next (B, V), and the state."""
        stream = self._stream_for(len(tokens))
        if not stream.reads_chunks:
            return self.model.read_prompt(tokens, state)
        if state is None:
            return stream.begin(tokens), stream.state
        self._go_on(stream, state)
        return stream.read(tokens), stream.state

    def unroll(
        self, tokens: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Read tokens (B, T): scores (B, T, V), and the state."""
        stream = self._stream_for(len(tokens))
        if not stream.reads_chunks:
            return self.model.unroll(tokens, state)
        if state is None:
            stream.reset()
        else:
            self._go_on(stream, state)
        return stream.read_each(tokens), stream.state

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row (B,): scores of the next (B, V) and the state."""
        stream = self._stream_for(len(tokens))
        self._go_on(stream, state)
        return stream.step(tokens), stream.state

    @property
    def reads_prompts_whole(self) -> bool:
        """Whether memory stays bounded however long a prompt is that is read at once."""
        return self._stream_for(1).reads_chunks

    def _stream_for(self, rows: int) -> Stream:
        stream = self._stream
        if stream is None or self._rows != rows:
            stream = self.model.stream(rows, self.precision)
            self._rows = rows
            self._stream = stream
        return stream

    @staticmethod
    def _go_on(stream: Stream, state: State) -> None:
        # the state of the step before is the stream's own: there is nothing to load
        if state is not stream.state:
            stream.load(state)
