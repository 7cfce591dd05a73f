"""Validation of families and their tasks at load time; reports every breach with file, line and remedy."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from types import ModuleType
from typing import Any

from lungtune.core import contract_params
from lungtune.core.contract_params import LOOP, Breach, place
from lungtune.core.family import Family
from lungtune.core.fields import Field
from lungtune.core.task import Metric, Task
from lungtune.errors import SpaceError, did_you_mean

__all__ = ["LOOP", "NAME", "ContractError", "breaches", "import_problem", "load", "place", "wrong"]

NAME = "FAMILY"
"""Name of the family instance in its module."""

_TARGETS = ("label", "labels", "mask")
"""Kinds of fields that can't be an input of a model that also predicts them."""


class ContractError(SpaceError):
    """A family breaks the contract; each line is ``file:line: what must hold, what was got, how to correct it``."""


def load(module: ModuleType, shipped_tasks: Collection[str] = ()) -> Family[Any, Any]:
    """Return the family of a module of ``trainables``.

    Args:
        module: imported.
        shipped_tasks: names that a task of a user's own may not have.

    Raises:
        ContractError: it breaks the contract.
    """
    family = getattr(module, NAME, None)
    if not isinstance(family, Family):
        raise ContractError(_no_family(module, family))
    problems = dict.fromkeys(f"{where}: {sentence}" for where, sentence in breaches(family, shipped_tasks))
    if problems:
        raise ContractError("\n".join(problems))
    return family


def _no_family(module: ModuleType, member: Any) -> str:
    """Return the sentence on a module without a family."""
    kinds = [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__]
    own = next((kind.__name__ for kind in kinds if issubclass(kind, Family)), "")
    file = inspect.getsourcefile(module) or module.__name__
    line, got, remedy = 1, "is missing", f" Write {NAME} = {own}()." if own else ""
    if hasattr(module, NAME):
        line = _assignment(module)
        got = f"is the class {member.__name__}" if inspect.isclass(member) else f"is of type {type(member).__name__}"
        kind = member if inspect.isclass(member) else type(member)
        if inspect.isclass(member) and issubclass(member, Family):
            remedy = f" Write {NAME} = {member.__name__}()."
        elif kind in kinds:
            remedy = f" Derive it: class {kind.__name__}(Family[Base, Params])."
    else:
        other = next((name for name, value in vars(module).items() if isinstance(value, Family)), "")
        remedy = f" Rename {other} to {NAME}." if other else remedy
    return (
        f"{file}:{line}: a family's module must hold {NAME}, an instance of lungtune.core.family.Family, "
        f"but '{NAME}' {got}.{remedy}"
    )


def _assignment(module: ModuleType) -> int:
    """Return the line on which a module assigns ``FAMILY``; 1 if it does not."""
    try:
        lines = inspect.getsource(module).splitlines()
    except OSError:
        return 1
    return next((number for number, line in enumerate(lines, 1) if re.match(rf"{NAME}\b", line)), 1)


def wrong(method: Callable[..., Any], wanted: str, got: str, hint: str = "") -> ContractError:
    """Return the error for a method whose return value breaks the contract, with the method's file and line.

    Args:
        method: bound, of a family or a task.
        wanted: what it must return.
        got: what it returned.
        hint: of ``did_you_mean``.
    """
    owner = type(getattr(method, "__self__", None)).__name__
    name = f"{owner}.{getattr(method, '__name__', method)}"
    return ContractError(f"{place(method)}: {name} must return {wanted}, but returned {got}.{hint}")


def import_problem(error: BaseException, names: Mapping[str, Any], tasks: Collection[str] = ()) -> str:
    """Return what is wrong with a module that can't be imported, and how to correct it.

    Args:
        error: what importing raised.
        names: global names at the place it was raised.
        tasks: modules of tasks, by full name.
    """
    for kind in names.values():
        missing = getattr(kind, "__abstractmethods__", ()) if inspect.isclass(kind) else ()
        if missing and isinstance(error, TypeError) and f"abstract class {kind.__name__} " in str(error):
            hints = [did_you_mean(name, _own_names(kind)) for name in sorted(missing)]
            near = "".join(hint for hint in hints if "Did you mean" in hint)
            home = "family" if issubclass(kind, Family) else "task"
            return (
                f"{kind.__name__} must have the methods {', '.join(sorted(missing))}, but has not; "
                f"lungtune.core.{home} documents them.{near}"
            )
    if isinstance(error, ModuleNotFoundError) and error.name:
        package, _, name = error.name.rpartition(".tasks.")
        if package:
            known = {task.rpartition(".")[2]: task for task in tasks}
            hint = did_you_mean(name, [task for task in known.values() if task.startswith(f"{package}.")])
            near = did_you_mean(name, known)
            hint = near if "Did you mean" in near else hint
            return f"there is no task '{name}' in {package}.tasks.{hint}"
        return (
            f"the package '{error.name.partition('.')[0]}' must be installed, but is not. "
            "Install it here, or import it inside the methods that use it."
            if not error.name.startswith("lungtune")
            else f"there is no module {error.name}."
        )
    match = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
    hint = did_you_mean(match[1], vars(sys.modules[match[2]])) if match and match[2] in sys.modules else ""
    reason = str(error).rstrip(".")
    near = hint if "Did you mean" in hint else ""
    return f"the module must be importable, but raises {type(error).__name__}: {reason}.{near}"


