"""What no trial changes, computed once: features in memory-mapped files that all trials, studies and hosts share.

`features/<family>-<level>-<view>-<hash>.bin` holds, for one image set, the output of a family's ``features`` in the
type it has, `(N, ...)`. The hash covers all that decides it: the base with the content of its weights, the images'
content, augmentation level and view, precision, kind of device, and the code (of ``nn`` and of the family's folder).
View v of level L augments each image in one way, the same for every trial, study and host; level 0 has one view.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lungtune.core import cache, paths
from lungtune.core.family import Trainable
from lungtune.engine import checkpoint
from lungtune.engine.trial_state import TrialState
from lungtune.inputs.on_the_fly import Masks, OnTheFlyInputs, Pixels, gathered
from lungtune.inputs.transforms2d import augment
from lungtune.layers.layout import derive_seed

_CHUNK = 64
"""Images computed at a time; their augmentation shares one generator, so changing it changes all views."""

_ROOM = 0.25
"""Share of a GPU's free memory that one view may take there; larger ones stay memory-mapped on the host."""

_log = logging.getLogger(__name__)


def identity(trainable: Trainable, base: Any, model: nn.Module, device: torch.device, precision: str) -> str:
    """Return a name of the function from images to features: equal names, equal features.

    Args:
        trainable: the family.
        base: its ``Base``; ``views`` does not count.
        model: the backbone, without adapters.
        device: where it runs; its kind counts.
        precision: ``fp32`` or ``bf16``.
    """
    settings = {name: value for name, value in dataclasses.asdict(base).items() if name != "views"}
    home = Path(inspect.getfile(type(trainable)))
    code = hashlib.blake2b(digest_size=16)
    package = Path(__file__).parents[1]
    folders = (*(package / name for name in ("inputs", "layers", "engine", "models")), home.parent)
    for file in (file for folder in folders for file in sorted(folder.glob("*.py"))):
        code.update(file.read_bytes())
    parts = [settings, device.type, precision, torch.__version__, code.hexdigest()]
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    return f"{home.stem}-{checkpoint.digest(weights, repr(parts))}"


