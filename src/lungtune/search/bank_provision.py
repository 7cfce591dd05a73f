"""Bank of synthetic images of a search: the named one, else one generated before the search."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lungtune import synthesize
from lungtune.core import synthetic
from lungtune.core.space import SearchSpace
from lungtune.core.stopping import PARENT
from lungtune.errors import STOPPED, DataError, MachineError

if TYPE_CHECKING:
    from lungtune.core.study import Study
    from lungtune.data.dataset import Inspection
    from lungtune.data.synthetic_bank import SyntheticBank

_ENDING = 20.0
"""Seconds that an interrupted generator has to end."""


def bank(
    space: SearchSpace, inspection: Inspection, folder: Path | None, profile: str, console: Console
) -> SyntheticBank | None:
    """Return a verified bank of the synthetic images that trials may train on; None if ``synthetic_ratio`` is 0.

    Without ``folder`` a separate process generates the bank, so that the device's memory is freed when it ends. It
    uses the best recipe of a generator for this split, else the last start point of sd_lora.

    Args:
        space: of the study.
        inspection: of the data.
        folder: of the bank; None to generate one.
        profile: ``demo`` or ``full``, of sd_lora's start point.
        console: for the notice that a bank is generated.

    Raises:
        DataError: the data are volumes or have no classes; or the bank is damaged, of another training fold, too
            small, or could not be generated.
    """
    from lungtune.data.synthetic_bank import SyntheticBank

    most = synthetic.wanted(space)
    if not most:
        return None
    manifest = inspection.manifest
    if manifest.kind != "image" or not manifest.classes:
        content = f"{manifest.kind}s" if manifest.classes else "no classes"
        raise DataError(
            f"synthetic images are images of a class, but {manifest.source} holds {content}; leave them out with "
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
    """Run ``lungtune synthesize`` as a subprocess; return the bank's folder.

    Raises:
        DataError: it failed.
        MachineError: a disk or device did; what was drawn is kept.
    """
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
    # Passive waits: threads that spin triple the time if another process uses a core.
    env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, PARENT: str(os.getpid())}
    code, printed = _finished(command, env)
    if code == STOPPED:
        raise MachineError("the bank of synthetic images is not complete (see above); what was drawn is kept")
    if code:
        raise DataError(
            f"{space.name} needs synthetic images, but none could be generated (see above); leave them out with "
            f"--set {synthetic.RATIO}=0, or make a bank (lungtune synthesize ... --set weights=DIR), "
            "and name it with --bank DIR."
        )
    return Path(printed.splitlines()[-1])


def _finished(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Run a command to its end, which an interruption brings about; return its exit code and output."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as child:
        try:
            printed, _ = child.communicate()
        except BaseException:
            try:
                child.terminate()
                child.wait(_ENDING)
            finally:
                child.kill()
            raise
    return child.returncode, printed


def copy_contact_sheet(bank: SyntheticBank, study: Study) -> None:
    """Copy the bank's contact sheet to ``synthetic.png`` in the study's folder, for MLflow; ignores disk errors."""
    with contextlib.suppress(OSError):
        shutil.copyfile(bank.folder / "samples.png", study.folder / "synthetic.png")
