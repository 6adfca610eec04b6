"""Vectors for words from a vocabulary and from how they are spelt.

Shapes: B rows, T words a row, U distinct words of a batch, C pieces of a word, D and S features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.nn.embedding import TokenEmbedding
from unrolled.nn.ngrams import NGrams
from unrolled.nn.pooling import Pooling
from unrolled.nn.recurrent import LSTM

GROUP = 128
BUCKETS = 2**16


class SpelledWords(nn.Module):
    """A word's own vector, what an LSTM in both directions reads of its pieces, and n-grams.

    Half of the words of a new text were seen once or never; their endings still tell what they
    are (Ling et al. 2015; Plank et al. 2016). An n-gram of pieces has a vector too, so that a
    frequent ending is learnt from few examples (Bojanowski et al. 2017). Each distinct word of a
    batch is read once.

    Args:
        words: the vectors of known words, (B, T) -> (B, T, D).
        pieces: how many different pieces words are spelt with.
        width: S, of a piece's vector, of the LSTM in each direction, and of an n-gram's vector.
        ngrams: pieces in the longest n-gram; 0 reads none.
        ngram_dropout: probability that an n-gram is left out.
        dropout: on what was read of the pieces.
        std: spread of the pieces' first vectors.

    Attributes:
        width: D + 2 S, or D + 3 S with n-grams.
    """

    def __init__(
        self,
        words: TokenEmbedding,
        pieces: int,
        width: int,
        ngrams: int = 0,
        ngram_dropout: float = 0.0,
        dropout: float = 0.0,
        std: float = 0.1,
    ) -> None:
        super().__init__()
        self.words = words
        self.pieces = TokenEmbedding(pieces, width, std=std)
        self.layer = LSTM(width, width, bidirectional=True)
        self.pooling = Pooling("last", self.layer.output_size, self.layer.reverse_size)
        self.ngrams = NGrams(ngrams, width, BUCKETS, ngram_dropout) if ngrams else None
        self.dropout = nn.Dropout(dropout)
        self.width = words.width + self.pooling.output_size + (width if ngrams else 0)

    def forward(
        self, tokens: Tensor, pieces: Tensor, counts: Tensor, indices: Tensor
    ) -> Tensor:
        """Return (B, T, ``width``).

        Args:
            tokens: the words' ids in the vocabulary (B, T).
            pieces: ids of the pieces of each distinct word (U, C), padded at the right.
            counts: how many of them are real (U,).
            indices: which of the distinct words each word is (B, T).
        """
        order = counts.argsort(stable=True)
        # words of like length are read together: one long word would have all padded to its length
        rest = len(order) % GROUP
        full = len(order) // GROUP
        groups = order.split([*([rest] if rest else []), *[GROUP] * full])
        read = [self._read(pieces[group], counts[group]) for group in groups]
        spelt = torch.cat(read)[order.argsort()]
        if self.ngrams is not None:
            spelt = torch.cat([spelt, self.ngrams(pieces, counts)], -1)
        spelt = self.dropout(spelt)
        return torch.cat([self.words(tokens), spelt[indices]], -1)

    def _read(self, pieces: Tensor, counts: Tensor) -> Tensor:
        """Return what the LSTM reads of each word (U, 2 S)."""
        steps = self.layer.read(self.pieces(pieces[:, : int(counts.max())]), counts)
        return self.pooling(steps, counts)
