"""Where a search that wants synthetic images gets them: the bank that was named, or one made first."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lungtune.core import synthetic
from lungtune.core.paths import ROOT
from lungtune.core.space import SearchSpace
from lungtune.errors import DataError

if TYPE_CHECKING:
    from lungtune.core.study import Study
    from lungtune.data.bank import Bank
    from lungtune.data.dataset import Inspection


def bank(
    space: SearchSpace, inspection: Inspection, folder: Path | None, profile: str, console: Console
) -> Bank | None:
    """Return the synthetic images that trials of this search may want, all of them sound; None where none wants any.

    Where no bank is named, one is made by a process of its own, which leaves no memory of a device behind: from the
    best recipe of a generator for this split, else from the source configuration of sd_lora.

    Args:
        space: what is searched.
        inspection: of the data.
        folder: of the bank; None where none is named.
        profile: ``demo`` or ``full``, for a generator's source configuration.
        console: where it is said that one is made.

    Raises:
        DataError: the bank is damaged, of another training fold, too small, or could not be made.
    """
    from lungtune.data.bank import Bank

    most = synthetic.wanted(space)
    if not most:
        return None
    if folder is not None:
        return Bank.open(folder).take(inspection.manifest, space)
    labels = inspection.manifest.parts["train"].label
    needed = max(synthetic.needed(space, [labels.count(name) for name in inspection.manifest.classes]))
    console.print(
        f"{space.name} trains on up to {most:g} synthetic images for each real one, and no bank of them is named "
        f"(--bank DIR): {needed} of each class are made first, or found if they were. "
        f"--set {synthetic.RATIO}=0 does without.",
        highlight=False,
        soft_wrap=True,
    )
    command = [sys.executable, str(ROOT / "scripts" / "synthesize.py"), "--per-class", str(needed)]
    command += ["--data", inspection.source, "--seed", str(inspection.manifest.seed), "--profile", profile]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DataError(
            f"{space.name} needs synthetic images, but none could be made (see above); name a bank with --bank DIR, or "
            f"leave them out with --set {synthetic.RATIO}=0."
        )
    return Bank.open(Path(done.stdout.splitlines()[-1])).take(inspection.manifest, space)


def show(bank: Bank, study: Study) -> None:
    """Lay the bank's contact sheet beside the study's other documents, for MLflow."""
    with contextlib.suppress(OSError):
        shutil.copyfile(bank.folder / "samples.png", study.folder / "synthetic.png")
