"""Checkpoints: complete or refused; the previous one is never lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from lungtune.engine import checkpoint
from lungtune.errors import CheckpointError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor([3, 4]), "empty": torch.zeros(0, 2)}
META = {"samples": 12, "metrics": {"macro_f1": 0.5}, "text": "é"}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.safetensors"
    checkpoint.save(path, {**TENSORS, "turned": TENSORS["a"].T}, META)
    tensors, meta = checkpoint.load(path)
    assert meta == META
    assert torch.equal(tensors["turned"], TENSORS["a"].T)
    assert all(torch.equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in TENSORS.items())
    assert os.listdir(path.parent) == ["x.safetensors"]


def test_any_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, TENSORS, META)
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.load(path)


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, TENSORS, META)
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            tensors, meta = checkpoint.load(path)
        except CheckpointError:
            continue
        # Only JSON's padding blanks may change unseen.
        assert meta == META
        assert all(torch.equal(tensors[k], v) for k, v in TENSORS.items())


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="must carry a checksum"):
        checkpoint.load(tmp_path / "x.safetensors")


def test_a_missing_file_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        checkpoint.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, TENSORS, META)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"a": torch.zeros(9)}, {})
    monkeypatch.undo()
    assert checkpoint.load(path)[1] == META
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_latest_skips_and_logs_damaged_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.latest(tmp_path) is None
    for samples in (9, 80, 700):
        checkpoint.save(tmp_path / checkpoint.name(samples), TENSORS, {"samples": samples})
    (tmp_path / checkpoint.name(700)).write_bytes(b"torn")
    result = checkpoint.latest(tmp_path)
    assert result is not None
    assert (result[0].name, result[2]) == (checkpoint.name(80), {"samples": 80})
    assert checkpoint.name(700) in caplog.text


def test_prune_keeps_the_newest_and_the_named(tmp_path: Path) -> None:
    for samples in (1, 2, 3, 4, 5):
        checkpoint.save(tmp_path / checkpoint.name(samples), {}, {})
    (tmp_path / f".{checkpoint.name(6)}.77.tmp").write_bytes(b"half")
    checkpoint.prune(tmp_path, keep=[checkpoint.name(2)])
    assert sorted(os.listdir(tmp_path)) == [checkpoint.name(n) for n in (2, 4, 5)]
