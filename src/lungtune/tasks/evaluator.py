"""How a trial is scored on a part of the data: a classifier by what it says, a generator by what it draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from lungtune.core.family import Classifier, Generator, Trainable
from lungtune.data.dataset import Dataset, Part
from lungtune.engine import memory
from lungtune.engine.pack import Pack
from lungtune.inputs.on_the_fly import Masks
from lungtune.layers.layout import derive_seed
from lungtune.report import contact_sheet
from lungtune.tasks.classification import metrics
from lungtune.tasks.generation import memorisation, recognition, sample_metrics
from lungtune.tasks.stored_predictions import Evidence, Probabilities

Judged = Mapping[str, np.ndarray]
"""What a trial makes of a part of the data, by name."""

SHOWN = 8
"""Samples of each class on a contact sheet."""

_NOISE = 7_001
"""Samples of reports start from the same noise in all trials: differences are the trials', not the noise's."""

_AT_ONCE = 256
_PIXELS = 1 << 22
"""So many pixels are drawn at a time, by at most 64 images."""

Family = TypeVar("Family", bound=Trainable)


class Evaluator(ABC, Generic[Family]):
    """Scores the trials of one session.

    Args:
        trainable: the family.
        base: its ``Base``.
        dataset: what the trials train and validate on.
        device: where they do.
    """

    def __init__(self, trainable: Family, base: Any, dataset: Dataset, device: torch.device) -> None:
        self.trainable = trainable
        self.base = base
        self.dataset = dataset
        self.device = device

    @abstractmethod
    def judge(self, pack: Pack, slot: int, part: Part) -> dict[str, np.ndarray]:
        """Return what the trial in a slot makes of a part of the data, with its weights as they are."""

    @abstractmethod
    def scores(self, part: Part, judged: Judged) -> dict[str, float]:
        """Return all metrics of what ``judge`` returned, all finite.

        Raises:
            TrialError: the trial has diverged.
        """

    @abstractmethod
    def evidence(self, part: Part, judged: Judged) -> Evidence:
        """Return what is kept of it, so that it can be scored again on drawn patients."""

    def picture(self, judged: Judged) -> bytes | None:
        """Return a PNG for people to look at, None where there is nothing to see."""
        return None

    def references(self, pack: Pack, params: Any) -> dict[str, dict[str, float]]:
        """Return the scores on validation that trials are read beside, by name of who has them.

        Args:
            pack: with room for a trial.
            params: a trial's ``Params``, as it starts.
        """
        return {}


def of(trainable: Trainable, base: Any, dataset: Dataset, device: torch.device) -> Evaluator[Any]:
    """Return the examiner of a family's kind."""
    kind = ClassifierEvaluator if isinstance(trainable, Classifier) else GeneratorEvaluator
    return kind(trainable, base, dataset, device)  # type: ignore[type-var,arg-type]


def masks_of(trainable: Trainable, part: Part) -> Masks | None:
    """Return a part's masks where the family wants them."""
    return Masks(part.masks, part.masked) if trainable.needs_masks and part.masks is not None else None


class ClassifierEvaluator(Evaluator[Classifier]):
    """``judge`` returns ``probabilities`` ``(N, classes)`` and whatever the family tells beside (its own ``judge``)."""

    def judge(self, pack: Pack, slot: int, part: Part) -> dict[str, np.ndarray]:
        """See ``Evaluator.judge``."""
        found = pack.judge(part.images, slots=[slot], masks=masks_of(self.trainable, part))[slot]
        return {name: tensor.numpy() for name, tensor in found.items()}

    def scores(self, part: Part, judged: Judged) -> dict[str, float]:
        """See ``Evaluator.scores``."""
        beside = {name: values for name, values in judged.items() if name != "probabilities"}
        found = metrics.classification(part.labels, judged["probabilities"], self.dataset.classes)
        return {**found, **metrics.beside(part.labels, beside)}

    def evidence(self, part: Part, judged: Judged) -> Evidence:
        """See ``Evaluator.evidence``."""
        return Probabilities(part.labels, judged["probabilities"])


