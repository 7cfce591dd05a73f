"""Space and recipe files: one format, read, checked against the family's parameters, resolved.

A recipe is a space whose parameters are all single values, with a ``provenance`` block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution

from lungtune.core import params as parameters
from lungtune.core import setting, yamlfile
from lungtune.core.family import Trainable
from lungtune.core.params import ParamSpec
from lungtune.core.resource import Fidelity
from lungtune.core.scheduler import Scheduler, SchedulerConfig
from lungtune.core.space import COUNTS, SAMPLERS, SearchSpace
from lungtune.core.trial import Objective
from lungtune.core.yamlfile import Block
from lungtune.errors import SpaceError, did_you_mean

_KEYS = {
    "summary": str,
    "family": str,
    "objective": str,
    "sampler": str,
    "trials": int,
    "slots": int,
    "max_slots": int,
    "fidelity": dict,
    "scheduler": object,
    "base": dict,
    "params": dict,
    "start": list,
    "profiles": dict,
    "data": str,
    "seed": int,
    "provenance": dict,
}
_PLAIN = {"sampler": "tpe", "trials": 24, "slots": 0, "max_slots": 16, "why": ""}
_PROFILE_KEYS = {"why", *_KEYS} - {"summary", "family", "profiles", "data", "seed", "provenance"}
_RANGE_KEYS = {"low", "high", "log", "step"}


class _Reader:
    """Reads one file and collects every mistake before raising."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[tuple[int, str]] = []

    def problem(self, line: int, message: str) -> None:
        self.problems.append((line, message))

    def keys(self, block: Block, known: Collection[str], what: str) -> None:
        for key in block:
            if key not in known:
                self.problem(block.lines[key], f"'{key}' is not a {what}.{did_you_mean(key, known)}")

    def types(self, block: Block) -> None:
        for key, wanted in _KEYS.items():
            if key in block and (not isinstance(block[key], wanted) or isinstance(block[key], bool)):
                kind = {dict: "a mapping", list: "a list", int: "a whole number", str: "text"}.get(wanted)
                self.problem(block.lines[key], f"{key} must be {kind or 'text or a mapping'}, but got {block[key]!r}.")
                del block[key]  # the rest is looked at as if it were not there

    def tried(self, line: int, make: Callable[..., Any], *values: Any) -> Any:
        """Return what ``make`` builds of ``values``; None, and the problem noted, when it can't."""
        try:
            return make(*values)
        except SpaceError as error:
            self.problem(line, str(error))
            return None

    def raise_if_any(self) -> None:
        if self.problems:
            lines = [f"{self.path}:{line}: {message}" for line, message in sorted(self.problems)]
            raise SpaceError("\n".join(lines))


def load_space(
    path: Path,
    family: Callable[[str], Trainable],
    scheduler: Callable[[str], type[Scheduler[Any]]],
    *,
    profile: str = "full",
    settings: Mapping[str, Any] | None = None,
) -> SearchSpace:
    """Read, check and resolve a space or recipe file.

    Args:
        path: the YAML file.
        family: returns a family's trainable by name; raises SpaceError for unknown names.
        scheduler: returns a scheduler class by name; raises SpaceError for unknown names.
        profile: ``full`` (the file as it stands) or a name under ``profiles:``.
        settings: ``--set`` overrides: a parameter or base field by name, ``trials``, ``sampler``, ``objective``,
            ``fidelity.<field>`` or ``scheduler.<field>``.

    Raises:
        SpaceError: all mistakes at once, each as ``file:line: sentence``.
    """
    block = yamlfile.load(path)
    reader = _Reader(path)
    reader.keys(block, _KEYS, "key of a space")
    reader.types(block)
    for key in ("family", "params"):
        if key not in block.lines:
            reader.problem(1, f"'{key}:' is missing.")
    if "family" not in block or "params" not in block:
        reader.raise_if_any()
    try:
        trainable = family(block["family"])
    except SpaceError as error:
        reader.problem(block.lines["family"], str(error))
        reader.raise_if_any()
        raise
    layers = [(block, block.lines), *_profile(reader, block, profile)]
    space = _resolve(reader, block, layers, trainable, scheduler, profile)
    for key, value in setting.gathered(settings or {}).items():
        try:
            space = setting.apply(space, trainable, scheduler, key, value)
        except SpaceError as error:
            raise SpaceError(f"--set {key}={value}: {error}") from error
    return space