def breaches(family: Family[Any, Any], shipped_tasks: Collection[str] = ()) -> Iterator[Breach]:
    """Yield (file:line, sentence) for each thing that does not hold."""
    kind = type(family)
    here, name = place(kind), kind.__name__
    summary = getattr(family, "summary", None)
    if not summary or not isinstance(summary, str):
        yield here, f'{name}.summary must be one line of text, such as summary = "...", but is {_shown(summary)}.'
    if not isinstance(family.packs, bool):
        yield here, f"{name}.packs must be True or False, but is {family.packs!r}."
    tasks = getattr(family, "tasks", None)
    yield from _tasks(kind, tasks, here, shipped_tasks)
    held = [task for task in tasks if isinstance(task, Task)] if isinstance(tasks, tuple) else []
    yield from _inputs(kind, family.inputs, held, here)
    yield from contract_params.breaches(family, here)
    yield from _methods(family, Family, "lungtune.core.family.Family")
    if not _overrides(kind, Family, "outputs", "losses"):
        yield here, f"{name} must have a method outputs, but has none.{_near('outputs', kind)}"
    if not _overrides(kind, Family, "lora_targets", "trainable_parameters"):
        near = _near("lora_targets", kind) or _near("trainable_parameters", kind)
        yield (
            here,
            f"{name} must have a method lora_targets or trainable_parameters, but has neither: nothing would "
            f"train.{near}",
        )
    texts = [field for field in _fields(family.inputs, held) if field.kind == "text"]
    if texts and not _overrides(kind, Family, "tokenize"):
        yield here, f"{name} takes text in, so it must have a method tokenize, but has none.{_near('tokenize', kind)}"


def _tasks(kind: type, tasks: Any, here: str, shipped: Collection[str]) -> Iterator[Breach]:
    wanted = f"{kind.__name__}.tasks must be a tuple of instances such as (Classification(),)"
    if not isinstance(tasks, tuple) or not tasks:
        remedy = " Write a comma after it: (Classification(),)." if isinstance(tasks, Task) else ""
        yield here, f"{wanted}, but {'is missing' if tasks is None else f'is {_shown(tasks)}'}.{remedy}"
        return
    names: list[str] = []
    predicted: dict[str, str] = {}
    for task in tasks:
        if not isinstance(task, Task):
            remedy = ""
            if inspect.isclass(task) and issubclass(task, Task):
                remedy = f" Write {task.__name__}()."
            elif isinstance(task, str):
                remedy = " Import the class from lungtune.tasks or lungtune_user.tasks, and write its instance."
            else:
                remedy = f" Derive it: class {type(task).__name__}(Task)."
            yield here, f"{wanted}, but holds {_shown(task)}.{remedy}"
            continue
        name: Any = getattr(task, "name", None)
        if name in names:
            yield here, f"{kind.__name__}.tasks must each have a name of their own, but '{name}' comes twice."
        names.append(name)
        yield from _task(task, shipped)
        for each in task.predicted if isinstance(task.predicted, tuple) else ():
            if each in predicted and predicted[each] != name:
                yield (
                    here,
                    f"{kind.__name__}.tasks must predict under different names, but '{each}' is of both "
                    f"'{predicted[each]}' and '{name}'. Rename it in predicted and predict of one of them.",
                )
            predicted[each] = name


def _task(task: Task, shipped: Collection[str]) -> Iterator[Breach]:
    kind = type(task)
    where, subject = place(kind), kind.__name__
    name, folder = getattr(task, "name", None), _folder(kind)
    if not isinstance(name, str) or not name.isidentifier():
        yield where, f'{subject}.name must be its folder\'s name, such as name = "{folder or "own"}", but is {name!r}.'
    elif folder and name != folder:
        yield where, f"{subject}.name must be the name of its folder, '{folder}', but is '{name}'."
    elif folder and folder in shipped and not kind.__module__.startswith("lungtune.tasks."):
        yield where, f"the task '{name}' must have another name: lungtune has one of that name. Rename its folder."
    metrics = getattr(task, "metrics", None)
    wanted = f'{subject}.metrics must map names to Metric("max" or "min", help), the default first'
    if not isinstance(metrics, Mapping) or not metrics:
        yield where, f"{wanted}, but {'is missing' if metrics is None else f'is {_shown(metrics)}'}."
    else:
        for key, metric in metrics.items():
            if not isinstance(metric, Metric):
                yield where, f"{wanted}, but '{key}' is {_shown(metric)}."
            elif metric.mode not in ("max", "min"):
                yield where, f"{subject}.metrics: the mode of '{key}' must be max or min, but is {metric.mode!r}."
    targets = getattr(task, "targets", None)
    if not isinstance(targets, tuple) or not all(isinstance(field, Field) for field in targets):
        got = "is missing" if targets is None else f"is {_shown(targets)}"
        yield where, f"{subject}.targets must be a tuple of fields of lungtune.core.fields such as (LABEL,), but {got}."
        targets = ()
    for attribute, known, what in (
        ("compared", {field.name for field in targets}, "a target of its own"),
        ("predicted", None, ""),
        ("headline", None, ""),
        ("shown", None, ""),
    ):
        held = getattr(task, attribute)
        if not isinstance(held, tuple) or not all(isinstance(each, str) for each in held):
            remedy = f' Write ("{held}",).' if isinstance(held, str) else ""
            yield where, f"{subject}.{attribute} must be a tuple of names, but is {_shown(held)}.{remedy}"
            continue
        for each in held:
            if known is not None and each not in known:
                yield where, f"{subject}.{attribute} names '{each}', which is not {what}.{did_you_mean(each, known)}"
    yield from _methods(task, Task, "lungtune.core.task.Task")


