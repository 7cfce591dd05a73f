"""Synthetic study that follows the journal's schema, as a search of a few trials would write it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from safetensors.numpy import save_file

from lungtune.core.journal import Journal

CLASSES = ["normal", "bacterial", "viral"]
CASES = 4000
RUNGS = (0.25, 0.5, 1.0, 2.0)
AXES = {
    "lora_rank": CategoricalDistribution([4, 8, 16, 32]),
    "lora_alpha": IntDistribution(16, 32),
    "lora_dropout": FloatDistribution(0.0, 0.3),
    "lr": FloatDistribution(5e-4, 2e-2, log=True),
    "weight_decay": FloatDistribution(1e-4, 1e-1, log=True),
    "augmentation": IntDistribution(0, 3),
    "prompt_style": CategoricalDistribution(["plain", "radiology", "ensemble"]),
}
START = {"lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.1, "lr": 5e-4, "weight_decay": 1e-2, "augmentation": 1}
START |= {"prompt_style": "plain"}
FIXED = {"batch_size": 16, "lora_targets": "qv", "class_weighting": "none", "warmup": 0.05}

Event = tuple[str, dict[str, Any]]


def head(name: str = "clip_lora-1", trials: int = 16, study_id: str = "5" * 32) -> Event:
    """Return the journal's first event."""
    axes = {key: distribution_to_json(axis) for key, axis in AXES.items()}
    space = {
        "name": "clip_lora", "family": "clip_lora", "summary": "LoRA on CLIP", "profile": "demo", "sampler": "tpe",
        "objective": {"metric": "macro_f1", "mode": "max"}, "trials": trials, "rungs": list(RUNGS[:-1]), "axes": axes,
        "fidelity": {"max": 2.0, "min": 0.25, "eta": 2.0, "report": 0.25},
        "base": {"image_size": 64, "weights": "tiny"},
        "fixed": FIXED, "start": [START], "text": "family: clip_lora\nobjective: macro_f1\n",
    }  # fmt: skip
    data = {"source": "chest_xray:/data/chest_xray", "hash": "0123456789abcdef" * 4, "classes": CLASSES}
    data["counts"] = {"train": dict(zip(CLASSES, (1080, 2030, 1076), strict=True))}
    about = {"command": "lungtune search --space clip_lora", "git": "f" * 40}
    versions = {"lungtune": "0.1.0", "torch": "2.13.0", "ray": "2.60.0"}
    return "study", {"schema": 1, "name": name, "id": study_id, "space": space, "data": data, "seed": 7, **about,
                     "versions": versions}  # fmt: skip


def metrics(score: float, rng: np.random.Generator) -> dict[str, float]:
    """Return the metrics of one report."""
    wobble = {key: score + rng.normal(0, 0.01) for key in ("balanced_accuracy", "accuracy", "mcc")}
    recalls = {f"recall_{name}": min(1.0, max(0.0, score + rng.normal(0, 0.06))) for name in CLASSES}
    errors = {"nll": 2 * (1 - score), "brier": 1 - score, "ece": 0.3 * (1 - score), "loss": 2.1 * (1 - score)}
    cost = {"samples_per_second": rng.normal(310, 12), "peak_memory_mb": 1480.0}
    return {"macro_f1": score, "macro_auroc": 0.5 + score / 2, **wobble, **recalls, **errors, **cost}


def _suggest(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "lora_rank": int(rng.choice([4, 8, 16, 32])),
        "lora_alpha": int(rng.integers(16, 33)),
        "lora_dropout": float(rng.uniform(0, 0.3)),
        "lr": float(np.exp(rng.uniform(np.log(5e-4), np.log(2e-2)))),
        "weight_decay": float(np.exp(rng.uniform(np.log(1e-4), np.log(1e-1)))),
        "augmentation": int(rng.integers(0, 4)),
        "prompt_style": str(rng.choice(["plain", "radiology", "ensemble"])),
    }


