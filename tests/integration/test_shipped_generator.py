"""The generator that is shipped is the one that the first search would train."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lungtune import catalog
from lungtune.core import params
from lungtune.data import dataset
from lungtune.engine import checkpoint
from lungtune.synthesize import generator, ship
from lungtune.synthesize import plan as planning

(FILE,) = generator.SHIPPED.glob("*.safetensors")
SPLIT = checkpoint.load(FILE)[1]["split"]


def marked(found: Any) -> str:
    """Return the mark of the generator that the first search would train on a split."""
    default = planning.default_origin(found, "demo", {})
    family = catalog.family(default.space.family)
    return planning.mark_of(default, family, params.build(family.Base, default.space.base))


def test_shipped_file_has_the_mark_of_space_and_base() -> None:
    """Fails where base, space or version have changed: python scripts/pretrain.py demo_generator."""
    split = SimpleNamespace(without=lambda *_: SimpleNamespace(hash=SPLIT))
    assert marked(SimpleNamespace(manifest=split, source=catalog.PHANTOM)) == FILE.stem
    assert checkpoint.load(FILE)[1]["fidelity"] == catalog.space(planning.DEFAULT, "demo").fidelity.max


def test_shipped_file_is_of_the_phantoms_default_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path))
    found = dataset.inspect(catalog.PHANTOM)
    assert found.manifest.without(*planning.UNREAD).hash == SPLIT
    assert marked(found) == FILE.stem


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_training_again_gives_the_shipped_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    made = ship(tmp_path / "out")
    assert made.name == FILE.name
    (again, trained), (shipped, meta) = checkpoint.load(made), checkpoint.load(FILE)
    assert again.keys() == shipped.keys()
    assert (trained["samples"], trained["steps"], trained["split"]) == (meta["samples"], meta["steps"], meta["split"])
    assert trained["metrics"]["cmmd"] == pytest.approx(meta["metrics"]["cmmd"], rel=0.1)
    one, other = (torch.cat([tensors[name].flatten() for name in shipped]) for tensors in (again, shipped))
    # rounding of another processor grows over training: measured cosines from 0.8
    assert torch.cosine_similarity(one, other, dim=0) > 0.7
