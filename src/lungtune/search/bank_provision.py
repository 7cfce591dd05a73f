"""Where a search that wants synthetic images gets them: the bank that was named, or one made first."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

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
    """Return the synthetic images that trials of this search may want, all of them sound; None where none wants any.

    Where no bank is named, one is made by a process of its own, which leaves no memory of a device behind: from the
    best recipe of a generator for this split, else from the last start point of sd_lora.

    Args:
        space: what is searched.
        inspection: of the data.
        folder: of the bank; None where none is named.
        profile: ``demo`` or ``full``, of sd_lora's start point.
        console: where it is said that one is made.

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
    console.print(
        f"{space.name} trains on up to {most:g} synthetic images for each real one, and no bank of them is named "
        f"(--bank DIR): {sum(needed.values())} are made first, or found if they were. "
        f"--set {synthetic.RATIO}=0 does without.",
        highlight=False,
        soft_wrap=True,
    )
    command = [sys.executable, "-P", "-m", "lungtune", "synthesize", "--data", inspection.source]
    command += ["--seed", str(manifest.seed), "--profile", "demo" if profile == "demo" else "full"]
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
    made = SyntheticBank.open(Path(done.stdout.splitlines()[-1]))
    return made.take(manifest, needed, synthetic.reason(space))


def show(bank: SyntheticBank, study: Study) -> None:
    """Lay the bank's contact sheet beside the study's other documents, for MLflow."""
    with contextlib.suppress(OSError):
        shutil.copyfile(bank.folder / "samples.png", study.folder / "synthetic.png")
