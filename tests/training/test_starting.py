"""What a training and an answer do not import: torch's compiler takes seconds."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import reviews, write_csv
from unrolled.nn import Attention
from unrolled.nn.without_memory import without_memory
from unrolled.training.optimizers import build_optimizer, update
from unrolled.training.settings import TrainingConfig

PROGRAM = """
import sys
import unrolled
run = unrolled.train({data!r}, out={out!r}, **{{
    "layer": "gru", "model.hidden": 8, "training.max_steps": 3, "training.threads": 1,
    "report.inside": False,
}})
unrolled.load(run.folder).predict(["a lovely film"])
assert "torch._dynamo" not in sys.modules, "torch's compiler was imported"
"""


def test_a_training_and_an_answer_leave_torchs_compiler_out(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "d.csv", reviews(60, 1), ("text", "label"))
    program = PROGRAM.format(data=str(data), out=str(tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor", "muon"])
def test_an_update_is_the_optimizers_step(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ours = Attention(8, 8, 2, 2)
    theirs = copy.deepcopy(ours)
    settings = TrainingConfig(optimizer=optimizer, learning_rate=0.01)
    x = torch.randn(3, 5, 8)
    for model, plain in ((theirs, True), (ours, False)):
        made = build_optimizer(model, settings)
        for _ in range(3):
            made.zero_grad()
            model.read(x).square().sum().backward()
            if plain:
                made.step()
                continue
            with monkeypatch.context() as patch:
                # as it is before anybody has imported the compiler
                patch.delitem(sys.modules, "torch._dynamo", raising=False)
                update(made)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(own, other)


def test_what_has_no_memory_has_shapes() -> None:
    with without_memory():
        made = nn.ModuleList([Attention(8, 8, 2, 2), nn.LSTM(3, 4), nn.Embedding(5, 6)])
    shapes = {name: weight.shape for name, weight in made.named_parameters()}
    real = nn.ModuleList([Attention(8, 8, 2, 2), nn.LSTM(3, 4), nn.Embedding(5, 6)])
    assert shapes == {name: weight.shape for name, weight in real.named_parameters()}
    assert all(weight.is_meta for weight in made.parameters())
