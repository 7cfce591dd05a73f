"""Interface of model families."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from lungtune.core import params as parameters
from lungtune.core.fields import IMAGE, Field
from lungtune.core.synonyms import meant
from lungtune.core.task import Metric, Task
from lungtune.core.trial import Objective
from lungtune.errors import SpaceError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import torch

B = TypeVar("B")
P = TypeVar("P")


@dataclass(frozen=True)
class LoraTarget:
    """Linears of the backbone that one trial adapts, with rank, scaling and dropout.

    Attributes:
        pattern: regular expression that must match whole module names of the prepared backbone.
        rank: LoRA rank r of ``W + alpha / r * B @ A``.
        alpha: LoRA alpha.
        dropout: probability in [0, 1) with which an input feature of the adapter is dropped while training.
    """

    pattern: str
    rank: int
    alpha: float
    dropout: float


class Family(ABC, Generic[B, P]):
    """One model family. A module ``trainables/<name>.py`` holds one instance of it, named ``FAMILY``.

    The module must not import torch at its top level. ``Base`` and ``Params`` are frozen dataclasses whose fields are
    declared with ``lungtune.core.params.param``. Trials with equal ``Base`` may share a pack; everything in ``Params``
    may differ from trial to trial inside one pack. ``core.contract`` validates a family at load time.

    ``Base`` has ``image_size``: the side in px of images, masks and volumes. ``Params`` has what the loop reads
    (``lungtune.models.params.Loop``). With a field ``views`` in ``Base``, the loop caches what ``features`` returns: 0
    caches nothing and augments in every step; n >= 1 caches n augmented views of an image for each level (one for
    level 0).

    A family trains adapters on a frozen backbone (``lora_targets``), parameters of its own (``trainable_parameters``),
    or both. Backbone weights that train are parameters of its own too; ``layers.network`` runs them
    (``models/whole_network.py``).

    Attributes:
        summary: one line.
        tasks: what it is trained and scored for; the first one's first metric is the default objective.
        inputs: input fields.
        packs: True if trials train faster in a pack; False where the whole backbone trains and nothing is shared.
        substitute: name of the task that it has in place of a declared one, see :meth:`exchanged`; empty as declared.
        ablation: parameters, each with the value that switches off what it adds: ``{"lambda2": 0.0}``. ``retrain
            --compare`` measures their effect.
    """

    summary: ClassVar[str]
    tasks: ClassVar[tuple[Task, ...]]
    inputs: ClassVar[tuple[Field, ...]] = (IMAGE,)
    packs: ClassVar[bool] = True
    ablation: ClassVar[Mapping[str, Any]] = {}
    substitute: str = ""
    Base: type[B]
    Params: type[P]

    @property
    def fields(self) -> tuple[Field, ...]:
        """All fields that a data set must have: inputs, and targets of all tasks."""
        return tuple(dict.fromkeys((*self.inputs, *(field for task in self.tasks for field in task.targets))))

    def exchanged(self, task: Task) -> Family[B, Any]:
        """Return a copy of this family, the same at every call, that has ``task`` in place of the one it replaces.

        ``Params`` are without those that need targets no task has any more, and with those of ``task``.
        """
        copies: dict[str, Family[B, Any]] = vars(self).setdefault("_exchanged", {})
        if task.name not in copies:
            tasks = tuple(task if each.name == task.replaces else each for each in self.tasks)
            kinds = {field.kind for each in tasks for field in each.targets}
            params = parameters.derived(self.Params, task.Params, kinds)
            copies[task.name] = copy.copy(self)
            vars(copies[task.name]).update(tasks=tasks, Params=params, substitute=task.name, _exchanged={})
        return copies[task.name]

    def task(self, name: str) -> Task:
        """Return a task of this family by name.

        Raises:
            SpaceError: it has none of that name.
        """
        match = next((task for task in self.tasks if task.name == name), None)
        if match is None:
            names = ", ".join(task.name for task in self.tasks)
            raise SpaceError(f"this family has no task '{name}', but {names}.{did_you_mean(name, [names])}")
        return match

    def metric_key(self, task: Task, metric: str) -> str:
        """Return a metric's name in reports: its own, or ``task.metric`` where an earlier task has the same name."""
        earlier = self.tasks[: self.tasks.index(task)]
        return f"{task.name}.{metric}" if any(metric in other.metrics for other in earlier) else metric

    @property
    def metrics(self) -> dict[str, tuple[Task, Metric]]:
        """Valid names of an ``objective:``: full names, and short ones where they are unambiguous."""
        full = {f"{task.name}.{name}": (task, metric) for task in self.tasks for name, metric in task.metrics.items()}
        names = [name for task in self.tasks for name in task.metrics]
        short = {
            name: (task, metric)
            for task in self.tasks
            for name, metric in task.metrics.items()
            if names.count(name) == 1
        }
        return {**short, **full}

    def objective(self, name: str | None = None) -> Objective:
        """Return the objective of that name, short or full; by default the first metric of the first task.

        Raises:
            SpaceError: no task of this family has it.
        """
        if name is None:
            name = f"{self.tasks[0].name}.{next(iter(self.tasks[0].metrics))}"
        known = self.metrics
        if name not in known:
            short = [key for key in known if "." not in key or key.partition(".")[2] not in known]
            twice = [key for key in known if key.partition(".")[2] == name]
            hint = meant(name, [key for key in known if "." in key] if "." in name else short)
            hint = f" Several tasks have it: {', '.join(twice)}." if twice else hint
            raise SpaceError(f"objective must be a metric of this family, but got '{name}'.{hint}")
        task, metric = known[name]
        return Objective(self.metric_key(task, name.removeprefix(f"{task.name}.")), metric.mode, task.name)

    @abstractmethod
    def check(self, base: B) -> None:
        """Verify that the pretrained weights are on this machine, without loading them; fails fast if they are not.

        Raises:
            WeightsError: they are unavailable; the message explains how to get them.
        """

    @abstractmethod
    def miniature(self, folder: Path) -> B:
        """Return the smallest ``Base`` there is, from random weights written to ``folder``, for tests.

        Small is, and is tested: ``image_size`` at most 32 px, or the least that the strides allow, and a backbone of
        at most 2 million parameters, those of a text's vocabulary included; 300 000 are enough for the rest. It has
        every kind of layer of the full size, and two blocks where that has many.
        """

    @abstractmethod
    def backbone(self, base: B, classes: Sequence[str]) -> torch.nn.Module:
        """Return the frozen backbone on the CPU, in eval mode, its attention split into plain Linears.

        Args:
            base: the family's ``Base``.
            classes: class names; ``core.fields.Labels`` of a task with several labels a case; empty without labels.
        """

    def tokenize(self, base: B, texts: Sequence[str]) -> np.ndarray:
        """Return tokens int ``(N, L)`` of a text field, computed once for a data set; for families that take text in.

        A case without text is the empty string.
        """
        raise NotImplementedError(f"{type(self).__name__} takes text in, so it must have a method tokenize")

    def lora_targets(self, model: Any, params: P) -> Sequence[LoraTarget]:
        """Return what this trial adapts. Every pattern must match at least one Linear of the backbone ``model``."""
        return ()

    def trainable_parameters(
        self, model: Any, params: P, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """Return a trial's own parameters other than adapters, such as a head, at their initial values on the CPU.

        They reach ``outputs`` stacked over the trials of a pack and padded with zeros to the largest trial's shape:
        padding must add nothing and get no gradient. Zeros into *and* out of a hidden unit do both.

        Args:
            model: the backbone.
            params: the trial's ``Params``.
            classes: class names.
            generator: everything random must be drawn from it.
        """
        return {}

    def statistics(self, model: Any, params: P) -> Sequence[str]:
        """Return the names of the backbone's buffers that training updates; each trial has its own copy of them."""
        return ()

    def lr_multipliers(self, model: Any, params: P) -> Mapping[str, float]:
        """Return factors on the learning rate of the trial's own parameters, by name; those not named have 1."""
        return {}

    def features(self, model: Any, batch: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        """Return the output of the frozen part of the model, below everything that trains; equal for all trials.

        It must depend on each case's inputs alone. It is run without adapters and without gradients, once for each
        case and view if ``Base.views`` is positive. The return value replaces the inputs in the batch.

        Args:
            model: the backbone.
            batch: the inputs: images float ``(N, C, H, W)`` and volumes ``(N, C, D, H, W)`` in [0, 1], tokens
                ``(N, L)``, table columns ``(N, K)``.

        Returns:
            Tensors ``(N, ...)`` of any floating or integer type, by name; by default the inputs themselves.
        """
        return {field.name: batch[field.name] for field in self.inputs}

    def outputs(self, model: Any, batch: Any, layout: Any) -> Mapping[str, torch.Tensor]:
        """Run a batch; return the arguments of the tasks' losses and predictions, N rows each, such as ``logits``.

        Args:
            model: the backbone with the adapters of all slots of the pack attached.
            batch: what ``features`` returned, by name; rows of one slot are contiguous.
            layout: which rows belong to which trial, each trial's ``Params`` and its own parameters
                (:class:`lungtune.layers.layout.BatchLayout`).
        """
        raise NotImplementedError(f"{type(self).__name__} must have a method outputs, or losses of its own")

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Any, layout: Any) -> torch.Tensor:
        """Return each row's loss ``(N,)``; by default the sum of the tasks' losses. Arguments as ``Task.loss``."""
        return sum(task.loss(outputs, batch, layout) for task in self.tasks)  # type: ignore[return-value]

    def losses(self, model: Any, batch: Any, layout: Any) -> torch.Tensor:
        """Run a batch of training and return each row's loss ``(N,)``, float32; by default ``loss`` of ``outputs``."""
        return self.loss(self.outputs(model, batch, layout), batch, layout)

    def predict(self, outputs: Mapping[str, torch.Tensor], batch: Any) -> Mapping[str, torch.Tensor]:
        """Return the predictions of all tasks for each row, by name."""
        return {name: value for task in self.tasks for name, value in task.predict(outputs, batch).items()}

    @abstractmethod
    def export(
        self, base: B, params: P, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """Write weights that load without lungtune into ``folder``, with a README that shows how.

        Args:
            base: the family's ``Base``.
            params: the trial's ``Params``.
            classes: class names.
            adapter: what ``Pack.adapter`` returned: own parameters and statistics by name, LoRA by PEFT's names.
            folder: output folder.
        """
