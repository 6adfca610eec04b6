"""Images that captions are written for, and what captions earn that a model draws as it learns.

Shapes: I images of a batch, R captions, T pieces of a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.data.batches import IGNORED, Batch, random
from unrolled.data.examples import Images, Ints, Ragged
from unrolled.decoding.search import Hypothesis
from unrolled.decoding.settings import Search
from unrolled.scores.captions import CiderD
from unrolled.tasks.writing import SourceBatches, write
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.precision import ComputeDevice

# a word that no caption has: one that breaks off does not earn what its end would
END_WORD = "endofcaption"


class ImageSources(SourceBatches):
    """Images that captions are written for."""

    def __init__(self, images: Images) -> None:
        self.images = images

    @property
    def lengths(self) -> Ints:
        """One step each, (I,)."""
        return np.ones(len(self.images.rows), dtype=np.int64)

    def take(self, rows: Ints, pad: int) -> tuple[Tensor, Tensor]:
        """Return images by their row, and ones (B,)."""
        return self.images.take(rows), torch.ones(len(rows), dtype=torch.int64)


@dataclass(frozen=True)
class CaptionRewards:
    """Draws captions for the images of batches, and scores them (Rennie et al. 2017).

    Attributes:
        model: what writes; it is in training.
        tokenizer: of captions.
        longest: the most pieces of a caption, its end mark included.
        scorer: of captions by image.
        images: the image of each row of the data.
        compute_device: where the model computes.
    """

    model: nn.Module
    tokenizer: Tokenizer
    longest: int
    scorer: CiderD
    images: Ints
    compute_device: ComputeDevice

    def roll_out(self, batch: Batch, seed: int) -> Batch:
        """Return a batch with as many captions of each image as it has, drawn by the model.

        Each earns its CIDEr-D among the right captions of its image, and is compared with the
        caption that the model writes greedily.
        """
        (owners,) = batch.extra
        counts = np.bincount(
            owners.numpy(),
            minlength=len(batch.inputs),
        )
        search = Search(beam=1, max_length=self.longest, max_extra=self.longest)
        settings = search.changed(sample=True, n_best=int(counts.max()))
        self.model.eval()
        try:
            greedy = self._write(batch.inputs, search)
            drawn = self._write(batch.inputs, settings, seed)
        finally:
            self.model.train()
        generator = random(seed)
        chosen: list[Hypothesis] = []
        for captions, count in zip(drawn, counts.tolist(), strict=True):
            # they come best first: the first ones would be no fair draw
            order = generator.permutation(len(captions))[:count]
            chosen += [captions[index] for index in order]
        firsts = np.cumsum(counts) - counts
        rows = self.images[batch.rows]
        earned = self._rewards(chosen, rows)
        compared = self._rewards(
            [best[0] for best in greedy],
            rows[firsts],
        )
        rewards = np.stack([earned, compared[owners.numpy()]], 1)
        targets, _ = Ragged.of([self._ids(caption) for caption in chosen]).take(
            np.arange(len(chosen)), IGNORED
        )
        return replace(
            batch, targets=targets, rewards=torch.from_numpy(rewards).float()
        )

    def _write(
        self,
        images: Tensor,
        settings: Search,
        seed: int | None = None,
    ) -> list[list[Hypothesis]]:
        device = next(self.model.parameters()).device
        return write(
            self.model,
            self.tokenizer,
            ImageSources(
                Images(
                    images.numpy(),
                    np.arange(len(images)),
                )
            ),
            settings,
            replace(self.compute_device, device=device),
            seed=seed,
        )

    def _ids(self, caption: Hypothesis) -> list[int]:
        end = [self.tokenizer.eos_id] if caption.finished else []
        return [*caption.tokens, *end]

    def _rewards(
        self, captions: Sequence[Hypothesis], rows: Ints
    ) -> NDArray[np.float64]:
        texts = []
        for caption in captions:
            text = self.tokenizer.decode(list(caption.tokens))
            texts.append(f"{text} {END_WORD}" if caption.finished else text)
        return self.scorer.scores(texts, rows.tolist())


def reward_of(
    images: Images,
    references: Sequence[str],
) -> CiderD:
    """Return what scores captions of I images, of whose rows these are the right captions.

    Raises:
        ValueError: an image has none.
    """
    return CiderD(
        [
            [f"{references[row]} {END_WORD}" for row in rows]
            for rows in images.by_image()
        ]
    )