class InputFactory:
    """What the model gets to see of image sets: kept features where the base says so, else images augmented afresh.

    Args:
        trainable: the family.
        base: its ``Base``; ``views`` decides.
        model: the backbone, without adapters.
        compute: float images ``(n, 1, H, W)`` in [0, 1] to features ``(n, ...)``.
        device: where they are wanted.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(
        self,
        trainable: Trainable,
        base: Any,
        model: nn.Module,
        compute: Callable[[Tensor], Tensor],
        device: torch.device,
        precision: str,
    ) -> None:
        self._views = getattr(base, "views", 0)
        self.identity = identity(trainable, base, model, device, precision) if self._views else ""
        self._compute = compute
        self._device = device
        # training and validation come again and again
        self._last: deque[tuple[Any, Any, OnTheFlyInputs | CachedFeatures]] = deque(maxlen=2)

    def of(
        self, images: np.ndarray | Tensor, masks: Masks | None = None, synthetic: np.ndarray | Tensor | None = None
    ) -> OnTheFlyInputs | CachedFeatures:
        """Return what the model gets to see of ``images``, uint8 ``(N, H, W)``; masks go with fresh images only.

        The indices of ``synthetic`` images, which only training is given, follow on.
        """
        for known, beside, source in self._last:
            if known is images and beside is synthetic:
                return source
        source = self._kept(images, synthetic) if self._views else self._fresh(images, masks, synthetic)
        self._last.append((images, synthetic, source))
        return source

    def _fresh(self, images: Any, masks: Masks | None, synthetic: Any) -> OnTheFlyInputs:
        further = None if synthetic is None else Pixels(synthetic, self._device)
        return OnTheFlyInputs(Pixels(images, self._device), self._compute, masks, further)

    def _kept(self, images: Any, synthetic: Any) -> CachedFeatures:
        further = None if synthetic is None else self._kept(synthetic, None)
        return CachedFeatures(images, self.identity, self._compute, self._views, self._device, further)


class CachedFeatures:
    """Features of one image set, computed when first wanted and kept on disk; there are no masks to them.

    Args:
        images: uint8 ``(N, H, W)``.
        function: ``identity`` of what computes them.
        compute: float images ``(n, 1, H, W)`` in [0, 1] to features ``(n, ...)``.
        views: augmented views of an image for each level above 0, >= 1.
        device: where ``take`` and ``plain`` deliver.
        synthetic: features of further images, whose indices follow on. Their tables are their own.
    """

    known = None

    def __init__(
        self,
        images: np.ndarray | Tensor,
        function: str,
        compute: Callable[[Tensor], Tensor],
        views: int,
        device: torch.device,
        synthetic: CachedFeatures | None = None,
    ) -> None:
        self._synthetic = synthetic
        self._pixels = Pixels(images, torch.device("cpu"))  # views are drawn there: the same on every host
        self._function = function
        self._compute = compute
        self._views = views
        self._device = device
        self._tables: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pixels) + len(self._synthetic or ())

    @property
    def stride(self) -> int:
        """As many as make 4 million numbers, 64 at least."""
        return max(64, (1 << 22) // self._example.numel())

    def take(self, chosen: Sequence[Tensor], members: Sequence[TrialState]) -> tuple[Tensor, None]:
        """Return the features of a step's images, each in the view that is its trial's turn, and no masks.

        Args:
            chosen: indices ``(n_i,)`` of each trial's batch, on the CPU.
            members: the trials.

        Returns:
            ``(sum n_i, ...)`` on the device, trial after trial.
        """
        index = torch.cat(list(chosen))
        numbers = torch.cat([self._numbers(m, c) for m, c in zip(members, chosen, strict=True)])
        wanted = numbers.unique().tolist()
        if len(wanted) == 1:
            return self._rows(wanted[0], index), None
        found: Tensor | None = None
        for number in wanted:
            places = (numbers == number).nonzero().squeeze(1)
            part = self._rows(number, index[places])
            if found is None:
                found = part.new_empty(len(index), *part.shape[1:])
            found[places.to(self._device)] = part
        assert found is not None  # a step has images
        return found, None

    def plain(self, first: int, last: int) -> tuple[Tensor, None]:
        """Return the features ``(last - first, ...)`` of images as they are."""
        return self._table(0, 0)[first:last].to(self._device), None

    def _numbers(self, member: TrialState, chosen: Tensor) -> Tensor:
        """Return which table each image of a trial's batch comes from: 0 for level 0, then view by view."""
        level = member.params.augmentation
        if not level:
            return torch.zeros_like(chosen)
        return member.views(self._views) + (1 + (level - 1) * self._views)

    def _rows(self, number: int, index: Tensor) -> Tensor:
        if self._synthetic is None:
            return self._own(number, index)
        return gathered(index, len(self._pixels), partial(self._own, number), partial(self._synthetic._own, number))

    def _own(self, number: int, index: Tensor) -> Tensor:
        level, view = divmod(number - 1, self._views) if number else (-1, 0)
        table = self._table(level + 1, view)
        return table[index.to(table.device)].to(self._device)

    def _table(self, level: int, view: int) -> Tensor:
        """Return the features ``(N, ...)`` of one view: on the device where they fit, else memory-mapped."""
        if (level, view) not in self._tables:
            table = self._open(level, view)
            if self._device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(self._device)
                table = table.to(self._device) if table.nbytes < _ROOM * free else table
            self._tables[level, view] = table
        return self._tables[level, view]

    def _open(self, level: int, view: int) -> Tensor:
        about = {**self._common, "level": level, "view": view}
        key = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
        family = self._function.partition("-")[0]
        file = paths.cache() / "features" / f"{family}-{level}-{view}-{key}.bin"
        shape, dtype = tuple(about["shape"]), self._example.dtype
        size = math.prod(shape)

        def build(draft: Path) -> None:
            began = time.perf_counter()
            table = torch.from_file(str(draft), shared=True, size=size, dtype=dtype).view(shape)
            for chunk, rows in enumerate(torch.arange(len(self._pixels)).split(_CHUNK)):
                generator = torch.Generator().manual_seed(derive_seed(level, view, chunk))
                images = augment(self._pixels.take(rows), [level], [len(rows)], [generator])
                table[rows] = self._compute(images).cpu()
            seconds = time.perf_counter() - began
            _log.info("features of %d images, level %d, view %d: %.1f s", len(self._pixels), level, view, seconds)

        path = cache.Shared(file, "feature store", about, size * dtype.itemsize).open(build)
        return torch.from_file(str(path), shared=False, size=size, dtype=dtype).view(shape)

    @cached_property
    def _example(self) -> Tensor:
        """One image's features ``(1, ...)``: they tell shape and type."""
        return self._compute(self._pixels.take(torch.arange(1)))

    @cached_property
    def _common(self) -> dict[str, Any]:
        """What the stores of all views hold."""
        shape = [len(self._pixels), *self._example.shape[1:]]
        images = self._pixels.digest()
        return {"function": self._function, "images": images, "shape": shape, "dtype": str(self._example.dtype)}
