"""A checkpoint is whole or does not count, whatever fails while it is written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from unrolled.core.errors import UserError
from unrolled.training import checkpoints
from unrolled.training.checkpoints import Checkpoint, load, newest, save, steps, under


class Crash(BaseException):
    """Stands for the end of the process: no handler of ordinary errors sees it."""


def checkpoint(step: int) -> Checkpoint:
    tensors = {
        "model.weight": torch.full((3, 2), float(step)),
        "random.cpu": torch.get_rng_state(),
    }
    return Checkpoint(step, tensors, {"position": {"step": step, "글": [1, None]}})


def equal(first: Checkpoint, second: Checkpoint) -> bool:
    return (
        (first.step, first.state) == (second.step, second.state)
        and first.tensors.keys() == second.tensors.keys()
        and all(torch.equal(t, second.tensors[n]) for n, t in first.tensors.items())
    )


def flip(path: Path, index: int) -> None:
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(bytes(data))


def test_round_trip(tmp_path: Path) -> None:
    kept = checkpoint(7)
    path = save(tmp_path / "deep" / "er", kept, keep=2)
    assert path.name == "step-7"
    assert equal(load(path), kept)
    loaded, passed_over = newest(path.parent)
    assert loaded is not None
    assert equal(loaded, kept)
    assert passed_over == []


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") == (None, [])


def test_tensors_of_any_layout_are_kept(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "strided": base.t(),
        "one": base[0],
        "shared": base,
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(5),
        "half": base.bfloat16(),
        "flags": base > 3,
        "grad": torch.ones(2, requires_grad=True),
    }
    loaded = load(save(tmp_path, Checkpoint(1, tensors, {}), 1)).tensors
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_groups_are_told_apart_by_their_whole_name() -> None:
    tensors = under("model", {"a.b": torch.ones(1)}) | under(
        "models", {"c": torch.ones(2)}
    )
    grouped = Checkpoint(0, tensors, {})
    assert set(tensors) == {"model.a.b", "models.c"}
    assert set(grouped.group("model")) == {"a.b"}
    assert grouped.group("other") == {}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept_by_number(tmp_path: Path, keep: int) -> None:
    for step in (8, 9, 10, 11):  # by letters 9 would be the newest
        save(tmp_path, checkpoint(step), keep)
    assert steps(tmp_path) == [8, 9, 10, 11][-keep:]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        f"step-{n}" for n in [8, 9, 10, 11][-keep:]
    )


def test_a_damaged_newer_one_does_not_push_out_what_is_written(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(500), keep=1)
    flip(tmp_path / "step-500" / checkpoints.TENSORS, -1)
    for step in (3, 6):
        save(tmp_path, checkpoint(step), keep=1)
        loaded, _ = newest(tmp_path)
        assert loaded is not None
        assert loaded.step == step
    assert steps(tmp_path) == [6, 500]


def test_other_folders_do_not_count(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(3), 2)
    for name in ("step-x", ".step-9.tmp", "step-", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-12").write_text("a file")
    assert steps(tmp_path) == [3]


# what a crash leaves: every function that touches the disk, at each of its calls
STAGES = [
    *((Path, "mkdir", n) for n in range(4)),
    (checkpoints, "save_tensors", 0),
    (checkpoints, "save_file", 0),
    *((checkpoints, "write_json", n) for n in range(2)),
    *((checkpoints, "sha256", n) for n in range(2)),
    *((os, "fsync", n) for n in range(6)),
    *((Path, "chmod", n) for n in range(2)),
    *((Path, "replace", n) for n in range(2)),
    (Path, "rename", 0),
]


def break_at(
    monkeypatch: pytest.MonkeyPatch, stage: tuple[Any, str, int], error: BaseException
) -> None:
    """Let the n-th call of a function fail."""
    owner, name, turn = stage
    real = getattr(owner, name)
    calls = list[int]()

    def broken(*args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == turn + 1:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(owner, name, broken)


def stage_name(stage: tuple[Any, str, int]) -> str:
    return f"{stage[1]}-{stage[2]}"


@pytest.mark.parametrize("stage", STAGES, ids=stage_name)
def test_a_crash_at_any_stage_leaves_the_old_ones_and_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: tuple[Any, str, int]
) -> None:
    old = [checkpoint(3), checkpoint(6)]
    for earlier in old:
        save(tmp_path, earlier, keep=2)
    break_at(monkeypatch, stage, Crash())
    with pytest.raises(Crash):
        save(tmp_path, checkpoint(9), keep=2)
    monkeypatch.undo()
    # the last fsync is that of the folder, after the rename: the new one is whole by then
    whole = 9 if (tmp_path / "step-9").exists() else 6
    assert whole == 6 or stage == (os, "fsync", 5)
    loaded, passed_over = newest(tmp_path)
    assert loaded is not None
    assert passed_over == []
    assert equal(loaded, checkpoint(whole))
    assert equal(load(tmp_path / "step-3"), old[0])
    assert equal(load(tmp_path / "step-6"), old[1])
    # the run goes on and comes by here again
    save(tmp_path, checkpoint(9), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-6", "step-9"]


@pytest.mark.parametrize("stage", STAGES[1:], ids=stage_name)
def test_a_full_disk_is_a_users_error_and_leaves_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: tuple[Any, str, int]
) -> None:
    save(tmp_path, checkpoint(6), keep=2)
    full = OSError(errno.ENOSPC, "No space left on device")
    break_at(monkeypatch, stage, full)
    with pytest.raises(UserError) as caught:
        save(tmp_path, checkpoint(9), keep=2)
    monkeypatch.undo()
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path / 'step-9'}: the checkpoint could not be written ("
    )
    assert "No space left on device" in message
    assert "resume=True" in message
    assert "\n" not in message
    assert not list(tmp_path.glob(".*"))
    loaded, passed_over = newest(tmp_path)
    assert loaded is not None
    assert loaded.step in (6, 9)
    assert passed_over == []
    assert equal(load(tmp_path / "step-6"), checkpoint(6))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
)
def test_tensors_that_the_disk_refuses_are_one_kind_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    break_at(monkeypatch, (checkpoints, "save_file", 0), error)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.save_tensors(tmp_path / "model.safetensors", {"a": torch.ones(1)})


def test_what_a_kill_left_behind_is_written_over(tmp_path: Path) -> None:
    rest = tmp_path / ".step-9.tmp"
    rest.mkdir(parents=True)
    (rest / checkpoints.STATE).write_text("half")
    (rest / "foreign").write_text("x")
    path = save(tmp_path, checkpoint(9), keep=2)
    assert sorted(p.name for p in path.iterdir()) == sorted(
        [checkpoints.TENSORS, checkpoints.STATE, checkpoints.MANIFEST]
    )
    assert not rest.exists()


def damage_tensors_cut(path: Path) -> None:
    with (path / checkpoints.TENSORS).open("rb+") as file:
        file.truncate(100)


def damage_state_cut(path: Path) -> None:
    (path / checkpoints.STATE).write_text("")


def damage_manifest_cut(path: Path) -> None:
    data = (path / checkpoints.MANIFEST).read_bytes()
    (path / checkpoints.MANIFEST).write_bytes(data[:20])


def damage_manifest_list(path: Path) -> None:
    (path / checkpoints.MANIFEST).write_text("[]")


DAMAGE = {
    "tensors.safetensors is cut short": damage_tensors_cut,
    "state.json is cut short": damage_state_cut,
    "it is incomplete (Unterminated": damage_manifest_cut,
    "it is incomplete (it holds no JSON object": damage_manifest_list,
    "it is incomplete ([Errno 2] No such file": lambda p: (
        p / checkpoints.MANIFEST
    ).unlink(),
    "it is incomplete ([Errno 2] No such file or directory": lambda p: (
        p / checkpoints.TENSORS
    ).unlink(),
    "tensors.safetensors was altered": lambda p: flip(p / checkpoints.TENSORS, -1),
    "tensors.safetensors was": lambda p: flip(p / checkpoints.TENSORS, 9),
    "state.json was altered": lambda p: flip(p / checkpoints.STATE, 30),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_passed_over_with_a_sentence(
    tmp_path: Path, damage: str
) -> None:
    save(tmp_path, checkpoint(3), keep=2)
    path = save(tmp_path, checkpoint(6), keep=2)
    DAMAGE[damage](path)
    loaded, passed_over = newest(tmp_path)
    assert loaded is not None
    assert equal(loaded, checkpoint(3))
    assert len(passed_over) == 1
    assert passed_over[0].startswith(f"{path} was passed over: {damage}")
    with pytest.raises(UserError, match="this checkpoint cannot be used"):
        load(path)


@pytest.mark.parametrize("name", [checkpoints.TENSORS, checkpoints.STATE])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, checkpoint(6), keep=2)
    size = (path / name).stat().st_size
    for index in range(0, size, max(1, size // 25)):
        flip(path / name, index)
        assert newest(tmp_path)[0] is None
        flip(path / name, index)
    assert newest(tmp_path)[0] is not None


def test_when_all_are_damaged_each_is_named(tmp_path: Path) -> None:
    for step in (3, 6):
        (save(tmp_path, checkpoint(step), keep=2) / checkpoints.STATE).unlink()
    loaded, passed_over = newest(tmp_path)
    assert loaded is None
    assert [Path(f.split(" was ")[0]).name for f in passed_over] == ["step-6", "step-3"]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint(6), keep=2)
    manifest = json.loads((path / checkpoints.MANIFEST).read_text())
    assert manifest["format"] == checkpoints.FORMAT
    manifest["format"] += 1
    (path / checkpoints.MANIFEST).write_text(json.dumps(manifest))
    sentence = f"it was written by a newer version \\(format {manifest['format']}\\)"
    with pytest.raises(UserError, match=sentence):
        load(path)
    # passing over it would train on from an older one, over a newer version's work
    with pytest.raises(UserError, match=sentence):
        newest(tmp_path)


def test_nothing_is_a_pickle(tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint(6), keep=2)
    for name in (checkpoints.STATE, checkpoints.MANIFEST):
        json.loads((path / name).read_text("utf-8"))
    data = (path / checkpoints.TENSORS).read_bytes()
    # safetensors: the length of a JSON header, the header, then plain numbers
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    ends = [
        entry["data_offsets"][1]
        for name, entry in header.items()
        if name != "__metadata__"
    ]
    assert max(ends) == len(data) - 8 - length
