"""Beam search writes what the search of transformers writes, of the same model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import pytest
import torch
from torch import Tensor

from unrolled.decoding.search import Search, search

transformers = pytest.importorskip("transformers")

BOS = 0
EOS = 2
V = 23
LIMIT = 12


@dataclass
class Texts:
    """What each row has read, and its source."""

    tokens: Tensor
    source: Tensor

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        return type(self)(self.tokens[rows], self.source[rows])


@dataclass
class Whole:
    """Reads everything anew at each step."""

    model: Any
    sources: Tensor

    def step(self, tokens: Tensor, state: Texts) -> tuple[Tensor, Texts]:
        read = torch.cat([state.tokens, tokens[:, None]], 1)
        said = self.model(input_ids=self.sources[state.source], decoder_input_ids=read)
        return said.logits[:, -1], Texts(read, state.source)


def tiny(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))
    }
    config = transformers.BartConfig(
        vocab_size=V,
        d_model=16,
        max_position_embeddings=32,
        pad_token_id=1,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
        init_std=0.7,
        **sizes,
    )
    model = transformers.BartForConditionalGeneration(config).double().eval()
    model.final_logits_bias[:, EOS] = 6.0  # so that some end, some do not
    return model


@pytest.mark.parametrize(("stopping", "patience"), [(True, 1.0), ("never", None)])
@pytest.mark.parametrize("beam", [2, 5])
def test_the_same_hypotheses(beam: int, stopping: Any, patience: float | None) -> None:
    """Without length penalty: the other's is of another form."""
    ended = cut = 0
    for seed in range(3):
        model = tiny(seed)
        sources = torch.randint(3, V, (4, 7))
        with torch.no_grad():
            theirs = model.generate(
                sources,
                num_beams=beam,
                num_return_sequences=beam,
                early_stopping=stopping,
                length_penalty=0.0,
                max_new_tokens=LIMIT,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
            )
        ours = search(
            Whole(model, sources),
            Texts(torch.zeros(4, 0, dtype=torch.int64), torch.arange(4)),
            Search(beam=beam, n_best=beam, length_penalty=0.0, patience=patience),
            start=BOS,
            end=EOS,
            limits=[LIMIT] * 4,
        )
        expected = {}
        for row, score in zip(theirs.sequences, theirs.sequences_scores, strict=True):
            tokens = row[1:].tolist()
            tokens = tokens[: tokens.index(EOS)] if EOS in tokens else tokens
            expected[len(expected)] = (tokens, float(score))
        for source, answers in enumerate(ours):
            # theirs are sorted by score alone
            by_score = sorted(answers, key=lambda answer: -answer.score)
            for rank, answer in enumerate(by_score):
                tokens, score = expected[source * beam + rank]
                assert answer.tokens == tokens
                assert answer.score == pytest.approx(
                    score, abs=1e-5
                )  # they add up in fp32
                ended = ended + answer.finished
                cut = cut + (not answer.finished)
    assert ended > 10
    assert cut < ended
