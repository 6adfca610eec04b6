"""Two inputs: an image and a question about it, a label out.

Shapes: B rows, T steps of a question, M places of an image's grid, C features of a place, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.nn import Layer, Pooling, TokenEmbedding
from unrolled.nn.attention import at_least_fp32
from unrolled.nn.attention_scores import Additive
from unrolled.nn.image_encoder import ImageEncoder
from unrolled.nn.memory import Memory

FUSIONS = ("film", "relation", "stacked", "attention", "joined")


class FiLM(nn.Module):
    """Feature-wise linear modulation of a grid by a question (Perez et al. 2018, eq. 1 and 2).

    Each block is a linear layer, then a second one whose features the question scales and shifts,
    beside a shortcut.

    Args:
        features: of a place.
        question: width of the question's vector.
        width: of the blocks.
        blocks: how many.
    """

    def __init__(
        self, features: int, question: int, width: int, blocks: int = 2
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(features, width)
        self.firsts = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.seconds = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.norms = nn.ModuleList(
            nn.LayerNorm(width, elementwise_affine=False) for _ in range(blocks)
        )
        self.modulations = nn.ModuleList(
            nn.Linear(question, 2 * width) for _ in range(blocks)
        )
        self.output_size = width

    def forward(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return one vector a row (B, width) of grids (B, M, C) and questions (B, Q)."""
        return self.modulated(grid, question).amax(1)

    def modulated(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return each place of grids (B, M, C) as questions (B, Q) change it (B, M, width)."""
        x = F.relu(self.enter(grid))
        parts = zip(
            self.firsts, self.seconds, self.norms, self.modulations, strict=True
        )
        for first, second, norm, modulation in parts:
            scale, shift = modulation(question)[:, None].chunk(2, -1)
            beside = F.relu(first(x))
            x = beside + F.relu((1 + scale) * norm(second(beside)) + shift)
        return x


class Relations(nn.Module):
    """What every pair of places says with the question (Santoro et al. 2017, eq. 1).

    A linear layer over [a; b; q] is a sum of one over each, so that the pairs are never laid side
    by side before their first layer.

    Args:
        features: of a place.
        question: width of the question's vector.
        width: of the layers over pairs.
        layers: of them.
    """

    def __init__(
        self, features: int, question: int, width: int, layers: int = 4
    ) -> None:
        super().__init__()
        self.left = nn.Linear(features, width, bias=False)
        self.right = nn.Linear(features, width, bias=False)
        self.question = nn.Linear(question, width)
        self.over_pairs = nn.ModuleList(
            nn.Linear(width, width) for _ in range(layers - 1)
        )
        self.output_size = width

    def forward(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return one vector a row (B, width) of grids (B, M, C) and questions (B, Q)."""
        left = self.left(grid) + self.question(question)[:, None]
        pairs = F.relu(left[:, :, None] + self.right(grid)[:, None])
        for layer in self.over_pairs:
            pairs = F.relu(layer(pairs))
        return pairs.mean((1, 2))


class StackedAttention(nn.Module):
    """Places looked at again and again, each time by what was read before (Yang et al. 2016, 3.3).

    A hop makes of every place and what is known h_i = relu(V relu(U [place_i; known])). Heads weigh
    the places by softmax_i(w h_i) and read the sums of h_i; what they read, and the mean of h_i,
    which counts, is added to what is known. So "the object closest to the red one" takes two hops,
    where relations of all pairs of places take as many steps as there are pairs.

    Args:
        features: of a place.
        question: width of the question's vector.
        width: of the layers of a hop.
        hops: how many.
        heads: of each, which divide ``width``.
    """

    def __init__(
        self,
        features: int,
        question: int,
        width: int,
        hops: int = 3,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(question, width)
        self.positions = nn.ModuleList(
            nn.Linear(features, width, bias=False) for _ in range(hops)
        )
        self.known = nn.ModuleList(nn.Linear(width, width) for _ in range(hops))
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(hops))
        self.scores = nn.ModuleList(
            nn.Linear(width, heads, bias=False) for _ in range(hops)
        )
        self.read = nn.ModuleList(
            nn.Linear((heads + 1) * width, width) for _ in range(hops)
        )
        self.output_size = width

    def forward(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return one vector a row (B, width) of grids (B, M, C) and questions (B, Q)."""
        known = self.enter(question)
        hops = zip(
            self.positions, self.known, self.hidden, self.scores, self.read, strict=True
        )
        for at_position, before, hidden, scores, read in hops:
            first = F.relu(at_position(grid) + before(known)[:, None])
            second = F.relu(hidden(first))
            weights = at_least_fp32(scores(second)).softmax(1).to(second.dtype)
            attended = (weights.transpose(1, 2) @ second).flatten(1)
            both = torch.cat([attended, second.mean(1)], 1)
            known = known + F.relu(read(both))
        return known


class Looking(nn.Module):
    """A weighed sum of the places, by what the question looks for (Bahdanau et al. 2015)."""

    def __init__(
        self,
        features: int,
        question: int,
        width: int,
    ) -> None:
        super().__init__()
        self.attend = Additive(question, features, width)
        self.output_size = features + question

    def forward(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return one vector a row (B, C + Q) of grids (B, M, C) and questions (B, Q)."""
        keys = self.attend.keys(grid)[:, None]
        lengths = torch.full(
            (len(grid),),
            grid.shape[1],
            device=grid.device,
        )
        memory = Memory.of([keys], [grid[:, None]], lengths)
        context, _ = self.attend(question, memory)
        return torch.cat([context, question], 1)


class Joined(nn.Module):
    """The mean of the grid and the question side by side: what the others are compared with."""

    def __init__(self, features: int, question: int) -> None:
        super().__init__()
        self.output_size = features + question

    def forward(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return one vector a row (B, C + Q) of grids (B, M, C) and questions (B, Q)."""
        return torch.cat([grid.mean(1), question], 1)


class Asking(nn.Module):
    """What reads an image, what reads a question, and what answers from both.

    Args:
        source: what makes a grid of an image.
        embedding: of the question's pieces.
        layer: any layer over them, in one or both directions.
        pooling: how its steps become one vector.
        outputs: number of answers.
        fusion: film, relation, stacked, attention or joined.
        width: of the fusion and of the layer before the output weights.
        dropout: before the output weights.

    Raises:
        ValueError: an unknown fusion.
    """

    def __init__(
        self,
        source: ImageEncoder,
        embedding: TokenEmbedding,
        layer: Layer,
        pooling: Pooling,
        outputs: int,
        fusion: str = "film",
        width: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(
                f"expected a fusion out of {', '.join(FUSIONS)}, got {fusion!r}"
            )
        self.source = source
        self.embedding = embedding
        self.layer = layer
        self.pooling = pooling
        features = source.output_size
        question = pooling.output_size
        self.fusion: FiLM | Relations | StackedAttention | Looking | Joined
        if fusion == "film":
            self.fusion = FiLM(features, question, width)
        elif fusion == "relation":
            self.fusion = Relations(features, question, width)
        elif fusion == "stacked":
            self.fusion = StackedAttention(features, question, width)
        elif fusion == "attention":
            self.fusion = Looking(features, question, width)
        else:
            self.fusion = Joined(features, question)
        self.before = nn.Linear(self.fusion.output_size, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    def forward(
        self,
        tokens: Tensor,
        lengths: Tensor | None,
        images: Tensor,
        owners: Tensor | None = None,
    ) -> Tensor:
        """Return the scores of answers (B, O).

        Args:
            tokens: ids of questions (B, T).
            lengths: real ones of each (B,).
            images: bytes (I, 3, H, W), or features (I, M, C).
            owners: the image that each question is about (B,); None where there are as many.
        """
        steps = self.layer.read(self.embedding(tokens), lengths)
        question = self.pooling(steps, lengths)
        grid = self.source(images)
        if owners is not None:
            grid = grid[owners]
        fused = self.fusion(grid, question)
        return self.head(self.dropout(F.relu(self.before(fused))))
