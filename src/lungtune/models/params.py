"""What the training loop reads of every trial."""

from __future__ import annotations

from dataclasses import dataclass

from lungtune.core.params import param


@dataclass(frozen=True)
class Synthetic:
    """Synthetic images in training, of every family that classifies; ``inputs.training_pool`` reads these.

    Their number never makes a trial longer: fidelity counts the images it sees, whatever they are.
    """

    synthetic_ratio: float = param(
        0.0, low=0.0, high=5.0, help="synthetic training images for each real one; needs a bank of them (--bank)"
    )
    synthetic_balance: str = param(
        "uniform", choices=("uniform", "fill"), help="as many for each class, or first where real ones are few"
    )
    synthetic_use: str = param(
        "mix", choices=("mix", "pretrain"), help="shuffled among the real ones, or alone before them"
    )
    synthetic_images: str = param(
        "generated",
        choices=("generated", "duplicates", "none"),
        help="what they are: from the bank; for comparison, real ones over again, as many; or none",
    )


@dataclass(frozen=True)
class Loop:
    """Parameters of the loop; a family adds its own and gives the defaults of its source."""

    lr: float = param(1e-4, low=1e-7, high=1.0, help="peak learning rate of AdamW")
    weight_decay: float = param(1e-4, low=0.0, high=1.0, help="decoupled weight decay of AdamW")
    batch_size: int = param(16, low=1, high=4096, unit="images", help="images of one optimiser step")
    warmup: float = param(0.1, low=0.0, high=0.9, help="share of the maximum fidelity over which lr rises from zero")
    augmentation: int = param(1, low=0, high=3, help="strength of X-ray-safe augmentation; 0 none, 3 with flips")


@dataclass(frozen=True)
class Classes:
    """Of every family whose cases have one class each; ``inputs.training_pool`` reads it."""

    class_weighting: str = param(
        "none", choices=("none", "sqrt", "balanced"), help="weight of rare classes in the loss"
    )
