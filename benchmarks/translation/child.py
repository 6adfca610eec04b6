"""One search in a process of its own: ``python -m benchmarks.translation.child RUN BEAM LENGTH``.

Prints as a JSON object what the peak of the resident memory adds to what stood before, while 32
sources are answered by exactly so many tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

import torch

from benchmarks.layers.child import status
from benchmarks.translation.decoding import ROWS
from unrolled.decoding.search import search
from unrolled.decoding.settings import Search
from unrolled.models import Unaligned
from unrolled.models.encoder_decoder import Steps
from unrolled.run import load
from unrolled.text.tokenizers import BOS, EOS

WORDS = 20  # tokens of a source


@torch.inference_mode()
def answer(steps: Steps, beam: int, length: int, vocabulary: int) -> None:
    """Write so many tokens for each of some random sources."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, vocabulary, (ROWS, WORDS), generator=draw)
    ids[:, -1] = EOS
    state = steps.start(ids, torch.full((ROWS,), WORDS))
    settings = Search(beam=beam, min_length=length - 1, max_length=length)
    translations = search(
        steps, state, settings, start=BOS, end=EOS, limits=[length] * ROWS
    )
    assert all(len(hypotheses[0].tokens) >= length - 1 for hypotheses in translations)


def main() -> None:
    """Do what the command line says."""
    folder = sys.argv[1]
    beam = int(sys.argv[2])
    length = int(sys.argv[3])
    model = cast(Unaligned, load(folder, "cpu").model)
    steps = model.stepper()
    vocabulary = model.head.out_features
    answer(
        steps, 1, 4, vocabulary
    )  # what every process loads once is no memory of a search
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew here
    before = status("VmRSS")
    answer(steps, beam, length, vocabulary)
    print(json.dumps({"added": status("VmHWM") - before}))


if __name__ == "__main__":
    main()