def _folder(kind: type) -> str:
    """Return the name of the folder of tasks that a class is from; empty where it is from none."""
    parts = kind.__module__.split(".")
    return parts[parts.index("tasks") + 1] if "tasks" in parts[:-1] else ""


def _fields(inputs: Any, tasks: Collection[Task]) -> list[Field]:
    """Return all fields, inputs first, as far as they are fields."""
    groups = (inputs, *(getattr(task, "targets", ()) for task in tasks))
    return [field for group in groups if isinstance(group, tuple) for field in group if isinstance(field, Field)]


def _inputs(kind: type, inputs: Any, tasks: Collection[Task], here: str) -> Iterator[Breach]:
    subject = f"{kind.__name__}.inputs"
    if not isinstance(inputs, tuple) or not inputs or not all(isinstance(field, Field) for field in inputs):
        remedy = " Write a comma after it: (IMAGE,)." if isinstance(inputs, Field) else ""
        yield (
            here,
            f"{subject} must be a tuple of fields of lungtune.core.fields such as (IMAGE,), but is {inputs!r}.{remedy}",
        )
        return
    if len({3 if field.kind == "volume" else 2 for field in inputs if field.pixels}) > 1:
        yield here, f"{subject} must be images or volumes, not both: they have no common extent."
    known: dict[str, Field] = {}
    kinds: dict[str, Field] = {}
    for field in _fields(inputs, tasks):
        if kinds.setdefault(field.kind, field).name != field.name:
            yield (
                here,
                f"{kind.__name__} must have one field of a kind, as data have, but '{kinds[field.kind].name}' and "
                f"'{field.name}' are both of kind {field.kind}.",
            )
        if known.setdefault(field.name, field) != field:
            yield (
                here,
                f"fields of {kind.__name__} must have different names, but '{field.name}' is both {known[field.name]} "
                f"and {field}.",
            )
    targets = {field for task in tasks for field in _fields((), [task])}
    for field in inputs:
        if field in targets and field.kind in _TARGETS:
            yield here, f"{subject} holds '{field.name}', which the model must predict: leave it out of inputs."


def _methods(thing: Any, contract: type, full: str) -> Iterator[Breach]:
    """Yield the methods that do not take what those of ``contract`` take."""
    for name, original in vars(contract).items():
        own = getattr(type(thing), name, None)
        if name.startswith("_") or not inspect.isfunction(original) or own is original:
            continue
        subject = f"{type(thing).__name__}.{name}"
        if not callable(own):
            yield place(type(thing)), f"{subject} must be a method, but is {_shown(own)}."
            continue
        wanted = [*inspect.signature(original).parameters.values()][1:]
        try:
            taken = inspect.signature(getattr(thing, name))
        except (TypeError, ValueError):
            continue
        needed = [each for each in wanted if each.default is each.empty]
        if any(not _binds(taken, count) for count in {len(needed), len(wanted)}):
            listed = ", ".join(each.name for each in wanted)
            got = ", ".join(taken.parameters)
            yield place(own), f"{subject} must take ({listed}), as {full}.{name} does, but takes ({got})."


def _binds(signature: inspect.Signature, count: int) -> bool:
    """True if so many positional arguments are accepted."""
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _overrides(kind: type, contract: type, *names: str) -> bool:
    """True if a class itself defines any of these methods."""
    return any(getattr(kind, name, None) is not getattr(contract, name) for name in names)


def _own_names(kind: type) -> set[str]:
    """Return the names that a class or its parents below the contract define."""
    contracts = {name for each in (Family, Task) for name in dir(each)}
    return {name for each in kind.__mro__ for name in vars(each)} - contracts


def _near(name: str, kind: type) -> str:
    """Return ``" Did you mean 'x'?"`` for a name of the class's own that is close."""
    hint = did_you_mean(name, _own_names(kind))
    return hint if "Did you mean" in hint else ""


def _shown(value: Any) -> str:
    """Return a value's ``repr`` for messages, without memory addresses."""
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    text = repr(value)
    return (
        re.sub(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>", r"\1()", text) if len(text) < 300 else type(value).__name__
    )