def _profile(reader: _Reader, block: Block, profile: str) -> list[tuple[Block, dict[str, int]]]:
    profiles = block.get("profiles", {})
    for name, body in profiles.items():
        if not isinstance(body, Block):
            reader.problem(profiles.lines[name], f"profile '{name}' must be a mapping, but got {body!r}.")
        else:
            reader.keys(body, _PROFILE_KEYS, f"key of profile '{name}'")
            reader.types(body)
    if profile == "full" and "full" not in profiles:
        return []
    if profile not in profiles:
        known = {"full", *profiles}
        reader.problem(
            block.lines.get("profiles", 1), f"there is no profile '{profile}'.{did_you_mean(profile, known)}"
        )
    body = profiles.get(profile)
    return [(body, body.lines)] if isinstance(body, Block) else []


def _resolve(
    reader: _Reader,
    block: Block,
    layers: list[tuple[Block, dict[str, int]]],
    trainable: Trainable,
    scheduler: Callable[[str], type[Scheduler[Any]]],
    profile: str,
) -> SearchSpace:
    param_specs, base_specs = parameters.specs(trainable.Params), parameters.specs(trainable.Base)
    axes: dict[str, BaseDistribution] = {}
    fixed: dict[str, Any] = {name: spec.default for name, spec in param_specs.items()}
    base: dict[str, Any] = {name: spec.default for name, spec in base_specs.items()}
    plain: dict[str, Any] = {"objective": next(iter(trainable.metrics)), **_PLAIN}
    fidelity: dict[str, Any] = {"max": 3.0, "min": 1 / 3}
    start: list[Mapping[str, Any]] = []
    fidelity_line = 1
    scheduled = SchedulerConfig().changed({}, scheduler)
    every = {**param_specs, **base_specs}
    groups = (
        ("params", param_specs, fixed, "parameter", setting.axis),
        ("base", base_specs, base, "base setting", setting.base_axis),
    )
    for layer, lines in layers:
        plain |= {key: layer[key] for key in plain if key in layer}
        for group, specs, values, what, read in groups:
            for key, value in layer.get(group, {}).items():
                line = layer[group].lines[key]
                if key not in specs:
                    hint = did_you_mean(key, specs)
                    reader.problem(line, f"'{key}' is not a {what} of {block['family']}.{hint}")
                    continue
                axes.pop(key, None)
                result = reader.tried(line, read, specs[key], value)
                if isinstance(result, BaseDistribution):
                    axes[key] = result
                    values[key] = setting.among(result, values[key])
                elif result is not None:
                    values[key] = result
        if "fidelity" in layer:
            fidelity |= layer["fidelity"]
            fidelity_line = lines["fidelity"]
        if "scheduler" in layer:
            line = lines["scheduler"]
            scheduled = reader.tried(line, scheduled.changed, layer["scheduler"], scheduler) or scheduled
        if "start" in layer:
            start = [_point(reader, every, point, lines["start"]) for point in layer["start"]]
        for key, known in (("sampler", SAMPLERS), ("objective", trainable.metrics)):
            if key in layer and layer[key] not in known:
                hint = did_you_mean(str(layer[key]), known)
                reader.problem(lines[key], f"{key} must be known, but got '{layer[key]}'.{hint}")
        for key, least in COUNTS.items():
            if key in layer and not plain[key] >= least:
                reader.problem(lines[key], f"{key} >= {least} must hold, but got {plain[key]}.")
    resolved = reader.tried(fidelity_line, Fidelity.of, fidelity)
    reader.raise_if_any()
    assert resolved is not None
    return SearchSpace(
        name=reader.path.stem,
        family=block["family"],
        summary=block.get("summary", ""),
        profile=profile,
        objective=Objective(plain["objective"], trainable.metrics[plain["objective"]]),
        sampler=plain["sampler"],
        fidelity=resolved,
        scheduler=scheduled,
        base=base,
        fixed={name: value for name, value in fixed.items() if name not in axes},
        axes={name: axes[name] for name in (*base_specs, *param_specs) if name in axes},
        start=tuple(start),
        data=block.get("data"),
        seed=block.get("seed"),
        provenance=block.get("provenance", {}),
        why=plain["why"],
        **{key: plain[key] for key in COUNTS},
        text=reader.path.read_text(encoding="utf-8"),
    )


def _point(reader: _Reader, specs: Mapping[str, ParamSpec], point: Any, line: int) -> dict[str, Any]:
    if not isinstance(point, Block):
        reader.problem(line, f"each entry of start must be a mapping of parameters, but got {point!r}.")
        return {}
    checked = {}
    for key, value in point.items():
        try:
            if key not in specs:
                raise SpaceError(f"start: '{key}' is not a parameter.{did_you_mean(key, specs)}")
            checked[key] = specs[key].check(value)
        except SpaceError as error:
            reader.problem(point.lines[key], str(error))
    return checked
