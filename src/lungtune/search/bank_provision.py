"""Provides a search with synthetic images: the named bank, else one drawn first."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lungtune import synthesize
from lungtune.core import synthetic
from lungtune.core.space import SearchSpace
from lungtune.errors import DataError

if TYPE_CHECKING:
    from lungtune.core.study import Study
    from lungtune.data.dataset import Inspection
    from lungtune.data.synthetic_bank import SyntheticBank


def bank(
    space: SearchSpace, inspection: Inspection, folder: Path | None, profile: str, console: Console
) -> SyntheticBank | None:
    """Return a verified bank of the synthetic images that trials may train on; None if ``synthetic_ratio`` is 0.

    Without ``folder`` the bank is drawn by a separate process, which frees the device's memory when it ends: with the
    best recipe of a generator for this split, else with the last start point of sd_lora.

    Args:
        space: what is searched.
        inspection: of the data.
        folder: of the bank; None where none is named.
        profile: ``demo`` or ``full``, of sd_lora's start point.
        console: takes the notice that a bank is drawn.

    Raises:
        DataError: the data are volumes or have no classes, of which there are no synthetic images; the bank is
            damaged, of another training fold, too small, or could not be made.
    """
    from lungtune.data.synthetic_bank import SyntheticBank

    most = synthetic.wanted(space)
    if not most:
        return None
    manifest = inspection.manifest
    if manifest.kind != "image" or not manifest.classes:
        found = f"{manifest.kind}s" if manifest.classes else "no classes"
        raise DataError(
            f"synthetic images are images of a class, but {manifest.source} holds {found}; leave them out with "
            f"--set {synthetic.RATIO}=0."
        )
    needed = synthetic.needed(space, manifest.class_counts("train"))
    if folder is not None:
        return SyntheticBank.open(folder).take(manifest, needed, synthetic.reason(space))
    generator = "demo" if profile == "demo" else "full"
    drawn = synthesize.complete(inspection, needed, generator)
    if drawn is None:
        drawn = _draw(space, inspection, needed, generator, console)
    return SyntheticBank.open(drawn).take(manifest, needed, synthetic.reason(space))


def _draw(
    space: SearchSpace, inspection: Inspection, needed: Mapping[str, int], profile: str, console: Console
) -> Path:
    """Run ``lungtune synthesize`` in a process of its own; return the bank's folder."""
    manifest = inspection.manifest
    console.print(
        f"{space.name} trains on up to {synthetic.wanted(space):g} synthetic images for each real one, and no bank of "
        f"them is named (--bank DIR): {sum(needed.values())} are drawn first. --set {synthetic.RATIO}=0 does without.",
        highlight=False,
        soft_wrap=True,
    )
    command = [sys.executable, "-P", "-m", "lungtune", "synthesize", "--data", inspection.source]
    command += ["--seed", str(manifest.seed), "--profile", profile]
    command += ["--per-class", ",".join(f"{name}={count}" for name, count in needed.items())]
    # Its threads sleep while they wait: those that spin triple its time where a core is busy with anything else.
    env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=env)
    if done.returncode:
        raise DataError(
            f"{space.name} needs synthetic images, but none could be made (see above); leave them out with "
            f"--set {synthetic.RATIO}=0, or make a bank (lungtune synthesize ... --set weights=DIR), "
            "and name it with --bank DIR."
        )
    return Path(done.stdout.splitlines()[-1])


def show(bank: SyntheticBank, study: Study) -> None:
    """Lay the bank's contact sheet beside the study's other documents, for MLflow."""
    with contextlib.suppress(OSError):
        shutil.copyfile(bank.folder / "samples.png", study.folder / "synthetic.png")
