"""CPU quota of this process's control groups (Linux): containers, systemd slices, batch systems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_SELF = Path("/proc/self")


def cores(process: Path = _SELF) -> float | None:
    """Return the smallest quota of this process's cgroup and those above it, in cores; None where there is none.

    Args:
        process: its folder in ``/proc``.
    """
    try:
        return min((quota for folder in _folders(process) if (quota := _quota(folder)) is not None), default=None)
    except (OSError, ValueError):  # no Linux, or no cgroups
        return None


def _folders(process: Path) -> Iterator[Path]:
    """Yield the folders of the CPU controller that apply to a process, of versions 1 and 2, innermost first."""
    groups: dict[str, str] = {}
    for line in (process / "cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), group)
    for line in (process / "mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        (root, mount), (kind, _, options) = before.split()[3:5], after.split()[:3]
        controller = {"cgroup2": "", "cgroup": "cpu" if "cpu" in options.split(",") else None}.get(kind)
        if controller is not None and controller in groups:
            yield from _upwards(Path(_unescaped(mount)), _below(groups[controller], _unescaped(root)))


def _below(group: str, root: str) -> PurePosixPath:
    """Return a cgroup relative to the one that is mounted; that one itself where the group is not below it."""
    path = PurePosixPath(group)
    inside = path.is_relative_to(root) and ".." not in path.parts
    return path.relative_to(root) if inside else PurePosixPath(".")


def _upwards(mount: Path, group: PurePosixPath) -> Iterator[Path]:
    yield mount / group
    for above in group.parents:
        yield mount / above


def _unescaped(text: str) -> str:
    """Return a path of mountinfo, where spaces are written ``\\040``."""
    return text.encode("latin-1", "replace").decode("unicode_escape") if "\\" in text else text


def _quota(folder: Path) -> float | None:
    """Return a cgroup's quota in cores; None where it has none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            files = (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
            quota, period = (file.read_text(encoding="ascii") for file in files)
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # "max", or no CPU controller in this group
        return None
