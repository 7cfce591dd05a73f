"""Parameters of the training loop, common to all families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lungtune.core import imbalance
from lungtune.core.params import Notation, param


@dataclass(frozen=True)
class Synthetic:
    """Synthetic images in training, of every family that classifies; ``inputs.training_pool`` reads these.

    They do not lengthen a trial: fidelity counts all images that it trains on, real or synthetic.
    """

    target: ClassVar[str] = "label"

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

    lr: float = param(1e-4, low=1e-7, high=1.0, help="peak learning rate")
    weight_decay: float = param(
        1e-4, low=0.0, high=1.0, help="weight decay: decoupled for adamw, added to the gradient for adam and sgd"
    )
    batch_size: int = param(16, low=1, high=4096, unit="images", help="images of one optimiser step")
    warmup: float = param(0.1, low=0.0, high=0.9, help="share of the maximum fidelity over which lr rises")
    augmentation: int = param(1, low=0, high=3, help="strength of X-ray-safe augmentation; 0 none, 3 with flips")
    optimizer: str = param(
        "adamw",
        choices=("adamw", "adam", "sgd"),
        neutral="adamw",
        structural=("sgd",),
        help="as in torch.optim; betas 0.9 and 0.999",
    )
    momentum: float = param(
        0.0, low=0.0, high=0.999, neutral=0.0, only_with=("optimizer", "sgd"), help="momentum of sgd; 0: none"
    )
    lr_schedule: str = param(
        "cosine", choices=("cosine", "constant", "step"), neutral="cosine", help="how lr goes on after the warm-up"
    )
    warmup_start: float = param(
        0.0, low=0.0, high=1.0, neutral=0.0, help="lr at the first step of the warm-up, as a factor on lr"
    )
    lr_cosine: float = param(
        0.0,
        low=0.0,
        high=1.0,
        neutral=0.0,
        only_with=("lr_schedule", "cosine"),
        help="share of the maximum fidelity in which cosine falls to zero, to rise again; 0: all after the warm-up",
    )
    lr_step: float = param(
        0.25,
        low=1e-3,
        high=1.0,
        only_with=("lr_schedule", "step"),
        help="share of the maximum fidelity after which step lowers lr, again and again",
    )
    lr_gamma: float = param(
        0.1, low=0.0, high=1.0, only_with=("lr_schedule", "step"), help="factor by which step lowers lr"
    )


@dataclass(frozen=True)
class Balance:
    """Treatment of rare classes, of every family whose cases have one class each.

    ``inputs.training_pool`` reads these.
    """

    target: ClassVar[str] = "label"

    class_weighting: str = param(
        "none",
        choices=("none", "sqrt", "balanced"),
        notation=Notation(imbalance.FORM, imbalance.read),
        help="weight of rare classes in the loss: a rule, or a weight for each class",
    )
    sampling: str = param(
        "natural",
        choices=("natural", "balanced"),
        neutral="natural",
        help="training images as often as they are, or every class equally often",
    )


@dataclass(frozen=True)
class Classes(Balance):
    """Of every family that classifies: rare classes and the loss; ``tasks.classification`` reads the latter."""

    target: ClassVar[str] = "label"
    loss: str = param(
        "cross_entropy",
        choices=("cross_entropy", "focal"),
        neutral="cross_entropy",
        help="of the right class, or focal loss, which lowers the weight of cases that are classified well",
    )
    focal_gamma: float = param(
        2.0,
        low=0.5,
        high=5.0,
        only_with=("loss", "focal"),
        help="exponent of focal loss: a case counts (1 - p)^gamma, p the probability of its class",
    )


@dataclass(frozen=True)
class Smote:
    """Interpolated training features (SMOTE), of families that train a head on features of the frozen model.

    ``inputs.training_pool`` reads these.
    """

    target: ClassVar[str] = "label"
    smote: bool = param(
        False, neutral=False, help="fill rare classes up to the largest by interpolated features of training images"
    )
    smote_neighbours: int = param(
        5,
        low=1,
        high=20,
        only_with=("smote", True),
        help="nearest images of the same class, one of which a feature is interpolated with",
    )
