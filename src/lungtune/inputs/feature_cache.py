"""On-disk cache of frozen-backbone features: memory-mapped files shared by trials, studies and hosts.

`features/<family>-<level>-<view>-<hash>.bin` has the outputs of a family's ``features`` for one set of cases, a row of
bytes per case. The hash covers everything they depend on: the base, the content of its weights, the cases' inputs,
augmentation level and view, precision, kind of device, and the code (layers, inputs, engine, models and the family's
folder). View v of level L is one fixed augmentation of each case, the same for all trials, studies and hosts; level 0
has one view.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lungtune.core import cache, paths
from lungtune.core.family import Family
from lungtune.core.fields import Field
from lungtune.core.io import stage, track
from lungtune.data.dataset import Part
from lungtune.errors import SpaceError
from lungtune.inputs import computing
from lungtune.inputs.augmentation import augment
from lungtune.inputs.batch import Batch
from lungtune.inputs.columns import Column, gather
from lungtune.inputs.on_the_fly import Compute, OnTheFlyInputs
from lungtune.inputs.sampling import Sampled
from lungtune.layers.layout import derive_seed
from lungtune.layers.state import digest

_CHUNK = 64
"""Number of cases augmented with one random generator; changing it changes all views."""

_WORTH = 1024
"""Least number of cases for a measurement of the batch size, which costs about as much as 50 cases."""

_ROOM = 0.25
"""Largest share of a GPU's free memory for one view; larger views stay memory-mapped on the host."""

_CODE = ("layers", "inputs", "engine", "models")

_log = logging.getLogger(__name__)


def identity(family: Family[Any, Any], base: Any, model: nn.Module, device: torch.device, precision: str) -> str:
    """Return an identifier of the function from inputs to features: equal if features are equal up to rounding.

    Args:
        family: the family.
        base: its ``Base``; ``views`` is ignored.
        model: the backbone, without adapters.
        device: only its type is used.
        precision: ``fp32`` or ``bf16``.
    """
    settings = {name: value for name, value in dataclasses.asdict(base).items() if name != "views"}
    home = Path(inspect.getfile(type(family)))
    code = hashlib.blake2b(digest_size=16)
    package = Path(__file__).parents[1]
    folders = (*(package / name for name in _CODE), home.parent)
    for file in (file for folder in folders for file in sorted(folder.glob("*.py"))):
        code.update(file.read_bytes())
    parts = [settings, device.type, precision, torch.__version__, code.hexdigest()]
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    return f"{home.stem}-{digest(weights, repr(parts))}"


class InputFactory:
    """Factory of a data part's model inputs: cached features if the base requests them, else on-the-fly augmentation.

    Args:
        family: the family.
        base: its ``Base``; features are cached if ``views`` > 0.
        model: the backbone, without adapters.
        compute: the family's ``features`` of a batch of inputs.
        device: of the batches.
        precision: ``fp32`` or ``bf16``.

    Raises:
        SpaceError: ``views`` > 0, but a target is augmented with the images.
    """

    def __init__(
        self,
        family: Family[Any, Any],
        base: Any,
        model: nn.Module,
        compute: Compute,
        device: torch.device,
        precision: str,
    ) -> None:
        self._family, self._base = family, base
        self._inputs = [field.name for field in family.inputs]
        self._views = getattr(base, "views", 0)
        if self._views and any(field.spatial for field in family.fields if field.name not in self._inputs):
            raise SpaceError("views must be 0 where masks are compared: kept features do not move with them.")
        self.identity = identity(family, base, model, device, precision) if self._views else ""
        self._compute = compute
        self._device = device
        # recent inputs: training and validation
        self._last: deque[tuple[Part, Part | None, OnTheFlyInputs | CachedFeatures]] = deque(maxlen=2)

    def of(self, part: Part, synthetic: Part | None = None) -> OnTheFlyInputs | CachedFeatures:
        """Return the inputs of a part; indices >= ``len(part)`` are ``synthetic`` cases, which only training has."""
        inputs: OnTheFlyInputs | CachedFeatures
        for seen, bank, inputs in self._last:
            if seen is part and bank is synthetic:
                return inputs
        columns = self._columns(part)
        missing = [name for name in self._inputs if name not in columns]
        if missing:
            raise ValueError(f"a part must have the fields {', '.join(self._inputs)}, but lacks {', '.join(missing)}")
        known = {
            name: torch.from_numpy(part.has(name).copy()).to(self._device) for name in columns if name in part.known
        }
        further = None if synthetic is None else self._columns(synthetic)
        if self._views:
            more = None if further is None else self._cached(further, {}, None)
            inputs = self._cached(columns, known, more)
        else:
            inputs = OnTheFlyInputs(columns, known, self._inputs, self._compute, further)
        self._last.append((part, synthetic, inputs))
        return inputs

    def _columns(self, part: Part) -> dict[str, Column]:
        return {field.name: self._column(field, part) for field in self._family.fields if field.name in part}

    def _column(self, field: Field, part: Part) -> Column:
        values = part[field.name]
        if field.kind == "text":
            values = self._family.tokenize(self._base, values.tolist())
        return Column(field, values, self._device)

    def _cached(
        self, columns: Mapping[str, Column], known: Mapping[str, Tensor], more: CachedFeatures | None
    ) -> CachedFeatures:
        return CachedFeatures(
            columns, known, self._inputs, self._compute, self.identity, self._views, self._device, more
        )


