"""Fields of a case: kinds, and the requirements of families and tasks."""

from __future__ import annotations

from dataclasses import dataclass

from lungtune.errors import did_you_mean

KINDS = ("image", "volume", "mask", "label", "labels", "text", "table")
"""image ``(C, H, W)``, volume ``(C, D, H, W)``, mask ``(1, ...)`` of the image's or volume's extent, label: a class
index, labels: one number in {0, UNCERTAIN, 1, NaN} per label name, text: a string, table: one number or NaN per
column."""

UNCERTAIN = 0.5
"""Value of an uncertain label; an unknown one is NaN."""


class Labels(tuple[str, ...]):
    """Names of labels that do not exclude one another; a model predicts the presence of each.

    Any other sequence of names is one of classes, exactly one of which each case has.
    """


@dataclass(frozen=True)
class Field:
    """One field of a case: an input of a family or a target of a task.

    Attributes:
        name: key in a data set's part and in a batch.
        kind: one of ``KINDS``.
        channels: of an image or a volume: 1 grey, 3 colour.
    """

    name: str
    kind: str
    channels: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"a field's kind must be one of {', '.join(KINDS)}, but got {self.kind!r}."
                f"{did_you_mean(str(self.kind), KINDS)}"
            )
        if self.kind == "image" and self.channels not in (1, 3):
            raise ValueError(f"an image must have 1 channel (grey) or 3 (colour), but got {self.channels!r}")

    @property
    def spatial(self) -> bool:
        """True if it has a spatial extent; one geometric augmentation transforms all spatial fields of a case."""
        return self.kind in ("image", "volume", "mask")

    @property
    def pixels(self) -> bool:
        """True if its values are intensities, which brightness and noise augmentation change."""
        return self.kind in ("image", "volume")


IMAGE = Field("image", "image")
COLOUR = Field("image", "image", channels=3)
VOLUME = Field("volume", "volume")
MASK = Field("mask", "mask")
LABEL = Field("label", "label")
LABELS = Field("labels", "labels")
TEXT = Field("text", "text")
TABLE = Field("table", "table")
