"""Names of parameters and metrics in other libraries and papers, for suggestions on unknown names."""

from __future__ import annotations

from collections.abc import Iterable

from lungtune.errors import did_you_mean

SYNONYMS = {
    "lr": ("learning_rate", "learningrate", "eta", "step_size", "max_lr", "init_lr"),
    "batch_size": ("batch", "bs", "batchsize", "train_batch_size", "per_device_train_batch_size"),
    "weight_decay": ("wd", "l2", "l2_reg", "decay"),
    "optimizer": ("optimiser", "optim", "opt", "solver"),
    "lr_schedule": ("scheduler_type", "lr_scheduler", "lr_scheduler_type", "schedule"),
    "warmup": ("warmup_ratio", "warmup_steps", "warmup_epochs"),
    "augmentation": ("augment", "aug", "augmentations", "data_augmentation"),
    "class_weighting": ("class_weights", "class_weight", "pos_weight"),
    "sampling": ("oversampling", "oversample", "weighted_sampling", "balanced_sampling"),
    "loss": ("loss_fn", "loss_function", "criterion"),
    "lora_rank": ("rank", "r", "lora_r"),
    "lora_alpha": ("alpha",),
    "lora_targets": ("target_modules",),
    "dropout": ("drop", "p_dropout"),
    "lora_dropout": ("dropout", "drop"),
    "drop_rate": ("dropout", "drop", "dropout_rate"),
    "drop_path": ("stochastic_depth", "drop_path_rate"),
    "hidden": ("hidden_size", "hidden_dim", "hidden_units"),
    "image_size": ("img_size", "imgsz", "resolution", "input_size", "size"),
    "model": ("backbone", "arch", "architecture", "encoder", "model_name"),
    "weights": ("pretrained", "checkpoint", "pretrained_weights"),
    "guidance": ("guidance_scale", "cfg", "cfg_scale"),
    "sampler_steps": ("num_inference_steps", "inference_steps"),
    "trials": ("n_trials", "num_trials", "num_samples"),
    "fidelity.max": ("epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs", "passes"),
    "macro_auroc": ("auc", "auroc", "roc_auc", "rocauc", "macro_auc", "auc_roc"),
    "macro_ap": ("ap", "average_precision", "auprc", "pr_auc", "map", "aupr"),
    "macro_f1": ("f1", "f1_score", "f1_macro", "fscore", "f_score"),
    "balanced_accuracy": ("bacc", "balanced_acc", "bal_acc", "uar", "macro_recall"),
    "accuracy": ("acc", "top1", "top_1"),
    "mcc": ("matthews", "matthews_corrcoef", "phi"),
    "nll": ("loss", "val_loss", "log_loss", "logloss", "cross_entropy", "ce"),
    "brier": ("brier_score",),
    "ece": ("calibration", "calibration_error", "expected_calibration_error"),
    "dice": ("dsc", "dice_score", "dice_coefficient"),
    "iou": ("jaccard", "jaccard_index", "miou"),
    "cmmd": ("fid", "kid", "mmd"),
}
"""Name here -> names elsewhere, in lower case with underscores."""


def meant(word: str, known: Iterable[str]) -> str:
    """Return ``did_you_mean`` of a name, other libraries' names included.

    Args:
        word: what was written; a name before its last dot, such as a task's, is kept.
        known: the names there are.
    """
    options = list(known)
    owner, dot, name = word.rpartition(".")
    plain = name.lower().replace("-", "_")
    for here, elsewhere in SYNONYMS.items():
        if (plain in elsewhere or plain == here) and (option := f"{owner}{dot}{here}") in options:
            return f" Did you mean '{option}'?"
    return did_you_mean(word, options)
