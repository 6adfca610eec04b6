"""Translations of Multi30k's validation set: ours beside CTranslate2, on the same weights."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks.layers import common
from benchmarks.layers.common import Options, Work
from unrolled.data.batches import PAD
from unrolled.data.examples import Ints, Ragged
from unrolled.decoding.search import search
from unrolled.decoding.settings import Search
from unrolled.models import Unaligned
from unrolled.models.encoder_decoder import Steps
from unrolled.run import Run, load
from unrolled.runs.recipes import find_data
from unrolled.scores.translation import corpus_score
from unrolled.tasks.pairs import Pairs
from unrolled.tasks.writing import side_by_side
from unrolled.training.precision import ComputeDevice

# hypotheses; sentences read together; tokens of an answer
BEAM = 5
ROWS = 32
MOST = 100
ALPHAS = (
    0.6,
    0.0,
)  # GNMT's divides by ((5 + n) / 6)^alpha, CTranslate2's by n^alpha; 0 is alike
WIDTHS = (40, 7, 14, 10, 10, 8, 8)
HERE = ComputeDevice(torch.device("cpu"), "fp32", "")
Answers = list[list[int]]


class Sentences:
    """The validation set of a run as ids, shortest first, and its right answers.

    Args:
        run: one whose recipe names files of lines.
        count: read the first alone; None reads all.
    """

    def __init__(self, run: Run, count: int | None = None) -> None:
        data = run.recipe.data
        self.task = cast(Pairs, run.task)
        if not data.dev or not data.dev_target:
            common.refuse(
                f"{run.folder} was not trained on pairs of files with a dev part"
            )
        texts = [
            find_data(run.recipe, name).read_text("utf-8").splitlines()[:count]
            for name in (data.dev, data.dev_target)
        ]
        ids = self.task.inputs.encode([(text,) for text in texts[0]])
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        self.ids = [ids[row] for row in order]
        self.right = [texts[1][row] for row in order]

    def __len__(self) -> int:
        return len(self.ids)

    def bleu(self, answers: Answers) -> float:
        """Return the BLEU of answers, cut as they were for training."""
        texts = [self.task.output.tokenizer.decode(answer) for answer in answers]
        return corpus_score(
            texts, [[reference] for reference in self.right], "bleu", "none"
        ).value


class Eager:
    """A model whose searches are stepped by torch's kernels alone."""

    def __init__(self, model: Unaligned) -> None:
        self.model = model

    def stepper(self) -> Steps:
        return self.model


def our_work(
    model: Unaligned | Eager, sentences: Sentences, alpha: float
) -> Callable[[], Answers]:
    """Return what translates all sentences by our search, a batch a thread at a time."""
    settings = Search(beam=BEAM, length_penalty=alpha)
    rows = Ragged.of(sentences.ids)
    target = sentences.task.output.tokenizer
    banned = [target.pad_id, target.unk_id, target.bos_id]
    indices = np.arange(len(sentences))
    threads = torch.get_num_threads()
    batches = [
        indices[start : start + ROWS] for start in range(0, len(sentences), ROWS)
    ]

    def work() -> Answers:
        translations: Answers = [[] for _ in indices]

        def answer(steps: Steps, chosen: Ints) -> None:
            ids, lengths = rows.take(chosen, PAD)
            with torch.no_grad():
                answers = search(
                    steps,
                    steps.start(ids, lengths),
                    settings,
                    start=target.bos_id,
                    end=target.eos_id,
                    limits=[MOST] * len(chosen),
                    banned=banned,
                )
            for index, hypotheses in zip(chosen.tolist(), answers, strict=True):
                translations[index] = hypotheses[0].tokens

        torch.set_num_threads(threads)  # CTranslate2 sets it, too
        side_by_side(cast(Unaligned, model), batches, answer, HERE)
        return translations

    return work


def their_work(
    folder: Path, kind: str, inter: int, intra: int, sentences: Sentences, alpha: float
) -> Callable[[], Answers]:
    """Return what translates all sentences by CTranslate2, in one call, tokens looked up in it.

    ``inter`` batches are under way at a time, each on ``intra`` threads.
    """
    import ctranslate2

    source, target = (_vocabulary(folder, side) for side in ("source", "target"))
    ids = {token: number for number, token in enumerate(target)}
    translator = ctranslate2.Translator(
        str(folder), compute_type=kind, inter_threads=inter, intra_threads=intra
    )
    # it adds the end mark itself
    texts = [[source[id] for id in sentence[:-1]] for sentence in sentences.ids]

    def work() -> Answers:
        results = translator.translate_batch(
            texts,
            max_batch_size=ROWS,
            beam_size=BEAM,
            length_penalty=alpha,
            max_decoding_length=MOST,
            min_decoding_length=0,
            disable_unk=True,
        )
        return [[ids[token] for token in result.hypotheses[0]] for result in results]

    return work


def _vocabulary(folder: Path, side: str) -> list[str]:
    import json

    shared = folder / "shared_vocabulary.json"
    own = folder / f"{side}_vocabulary.json"
    return json.loads((own if own.exists() else shared).read_text("utf-8"))


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Let all translate in turn, with and without length penalty."""
    trained = load(folder, "cpu")
    threads = torch.get_num_threads()
    sentences = Sentences(trained, 128 if options.quick else None)
    model = cast(Unaligned, trained.model)
    results: dict[str, Any] = {"sentences": len(sentences), "beam": BEAM, "batch": ROWS}
    results["ours"] = type(model.stepper()).__name__
    common.line(
        WIDTHS, "", "alpha", "sentences/s", "of fp32", "tokens", "BLEU", "equal"
    )
    with tempfile.TemporaryDirectory(prefix="unrolled-decoding-") as name:
        there = trained.export(
            "ctranslate2", Path(name) / "ctranslate2", lambda line: print(line)
        )
        for alpha in ALPHAS:
            works = {"ours": our_work(model, sentences, alpha)}
            works["ours, torch's kernels"] = our_work(Eager(model), sentences, alpha)
            for kind in ("float32", "int8"):
                # batches side by side are its faster way on few threads, as they are ours
                works[f"CTranslate2 {kind}"] = their_work(
                    there, kind, threads, 1, sentences, alpha
                )
            works["CTranslate2 float32, threads in a batch"] = their_work(
                there, "float32", 1, threads, sentences, alpha
            )
            results[f"alpha {alpha:g}"] = _turns(works, sentences, alpha, options)
    return results


def _turns(
    works: dict[str, Callable[[], Answers]],
    sentences: Sentences,
    alpha: float,
    options: Options,
) -> dict[str, Any]:
    """Time all works in turn and compare what they write with ours."""
    answers = {who: work() for who, work in works.items()}
    times = common.take_turns(cast(dict[str, Work], works), options)
    results: dict[str, Any] = {}
    for who in works:
        equal = [a == b for a, b in zip(answers["ours"], answers[who], strict=True)]
        results[who] = {
            "sentences_a_second": len(sentences) / statistics.median(times[who]),
            "of_ctranslate2_fp32": common.ratio(times, "CTranslate2 float32", who),
            "tokens": statistics.mean(map(len, answers[who])),
            "bleu": sentences.bleu(answers[who]),
            "equal_to_ours": statistics.mean(equal),
            "seconds": times[who],
        }
        speed, ratio, tokens, bleu, same, _ = results[who].values()
        common.line(
            WIDTHS,
            who,
            f"{alpha:g}",
            f"{speed:.1f}",
            f"{ratio:.2f}",
            f"{tokens:.2f}",
            f"{bleu:.2f}",
            f"{same:.1%}",
        )
    return results