class CachedFeatures:
    """Features of one set of cases, computed on first use and cached on disk.

    Args:
        columns: the fields, inputs and targets.
        known: field name -> bool ``(N,)``, True for cases that have it.
        inputs: names of the input fields of the features.
        compute: the family's ``features``.
        function: ``identity`` of ``compute``.
        views: augmented views of a case for each level above 0, >= 1.
        device: of the batches.
        synthetic: features of synthetic cases, with indices from N; cached in files of their own.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        known: Mapping[str, Tensor],
        inputs: Sequence[str],
        compute: Compute,
        function: str,
        views: int,
        device: torch.device,
        synthetic: CachedFeatures | None = None,
    ) -> None:
        self._columns, self._known, self._inputs = columns, known, tuple(inputs)
        self._synthetic = synthetic
        self._compute = compute
        self._function = function
        self._views = views
        self._device = device
        self._count = len(next(iter(columns.values())))
        self._tables: dict[tuple[int, int], dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return self._count + len(self._synthetic or ())

    @property
    def stride(self) -> int:
        """Number of cases with about 4 million feature values, >= 64."""
        return max(64, (1 << 22) // sum(each.numel() for each in self._example.values()))

    def take(self, chosen: Sequence[Tensor], trials: Sequence[Sampled]) -> Batch:
        """Return a step's batch, each case in its trial's current view.

        Args:
            chosen: indices ``(n_i,)`` of each trial's cases, on the CPU.
            trials: the trials.
        """
        index = torch.cat(list(chosen))
        numbers = torch.cat([self._numbers(t, c) for t, c in zip(trials, chosen, strict=True)])
        features = {name: self._features(name, numbers, index) for name in self._example}
        targets = [name for name in self._columns if name not in self._inputs]
        known = {name: each[index.to(each.device)] for name, each in self._known.items() if name in targets}
        return Batch({**features, **{name: self._target(name, index) for name in targets}}, known)

    def plain(self, first: int, last: int, targets: Sequence[str] = ()) -> Batch:
        """Return cases ``first`` to ``last`` (excluded) without augmentation: features and the named ``targets``."""
        features = {name: table[first:last].to(self._device) for name, table in self._table(0, 0).items()}
        index = torch.arange(first, last)
        known = {name: each[first:last] for name, each in self._known.items() if name in targets}
        named = [name for name in targets if name in self._columns]
        return Batch({**features, **{name: self._columns[name].take(index) for name in named}}, known)

    def _target(self, name: str, index: Tensor) -> Tensor:
        take = self._columns[name].take
        if self._synthetic is None:
            return take(index)
        return gather(index, self._count, take, self._synthetic._columns[name].take)

    def _features(self, name: str, numbers: Tensor, index: Tensor) -> Tensor:
        wanted = numbers.unique().tolist()
        if len(wanted) == 1:
            return self._rows(name, wanted[0], index)
        features: Tensor | None = None
        for number in wanted:
            places = (numbers == number).nonzero().squeeze(1)
            part = self._rows(name, number, index[places])
            if features is None:
                features = part.new_empty(len(index), *part.shape[1:])
            features[places.to(self._device)] = part
        assert features is not None  # a step has cases
        return features

    def _numbers(self, trial: Sampled, chosen: Tensor) -> Tensor:
        """Return the table index ``(n,)`` of each case: 0 for level 0, else 1 + (level - 1) * views + view."""
        level = trial.params.augmentation
        if not level:
            return torch.zeros_like(chosen)
        return trial.views(self._views) + (1 + (level - 1) * self._views)

    def _rows(self, name: str, number: int, index: Tensor) -> Tensor:
        if self._synthetic is None:
            return self._own(name, number, index)
        other = partial(self._synthetic._own, name, number)
        return gather(index, self._count, partial(self._own, name, number), other)

    def _own(self, name: str, number: int, index: Tensor) -> Tensor:
        level, view = divmod(number - 1, self._views) if number else (-1, 0)
        table = self._table(level + 1, view)[name]
        return table[index.to(table.device)].to(self._device)

    def _table(self, level: int, view: int) -> dict[str, Tensor]:
        """Return the features ``(N, ...)`` of one view: on the device if they fit, else memory-mapped."""
        if (level, view) not in self._tables:
            rows = self._open(level, view)
            if self._device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(self._device)
                rows = rows.to(self._device) if rows.nbytes < _ROOM * free else rows
            self._tables[level, view] = self._cut(rows)
        return self._tables[level, view]

    def _open(self, level: int, view: int) -> Tensor:
        """Return one view's file as bytes ``(N, row)``; computes it first if there is none."""
        kinds = {name: [list(each.shape[1:]), str(each.dtype)] for name, each in self._example.items()}
        holds = {"function": self._function, "cases": self._cases, "count": self._count, "features": kinds}
        holds |= {"level": level, "view": view}
        key = hashlib.sha256(repr(holds).encode()).hexdigest()[:16]
        kind = self._function.partition("-")[0]
        file = paths.cache() / "features" / f"{kind}-{level}-{view}-{key}.bin"
        shape = self._count, sum(size for _, size in self._places.values())

        def build(draft: Path) -> None:
            began = time.perf_counter()
            what = f"Computing features of {self._count:,} cases" + (f", level {level}, view {view}" if level else "")
            tables = self._cut(
                torch.from_file(str(draft), shared=True, size=math.prod(shape), dtype=torch.uint8).view(shape)
            )
            with closing(self._computed(level, view)) as chunks:
                for rows, computed in track(chunks, -(-self._count // _CHUNK), what):
                    for name, values in computed.items():
                        tables[name][rows] = values.cpu()
            seconds = time.perf_counter() - began
            _log.info("features of %d cases, level %d, view %d: %.1f s", self._count, level, view, seconds)

        path = cache.Shared(file, "feature store", holds, math.prod(shape)).open(build)
        return torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=torch.uint8).view(shape)

    def _cut(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the features ``(N, ...)`` by name as views of the byte rows."""
        features = {}
        for name, (first, _) in self._places.items():
            example = self._example[name]
            part = rows[:, first : first + example.nbytes].view(example.dtype)
            features[name] = part.unflatten(1, example.shape[1:]) if example.ndim > 1 else part[:, 0]
        return features

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Offset and size in bytes of each feature in a row, multiples of 8."""
        places, first = {}, 0
        for name, example in self._example.items():
            size = -(-example.nbytes // 8) * 8
            places[name] = first, size
            first += size
        return places

    def _computed(self, level: int, view: int) -> Generator[tuple[Tensor, Mapping[str, Tensor]]]:
        """Yield (case indices, features) of each chunk."""
        chunks = list(enumerate(torch.arange(self._count).split(_CHUNK)))
        if self._device.type != "cpu":
            for chunk in chunks:
                yield chunk[1], self._compute(self._drawn(level, view, chunk))
            return
        with computing.workers(paths.cache() / "features" / f"cores-{socket.gethostname()}.lock") as workers:
            batch = self._together
            drawn = workers.ahead(partial(self._drawn, level, view), chunks, 1)
            parts = ((chunk, part) for (chunk, _), values in drawn for part in _split(values, batch))
            computed = workers.ahead(lambda part: self._compute(part[1], batch), parts, 2 * workers.count)
            for chunk, group in groupby(computed, lambda each: each[0][0]):
                features = [each for _, each in group]
                yield chunks[chunk][1], {name: torch.cat([each[name] for each in features]) for name in features[0]}

    def _drawn(self, level: int, view: int, chunk: tuple[int, Tensor]) -> dict[str, Tensor]:
        """Return the inputs of a chunk's cases in one view."""
        number, rows = chunk
        values = {name: self._columns[name].take(rows).cpu() for name in self._inputs}
        fields = [self._columns[name].field for name in self._inputs]
        # on the CPU: equal on every host
        generator = torch.Generator().manual_seed(derive_seed(level, view, number))
        return values | augment(values, [field for field in fields if field.spatial], [level], [len(rows)], [generator])

    @cached_property
    def _together(self) -> int:
        """Batch size of the computation on this CPU; the same for all views."""
        some = {name: self._columns[name].take(torch.arange(min(_CHUNK, self._count))) for name in self._inputs}
        usual = min(_CHUNK, computing.at_once(sum(values[0].numel() for values in some.values()), self._device))
        if self._count < _WORTH:
            return usual
        with stage("Measuring how many cases are computed fastest together"):
            together = computing.fastest(
                lambda size: self._compute({name: values[:size] for name, values in some.items()}, size), usual
            )
        _log.info("features are computed %d cases at a time, usually %d", together, usual)
        return together

    @cached_property
    def _example(self) -> dict[str, Tensor]:
        """One case's features ``(1, ...)`` by name, for shapes and types."""
        index = torch.arange(1)
        return dict(self._compute({name: self._columns[name].take(index) for name in self._inputs}))

    @cached_property
    def _cases(self) -> str:
        """Hash of all inputs of all cases."""
        return hashlib.sha256("".join(self._columns[name].digest() for name in self._inputs).encode()).hexdigest()


def _split(values: Mapping[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    """Yield a batch of inputs in parts of at most ``size`` cases."""
    for parts in zip(*(each.split(size) for each in values.values()), strict=True):
        yield dict(zip(values, parts, strict=True))
