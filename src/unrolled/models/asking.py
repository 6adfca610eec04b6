"""Two inputs: an image and a question about it, a label out.

Shapes: B rows, T steps of a question, M places of an image's grid, C features of a place, H width.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.nn import Layer, Pooling, TokenEmbedding
from unrolled.nn.attention import at_least_fp32
from unrolled.nn.attention_scores import Additive
from unrolled.nn.convolution import BatchNorm
from unrolled.nn.image_encoder import ImageEncoder
from unrolled.nn.memory import Memory

FUSIONS = ("film", "relation", "hops", "attention", "joined")


class Fusion(nn.Module):
    """How an image and a question about it come together.

    Attributes:
        output_size: width of the vector.
    """

    output_size: int

    def prepare(self, grid: Tensor) -> Tensor:
        """Return what can be said of grids (I, M, C) before there is a question (I, M, D)."""
        return grid

    @abstractmethod
    def forward(self, grid: Tensor, question: Tensor) -> Tensor:
        """Return one vector a row (B, output_size).

        Args:
            grid: of each row, as ``prepare`` returns it (B, M, D).
            question: its vector (B, Q).
        """


class FiLM(Fusion):
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

    def prepare(self, grid: Tensor) -> Tensor:
        """Return what blocks begin from (I, M, width) of grids (I, M, C)."""
        return F.relu(self.enter(grid))

    def forward(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return one vector a row (B, width); see the base class."""
        return self.modulated(grid, question).amax(1)

    def modulated(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return each place of prepared grids (B, M, width) as questions (B, Q) change it."""
        x = grid
        parts = zip(
            self.firsts, self.seconds, self.norms, self.modulations, strict=True
        )
        for first, second, norm, modulation in parts:
            scale, shift = modulation(question)[:, None].chunk(2, -1)
            beside = F.relu(first(x))
            x = beside + F.relu((1 + scale) * norm(second(beside)) + shift)
        return x


class Relations(Fusion):
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
        """Return one vector a row (B, width); see the base class."""
        left = self.left(grid) + self.question(question)[:, None]
        pairs = F.relu(left[:, :, None] + self.right(grid)[:, None])
        for layer in self.over_pairs:
            pairs = F.relu(layer(pairs))
        return pairs.mean((1, 2))


class MultiHop(Fusion):
    """An image looked at again and again, each time by what was read before.

    Stacked attention (Yang et al. 2016, 3.3) by scaled products (Vaswani et al. 2017, eq. 1). Each
    place has a key k and a value v, the same for all questions about its image. In a hop
    values are scaled, v' = v (1 + S known), which compares them with the question. Every head makes
    of what is known a query q = N(Q known), and reads the sum of v' weighed by
    softmax(2 q k / sqrt(K)), and how large the scores are: the largest one, and the mean over
    all places of what they are above 0, which counts. All heads together, and the largest v', add
    relu(R [...]) to what is known. So "the object closest to the red one" takes two hops, where
    relations of all pairs of places take as many steps as there are pairs.

    N scales queries and keys to mean 0 and deviation 1 (Henry et al. 2020). Without it scores begin
    near 0 and all heads read the mean of the image. Keys stand one layer above the grid: with
    another between them objects were not told by their colour (docs/log.md). The question is scaled
    over the batch (Ioffe and Szegedy 2015): what all questions have in common drowns the word that
    tells two apart.

    Args:
        features: of a place.
        question: width of the question's vector.
        width: of what is known, and of a value.
        hops: how many.
        heads: of each.
        key_size: K.
    """

    def __init__(
        self,
        features: int,
        question: int,
        width: int,
        hops: int = 3,
        heads: int = 8,
        key_size: int = 16,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.key_size = key_size
        self.key = nn.Linear(features, key_size)
        self.value = nn.Linear(features, width)
        self.norm = BatchNorm(question)
        self.question = nn.Linear(question, width)
        self.queries = nn.ModuleList(
            nn.Linear(width, heads * key_size) for _ in range(hops)
        )
        self.scales = nn.ModuleList(nn.Linear(width, width) for _ in range(hops))
        self.reads = nn.ModuleList(
            nn.Linear(heads * (width + 2) + width, width) for _ in range(hops)
        )
        self.output_size = width

    def prepare(self, grid: Tensor) -> Tensor:
        """Return keys and values of places (I, M, K + width) of grids (I, M, C)."""
        keys = F.layer_norm(self.key(grid), (self.key_size,))
        return torch.cat([keys, F.relu(self.value(grid))], -1)

    def forward(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return one vector a row (B, width); see the base class."""
        keys, values = grid.split([self.key_size, self.output_size], -1)
        normed = self.norm(question[:, :, None, None])[:, :, 0, 0]
        known = self.question(normed)
        hops = zip(self.queries, self.scales, self.reads, strict=True)
        for to_queries, scale, read in hops:
            queries = to_queries(known).unflatten(-1, (self.heads, self.key_size))
            queries = F.layer_norm(queries, (self.key_size,))
            products = queries @ keys.transpose(1, 2)
            scores = at_least_fp32(products) * (2 / math.sqrt(self.key_size))
            scaled = values * (1 + scale(known))[:, None]
            attended = scores.softmax(-1).to(scaled.dtype) @ scaled
            sizes = [scores.amax(-1), F.relu(scores).mean(-1)]
            seen = torch.cat([attended.flatten(1), scaled.amax(1), *sizes], 1)
            known = known + F.relu(read(seen))
        return known


class Looking(Fusion):
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
        """Return one vector a row (B, C + Q); see the base class."""
        keys = self.attend.keys(grid)[:, None]
        lengths = torch.full(
            (len(grid),),
            grid.shape[1],
            device=grid.device,
        )
        memory = Memory.of([keys], [grid[:, None]], lengths)
        context, _ = self.attend(question, memory)
        return torch.cat([context, question], 1)


class Joined(Fusion):
    """The mean of the grid and the question side by side: what the others are compared with."""

    def __init__(self, features: int, question: int) -> None:
        super().__init__()
        self.output_size = features + question

    def forward(
        self,
        grid: Tensor,
        question: Tensor,
    ) -> Tensor:
        """Return one vector a row (B, C + Q); see the base class."""
        return torch.cat([grid.mean(1), question], 1)


class Asking(nn.Module):
    """What reads an image, what reads a question, and what answers from both.

    Args:
        source: what makes a grid of an image.
        embedding: of the question's pieces.
        layer: any layer over them, in one or both directions.
        pooling: how its steps become one vector.
        outputs: number of answers.
        fusion: film, relation, hops, attention or joined.
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
        self.fusion: Fusion
        if fusion == "film":
            self.fusion = FiLM(features, question, width)
        elif fusion == "relation":
            self.fusion = Relations(features, question, width)
        elif fusion == "hops":
            self.fusion = MultiHop(features, question, width)
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
        grid = self.fusion.prepare(self.source(images))
        if owners is not None:
            grid = grid[owners]
        fused = self.fusion(grid, question)
        return self.head(self.dropout(F.relu(self.before(fused))))
