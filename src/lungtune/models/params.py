"""Parameters of the training loop, common to all families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lungtune.core.params import param


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
class Classes:
    """Of every family whose cases have one class each; ``inputs.training_pool`` reads it."""

    target: ClassVar[str] = "label"

    class_weighting: str = param(
        "none", choices=("none", "sqrt", "balanced"), help="weight of rare classes in the loss"
    )
