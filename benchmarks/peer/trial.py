"""One trial of the stock search: data, model, training from report to report, checkpoints."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lungtune.tasks.classification import metrics
from peer import model as models
from peer.images import Radiographs
from peer.marks import Clock, mark


def class_weights(labels: list[int], classes: int, weighting: str) -> Tensor | None:
    """Return the weights of the loss: none, inverse to the class's frequency, or to its root."""
    if weighting == "none":
        return None
    counts = torch.bincount(torch.tensor(labels), minlength=classes).clamp(min=1).float()
    weights = counts ** (-1.0 if weighting == "balanced" else -0.5)
    return weights / weights.mean()


class Training:
    """A trial in training.

    Args:
        job: what all trials share, see ``peer_search.py``.
        params: what this trial chooses.
        name: Ray's name of the trial.
        clip: a frozen CLIP from an earlier trial of this process; None loads one.
    """

    def __init__(self, job: Mapping[str, Any], params: Mapping[str, Any], name: str, clip: nn.Module | None) -> None:
        self.clock = Clock()
        self.job = job
        self.params = params
        self.name = name
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(job["seed"])
        with self.clock.of("model"):
            clip = clip or models.load(job["base"]).to(self.device)
            captions = job["captions"][params["prompt_style"]]
            matrix = models.class_matrix(clip, captions, open_clip.get_tokenizer(job["base"]["model"]))
        with self.clock.of("adapters"):
            self.model = models.adapt(clip, params, job["targets"][params["lora_targets"]])
            self.scores = models.Scores(self.model, matrix)
        train, validation = job["train"], job["validation"]
        look = clip.visual.preprocess_cfg
        pixels = {"size": job["base"]["image_size"], "mean": look["mean"], "std": look["std"], "keep": job["keep"]}
        on_gpu = self.device.type == "cuda"
        loading = {"num_workers": job["workers"], "persistent_workers": job["workers"] > 0, "pin_memory": on_gpu}
        fold = Radiographs(train, level=params["augmentation"], **pixels)
        self.loader = DataLoader(fold, params["batch_size"], shuffle=True, **loading)
        self.validation = DataLoader(Radiographs(validation, **pixels), 64, **loading)
        labels = [label for _, label in train]
        weights = class_weights(labels, len(job["classes"]), params["class_weighting"])
        self.loss = nn.CrossEntropyLoss(weights).to(self.device)
        self.optimizer = torch.optim.AdamW(
            models.trained(self.model), lr=params["lr"], weight_decay=params["weight_decay"]
        )
        total = math.ceil(job["reports"][-1] * len(train) / params["batch_size"])
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, _warm_cosine(total, job["warmup"]))
        self.samples = self.reports = 0
        self.batches = self._forever()

    @property
    def finished(self) -> bool:
        """True if the trial has made its last report."""
        return self.reports == len(self.job["reports"])

    def until_report(self) -> dict[str, float]:
        """Train to the next report; return its metrics."""
        fidelity = self.job["reports"][self.reports]
        due = round(fidelity * len(self.job["train"]))
        began, before, losses = time.perf_counter(), self.samples, []
        self.scores.train()
        while self.samples < due:
            with self.clock.of("data"):
                images, labels = next(self.batches)
            with self.clock.of("train"):
                losses.append(self._step(images, labels))
            if self.samples == len(labels):
                mark(self.job["marks"], "first step")
        speed = (self.samples - before) / (time.perf_counter() - began)
        with self.clock.of("evaluate"):
            truth, probabilities = self._predict()
        with self.clock.of("metrics"):  # the first call of a process imports scikit-learn
            result = metrics.classification(truth, probabilities, self.job["classes"])
        self.reports += 1
        result |= {"loss": float(np.mean(losses)), "samples_per_second": speed, "peak_memory_mb": _peak_memory()}
        mark(
            self.job["marks"],
            "report",
            trial=self.name,
            start=all(self.params[name] == value for name, value in self.job["points"][0].items()),
            fidelity=fidelity,
            samples=self.samples,
            batch_size=self.params["batch_size"],
            score=result[self.job["metric"]],
            phases=self.clock.take(),
        )
        return result

    def _step(self, images: Tensor, labels: Tensor) -> float:
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.scores(images)
        loss = self.loss(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.samples += len(labels)
        return loss.item()

    @torch.inference_mode()
    def _predict(self) -> tuple[np.ndarray, np.ndarray]:
        self.scores.eval()
        rows, truth = [], []
        for images, labels in self.validation:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                logits = self.scores(images.to(self.device, non_blocking=True))
            rows.append(F.softmax(logits.float(), 1).cpu())
            truth.append(labels)
        return torch.cat(truth).numpy(), torch.cat(rows).numpy()

    def _forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    def save(self, folder: str) -> None:
        """Write what is needed to go on."""
        state = {
            "adapter": get_peft_model_state_dict(self.model),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": (self.samples, self.reports),
        }
        torch.save(state, Path(folder) / "trial.pt")

    def load(self, folder: str) -> None:
        """Go on from what :meth:`save` wrote."""
        state = torch.load(Path(folder) / "trial.pt", map_location=self.device)
        set_peft_model_state_dict(self.model, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.samples, self.reports = state["progress"]

    def release(self) -> nn.Module:
        """Give the frozen CLIP back, without adapters."""
        return self.model.unload()


def _warm_cosine(total: int, warmup: float) -> Callable[[int], float]:
    rising = round(warmup * total)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total - rising))))

    return factor


def _peak_memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