class GeneratorEvaluator(Evaluator[Generator]):
    """``judge`` returns ``images`` uint8 ``(M, H, W)``, their embeddings ``samples`` ``(M, D)`` and classes ``drawn``
    ``(M,)``: ``Base.samples`` of each class."""

    def judge(self, pack: Pack, slot: int, part: Part) -> dict[str, np.ndarray]:
        """See ``Evaluator.judge``. The same samples for any part of the data."""
        count = self.base.samples
        drawn = np.repeat(np.arange(len(self.dataset.classes)), count)
        seeds = [derive_seed(_NOISE, int(label), place % count) for place, label in enumerate(drawn)]
        images = self.draw(pack, slot, drawn.tolist(), seeds)
        return {"images": images, "samples": self.embedded(images), "drawn": drawn}

    def draw(self, pack: Pack, slot: int, labels: Sequence[int], seeds: Sequence[int]) -> np.ndarray:
        """Return drawn images, uint8 ``(N, H, W)``, as many at a time as suit their size."""
        stride = max(1, min(64, _PIXELS // self.base.image_size**2))
        return pack.draw(slot, labels, seeds, stride).numpy()

    def scores(self, part: Part, judged: Judged) -> dict[str, float]:
        """See ``Evaluator.scores``."""
        found = sample_metrics.scores(self.evidence(part, judged), self.dataset.classes)
        told = self.recognised(judged["samples"], judged["drawn"])
        return {**found, **told, "copies": self.copies(judged).share}

    def evidence(self, part: Part, judged: Judged) -> sample_metrics.Samples:
        """See ``Evaluator.evidence``."""
        mine = part is self.dataset.validation
        real = self._validation.embeddings if mine else self.embedded(part.images)
        return sample_metrics.Samples(real, part.labels, judged["samples"], judged["drawn"], self._sigma)

    def copies(self, judged: Judged) -> memorisation.Copies:
        """Find the samples that are near-copies of training images; validation images tell what is near."""
        mine = memorisation.Pictures(judged["samples"], memorisation.small(judged["images"]))
        return memorisation.copies(mine, self._train, self._validation)

    def recognised(self, embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return how many images a classifier of the training images takes for their class."""
        return self._recogniser.shares(embeddings, labels)

    def picture(self, judged: Judged) -> bytes | None:
        """See ``Evaluator.picture``: some samples of each class."""
        rows = [(name, judged["images"][judged["drawn"] == k][:SHOWN]) for k, name in enumerate(self.dataset.classes)]
        return contact_sheet.contact_sheet(rows, SHOWN)

    def references(self, pack: Pack, params: Any) -> dict[str, dict[str, float]]:
        """See ``Evaluator.references``: the base without adapters, and real images.

        Training images stand in the place of samples; ``recognised`` is of the validation images.
        """
        part, untrained = self.dataset.validation, self.untrained(pack, params)
        real = sample_metrics.scores(self.real(part, untrained), self.dataset.classes)
        real |= self.recognised(self._validation.embeddings, part.labels)
        return {"untrained": self.scores(part, untrained), "real": real}

    def untrained(self, pack: Pack, params: Any) -> dict[str, np.ndarray]:
        """Return what the base draws without adapters, as a trial's ``Params`` want it."""
        slot = pack.join(params, seed=0, horizon=1)
        try:
            return self.judge(pack, slot, self.dataset.validation)
        finally:
            pack.leave(slot)

    def real(self, part: Part, judged: Judged) -> sample_metrics.Samples:
        """Return real training images in the place of samples: what a perfect generator would score."""
        return sample_metrics.real_images(
            self.evidence(part, judged), self._train.embeddings, self.dataset.train.labels
        )

    def embedded(self, images: np.ndarray) -> np.ndarray:
        """Return what the judging model makes of images uint8 ``(N, H, W)``: ``(N, D)``."""
        found = []
        for first in range(0, len(images), _AT_ONCE):
            some = torch.from_numpy(np.array(images[first : first + _AT_ONCE])).to(self.device)
            pixels = some.unsqueeze(1).float().div_(255)
            parts = memory.in_parts(len(pixels), _AT_ONCE, lambda a, b, pixels=pixels: self._embed(pixels[a:b]))
            found += [part.float().cpu() for part in parts]
        return torch.cat(found).numpy()

    @cached_property
    def _embed(self) -> Any:
        return self.trainable.embedder(self.base, self.device)

    @cached_property
    def _train(self) -> memorisation.Pictures:
        return self._pictures(self.dataset.train)

    @cached_property
    def _validation(self) -> memorisation.Pictures:
        return self._pictures(self.dataset.validation)

    @cached_property
    def _recogniser(self) -> recognition.Recogniser:
        return recognition.Recogniser(self._train.embeddings, self.dataset.train.labels, self.dataset.classes)

    @cached_property
    def _sigma(self) -> float:
        return sample_metrics.bandwidth(self._train.embeddings)

    def _pictures(self, part: Part) -> memorisation.Pictures:
        return memorisation.Pictures(self.embedded(part.images), memorisation.small(part.images))
