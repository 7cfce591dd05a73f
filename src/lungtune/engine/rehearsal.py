"""Pre-flight check of the return values of a family's and its tasks' methods on a few cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lungtune.core.contract import ContractError, place, wrong
from lungtune.core.family import Family, LoraTarget
from lungtune.core.task import Task
from lungtune.data.dataset import Part
from lungtune.engine import memory
from lungtune.engine.pack import Pack
from lungtune.engine.returned import check_rows, shown, tensors
from lungtune.errors import SpaceError, did_you_mean

CASES = 4
"""Maximum number of cases that are run."""


def rehearse(pack: Pack, params: Any, part: Part) -> None:
    """Run each method as training and evaluation do; the pack is left as it was.

    Args:
        pack: no trial is in it.
        params: a trial's ``Params``.
        part: some cases with all fields of the family.

    Raises:
        ContractError: a method returns what the contract does not allow, or raises on the way.
    """
    family, model = pack.family, pack.model
    generator = torch.Generator().manual_seed(0)
    own = _called(family.trainable_parameters, model, params, pack.classes, generator)
    if not tensors(own) or not all(value.is_floating_point() for value in own.values()):
        raise wrong(family.trainable_parameters, "a mapping of names to floating-point tensors", shown(own))
    targets = _called(family.lora_targets, model, params)
    if not isinstance(targets, Sequence) or not all(isinstance(each, LoraTarget) for each in targets):
        raise wrong(family.lora_targets, "a sequence of LoraTarget", shown(targets))
    if not own and not targets:
        raise wrong(family.trainable_parameters, "something that trains, where lora_targets returns nothing", "nothing")
    try:
        slot = pack.join(params, seed=0, horizon=max(1, len(part)))
    except SpaceError as error:
        raise ContractError(f"{place(family.lora_targets)}: {error}") from error
    try:
        with pack.passing(slot, part, CASES, training=True) as (batch, layout):
            _training(family, model, batch, layout)
        if any(task.predicted for task in family.tasks):
            with pack.passing(slot, part, CASES, training=False) as (batch, layout):
                _prediction(family, _outputs(family, model, batch, layout), batch)
    finally:
        pack.leave(slot)


def _training(family: Family[Any, Any], model: torch.nn.Module, batch: Any, layout: Any) -> None:
    if type(family).losses is Family.losses:
        outputs = _outputs(family, model, batch, layout)
        if type(family).loss is Family.loss:
            for task in family.tasks:
                _loss(task.loss, _used(family, task, task.loss, outputs, batch, layout), batch.size)
        else:
            _loss(family.loss, _called(family.loss, outputs, batch, layout), batch.size)
    losses = _called(family.losses, model, batch, layout)
    _loss(family.losses, losses, batch.size)
    if not losses.requires_grad:
        names = [name for name in ("losses", "loss") if getattr(type(family), name) is not getattr(Family, name)]
        method = getattr(family, names[0] if names else "outputs")
        raise wrong(method, "what depends on what trains", "something without a gradient")


def _outputs(family: Family[Any, Any], model: torch.nn.Module, batch: Any, layout: Any) -> Mapping[str, Tensor]:
    outputs = _called(family.outputs, model, batch, layout)
    check_rows(family.outputs, outputs, batch.size)
    return outputs


def _loss(method: Callable[..., Any], losses: Any, rows: int) -> None:
    if not isinstance(losses, Tensor) or losses.shape != (rows,):
        raise wrong(method, f"a tensor ({rows},), a loss for each of {rows} cases", shown(losses))
    if not losses.isfinite().all():
        raise wrong(method, "finite losses before anything is trained", f"{losses.tolist()}")


def _prediction(family: Family[Any, Any], outputs: Mapping[str, Tensor], batch: Any) -> None:
    for task in family.tasks if type(family).predict is Family.predict else ():
        _names(task.predict, _used(family, task, task.predict, outputs, batch), [task], batch.size)
    _names(family.predict, _called(family.predict, outputs, batch), family.tasks, batch.size)


def _names(method: Callable[..., Any], outputs: Any, tasks: Sequence[Task], rows: int) -> None:
    check_rows(method, outputs, rows)
    for task in tasks:
        for name in task.predicted:
            if name not in outputs:
                wanted = f"'{name}', which the task '{task.name}' names in predicted"
                raise wrong(method, wanted, ", ".join(outputs) or "nothing", did_you_mean(name, outputs))


def _used(
    family: Family[Any, Any], task: Task, method: Callable[..., Any], outputs: Mapping[str, Tensor], *rest: Any
) -> Any:
    """Call a task's method on outputs; a KeyError is reported as a missing output of ``Family.outputs``."""
    try:
        return method(outputs, *rest)
    except KeyError as error:
        name = error.args[0] if error.args else ""
        if isinstance(name, str) and name not in outputs:
            wanted = f"'{name}', which the task '{task.name}' takes"
            raise wrong(family.outputs, wanted, ", ".join(outputs), did_you_mean(name, outputs)) from error
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if memory.exhausted(error) or type(task).__module__.split(".")[0] != "lungtune":
            raise
        wanted = f"what the task '{task.name}' takes, which raises {type(error).__name__}: {error}"
        raise wrong(family.outputs, wanted, shown(outputs)) from error


def _called(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method; a ``NotImplementedError`` is reported as a missing method."""
    try:
        return method(*arguments)
    except NotImplementedError as error:
        raise ContractError(f"{place(method)}: {error}.") from error
