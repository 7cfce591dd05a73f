"""Evaluator of generating trials, with the untrained base and real images as references."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lungtune.core.task import Evaluator
from lungtune.engine import memory
from lungtune.layers.layout import derive_seed
from lungtune.report import contact_sheet
from lungtune.tasks.generation import memorisation, recognition, sample_metrics

if TYPE_CHECKING:
    from lungtune.data.dataset import Part
    from lungtune.engine.pack import Pack

Predicted = Mapping[str, np.ndarray]

SHOWN = 8
"""Samples of each class on a contact sheet."""

_NOISE = 7_001
"""Samples of reports start from the same noise in all trials: differences are the trials', not the noise's."""

_AT_ONCE = 256
_PIXELS = 1 << 22
"""Maximum number of pixels drawn at a time, in at most 64 images."""


class GenerationEvaluator(Evaluator):
    """Predictions are ``images`` uint8 ``(M, H, W)``, their embeddings ``samples`` ``(M, D)`` and classes ``drawn``
    ``(M,)``: ``Base.samples`` of each class."""

    _other: tuple[Part, np.ndarray] | None = None
    """The part scored last, other than validation, with its embeddings."""

    def predict(self, pack: Pack, slot: int, part: Part) -> dict[str, np.ndarray]:
        """See ``Evaluator.predict``. The same samples for any part of the data."""
        count = self.base.samples
        drawn = np.repeat(np.arange(len(self.dataset.classes)), count)
        seeds = [derive_seed(_NOISE, int(label), place % count) for place, label in enumerate(drawn)]
        images = self.draw(pack, slot, drawn.tolist(), seeds)
        return {"images": images, "samples": self.embedded(images), "drawn": drawn}

    def draw(self, pack: Pack, slot: int, labels: Sequence[int], seeds: Sequence[int]) -> np.ndarray:
        """Return drawn images, uint8 ``(N, H, W)``; their size sets the number drawn at a time."""
        stride = max(1, min(64, _PIXELS // self.base.image_size**2))
        return _flat(np.asarray(pack.draw(slot, labels, seeds, stride)))

    def scores(self, part: Part, predicted: Predicted) -> dict[str, float]:
        """See ``Evaluator.scores``."""
        scores = sample_metrics.scores(self.kept(part, predicted), self.dataset.classes)
        shares = self.recognised(predicted["samples"], predicted["drawn"])
        return {**scores, **shares, "copies": self.copies(predicted).share}

    def kept(self, part: Part, predicted: Predicted) -> sample_metrics.Samples:
        """See ``Evaluator.kept``."""
        if part is self.dataset.validation:
            real = self._validation.embeddings
        else:
            if self._other is None or self._other[0] is not part:
                self._other = part, self.embedded(part["image"])
            real = self._other[1]
        return sample_metrics.Samples(real, part["label"], predicted["samples"], predicted["drawn"], self._sigma)

    def copies(self, predicted: Predicted) -> memorisation.Copies:
        """Detect the samples that are near-copies of training images; validation images set the threshold."""
        mine = memorisation.Pictures(predicted["samples"], memorisation.small(predicted["images"]))
        return memorisation.copies(mine, self._train, self._validation)

    def recognised(self, embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the number of images that a classifier of the training images assigns to their class."""
        return self._recogniser.shares(embeddings, labels)

    def picture(self, predicted: Predicted) -> bytes | None:
        """See ``Evaluator.picture``: some samples of each class."""
        images, drawn = predicted["images"], predicted["drawn"]
        rows = [(name, images[drawn == k][:SHOWN]) for k, name in enumerate(self.dataset.classes)]
        return contact_sheet.contact_sheet(rows, SHOWN)

    def references(self, pack: Pack, params: Any) -> dict[str, dict[str, float]]:
        """See ``Evaluator.references``: the base without adapters, and real images.

        Training images stand in the place of samples; ``recognised`` is of the validation images.
        """
        part, untrained = self.dataset.validation, self.untrained(pack, params)
        real = sample_metrics.scores(self.real(part, untrained), self.dataset.classes)
        real |= self.recognised(self._validation.embeddings, part["label"])
        return {"untrained": self.scores(part, untrained), "real": real}

    def untrained(self, pack: Pack, params: Any) -> dict[str, np.ndarray]:
        """Return samples of the base without adapters, with a trial's ``Params``."""
        slot = pack.join(params, seed=0, horizon=1)
        try:
            return self.predict(pack, slot, self.dataset.validation)
        finally:
            pack.leave(slot)

    def real(self, part: Part, predicted: Predicted) -> sample_metrics.Samples:
        """Return real training images in the place of samples: the reference of a perfect generator."""
        return sample_metrics.real_images(
            self.kept(part, predicted), self._train.embeddings, self.dataset.train["label"]
        )

    def embedded(self, images: np.ndarray) -> np.ndarray:
        """Return embeddings ``(N, D)`` of images uint8 ``(N, 1, H, W)`` or ``(N, H, W)``."""
        embeddings = []
        for first in range(0, len(images), _AT_ONCE):
            some = torch.from_numpy(np.array(images[first : first + _AT_ONCE])).to(self.device)
            pixels = some.reshape(len(some), 1, *some.shape[-2:]).float().div_(255)
            embed = functools.partial(self._embed_rows, pixels)
            embeddings += [part.float().cpu() for part in memory.in_parts(len(pixels), _AT_ONCE, embed)]
        return torch.cat(embeddings).numpy()

    def _embed_rows(self, pixels: torch.Tensor, first: int, last: int) -> torch.Tensor:
        rows: torch.Tensor = self._embed(pixels[first:last])
        return rows

    @cached_property
    def _embed(self) -> Any:
        return self.family.embedder(self.base, self.device)

    @cached_property
    def _train(self) -> memorisation.Pictures:
        return self._pictures(self.dataset.train)

    @cached_property
    def _validation(self) -> memorisation.Pictures:
        return self._pictures(self.dataset.validation)

    @cached_property
    def _recogniser(self) -> recognition.Recogniser:
        return recognition.Recogniser(self._train.embeddings, self.dataset.train["label"], self.dataset.classes)

    @cached_property
    def _sigma(self) -> float:
        return sample_metrics.bandwidth(self._train.embeddings)

    def _pictures(self, part: Part) -> memorisation.Pictures:
        return memorisation.Pictures(self.embedded(part["image"]), memorisation.small(_flat(part["image"])))


def _flat(images: np.ndarray) -> np.ndarray:
    """Return grey images ``(N, 1, H, W)`` or ``(N, H, W)`` as ``(N, H, W)``, without a copy."""
    return images.reshape(len(images), *images.shape[-2:])
