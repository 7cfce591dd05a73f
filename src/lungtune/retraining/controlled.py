"""Retraining whose report compares the model with controls without lungs (`controls`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune.core.fields import MASK
from lungtune.errors import TrialError
from lungtune.retraining import controls
from lungtune.retraining.frame import Retraining
from lungtune.stats.controls import missing

if TYPE_CHECKING:
    from lungtune.data.dataset import Part
    from lungtune.retraining.frame import Predicted

_OUTSIDE = "What the files look like from outside (size, mode, type)"
_DARK = "The same recipe with the lungs blacked out"


class ControlledRetraining(Retraining):
    """See ``Retraining``. The task's predictions are ``probabilities`` ``(N, C)``."""

    _dark: controls.Blackout | None = None

    def before_test(self) -> None:
        """See ``Retraining.before_test``; the recipe trains on black lungs first."""
        if self.options.blackout and controls.masked(self.inspection):
            seen = self.opened((MASK,))
            arguments = self.family, self.base, seen, self.space, self.origin.fidelity
            self._dark = controls.Blackout(*arguments, self.checkpoints / "blackout")
        super().before_test()

    def locked(self) -> Part:
        """See ``Retraining.locked``: with masks where the blackout needs them."""
        masks = (MASK,) if self._dark is not None else ()
        part = self.opened(masks, test=True).test
        assert part is not None
        return part

    # What subclasses define.

    @abstractmethod
    def from_files(self, train: Mapping[str, np.ndarray], scored: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return probabilities ``(N, C)`` predicted from file properties alone, learnt on the training fold."""

    @abstractmethod
    def versus(
        self, part: Part, probabilities: np.ndarray, blind: np.ndarray, what: str, train: Part, rows: np.ndarray | None
    ) -> dict[str, Any]:
        """Compare the model with a control.

        Args:
            part: the cases.
            probabilities: the model's ``(N, C)``.
            blind: the control's ``(N, C)``.
            what: the control, as the beginning of a sentence.
            train: the cases that the control was trained on.
            rows: bool ``(N,)``, the cases to score; None for all.

        Returns:
            What :func:`lungtune.stats.controls.compared` or ``missing`` returns, and ``cases``.
        """

    # What subclasses use.

    def probabilities(self, predicted: Predicted) -> np.ndarray:
        """Return the task's probabilities ``(N, C)``."""
        return predicted[self.task.name]["probabilities"]

    def controlled(self, name: str, part: Part, probabilities: np.ndarray) -> dict[str, Any]:
        """Return the comparisons with file properties and, on test, with black lungs, by name."""
        blind = self.from_files(*(controls.outside(self.inspection, each) for each in ("train", name)))
        results = {controls.METADATA: self.versus(part, probabilities, blind, _OUTSIDE, self.dataset.train, None)}
        return results if name == "validation" else {**results, controls.BLACKOUT: self._blackout(part, probabilities)}

    def _blackout(self, part: Part, probabilities: np.ndarray) -> dict[str, Any]:
        if self._dark is None:
            return missing(controls.NO_MASKS if self.options.blackout else controls.LEFT_OUT)
        if self._dark.problem:
            return missing(self._dark.problem)
        rows, blind = part.has("mask"), np.zeros_like(probabilities)
        if not rows.any():
            return missing("Not computed: no case of this part has a lung mask.")
        blind[rows] = self.probabilities(self._dark.predict(part))
        try:
            return self.versus(part, probabilities, blind, _DARK, self._dark.train, rows)
        except TrialError as error:  # its probabilities are not finite
            return missing(f"Not computed: {error}")