def script(trials: int = 16, seed: int = 0, name: str = "clip_lora-1", study_id: str = "5" * 32) -> Iterator[Event]:
    """Yield a whole study's events: a start, pruned, failed, lost and duplicate trials among them."""
    rng = np.random.default_rng(seed)
    distributions = {key: distribution_to_json(axis) for key, axis in AXES.items()}
    yield head(name, trials, study_id)
    yield "open", {"pid": 4242, "host": "here", "why": "start"}
    yield "target", {"trials": trials}
    yield "baselines", {"constant": {"macro_f1": 0.218, "accuracy": 0.485, "balanced_accuracy": 1 / 3}}
    rungs: dict[float, list[float]] = {rung: [] for rung in RUNGS}
    for number in range(trials):
        sampled = _suggest(rng) if number else dict(START)
        yield "trial", {"trial": number, "params": {**sampled, **FIXED}, "sampled": sampled, "seed": 7 + number,
                        "distributions": distributions, "origin": "sampler" if number else "start"}  # fmt: skip
        if number == 7:
            yield "end", {"trial": 7, "state": "COMPLETE", "reason": "duplicate", "message": "", "duplicate_of": 0}
            continue
        yield "start", {"trial": number, "attempt": 1, "fidelity": 0.0}
        if number == 5:
            message = "Traceback (most recent call last):\n  ...\nTrialError: 'loss' became nan"
            yield "end", {"trial": 5, "state": "FAIL", "reason": "nan", "message": message}
            continue
        if number == 3:
            yield "lost", {"trial": 3, "why": "worker died (SIGKILL)"}
            yield "start", {"trial": 3, "attempt": 2, "fidelity": 0.0}
        top = 0.84 - 0.11 * abs(math.log10(sampled["lr"] / 4e-3)) - 0.05 * (sampled["augmentation"] == 3)
        top -= 0.3 * max(0.0, sampled["lora_dropout"] - 0.2)
        for fidelity in RUNGS:
            score = float(top * (1 - 0.35 * math.exp(-2.2 * fidelity)) + rng.normal(0, 0.008))
            yield "report", {"trial": number, "fidelity": fidelity, "samples": int(fidelity * CASES),
                             "metrics": metrics(score, rng),
                             "checkpoint": f"checkpoints/{number:04d}/{fidelity:.2f}.safetensors"}  # fmt: skip
            beaten = bool(rungs[fidelity]) and score < float(np.median(rungs[fidelity]))
            rungs[fidelity].append(score)
            if fidelity == RUNGS[-1]:
                yield "end", {"trial": number, "state": "COMPLETE", "reason": "", "message": ""}
            elif beaten and number:
                yield "end", {"trial": number, "state": "PRUNED", "reason": "asha", "message": ""}
                break
    yield "summary", {"best": {"trial": 2, "value": 0.83}, "gain_over_start": 0.05}
    yield "stop", {"pid": 4242, "host": "here", "why": "finished"}


def write(folder: Path, events: Iterator[Event] | list[Event], pause: float = 0.0) -> float:
    """Append events to ``<folder>/journal.jsonl``; return the longest a single append took (s)."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    slowest = 0.0
    for kind, fields in events:
        began = time.perf_counter()
        journal.append(kind, **fields)
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(pause)
    journal.close()
    return slowest


def write_files(folder: Path, trials: int = 16) -> None:
    """Write what lies beside a journal: split manifest, summary, checkpoints with predictions."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    split = {"hash": "0123456789abcdef" * 4, "train": ["a.png"], "val": ["b.png"]}
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "summary.json").write_text(json.dumps({"schema": 1, "best": {"trial": 2}}))
    labels = rng.integers(0, 3, 600)
    for number in range(trials):
        for fidelity in RUNGS:
            scores = rng.normal(0, 1, (600, 3)) + 2.6 * np.eye(3)[labels]
            probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            path = folder / f"checkpoints/{number:04d}/{fidelity:.2f}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"labels": labels, "probabilities": probabilities.astype(np.float32)}, path)
