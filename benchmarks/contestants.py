"""Contestants of ``packing.py``: lungtune's pack, and single trials written in plain PyTorch."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lungtune.data.dataset import Part
from lungtune.engine.pack import Pack
from lungtune.models import clip_model, clip_weights
from lungtune.trainables import clip_lora
from peer import model as peer_models

CLASSES = ("normal", "bacterial", "viral")
IMAGES = 256
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Setting:
    """The base, and the one configuration of all trials (the source project's)."""

    weights: str
    size: int
    params: dict[str, Any] = field(
        default_factory=lambda: {"lora_rank": 16, "lora_alpha": 32.0, "lora_dropout": 0.1, "lora_targets": "qkv_mlp"}
    )

    @classmethod
    def of(cls, model: str, folder: Path) -> Setting:
        """Return the setting of ``tiny_clip`` or of one of open_clip's architectures, with random weights."""
        if model == "tiny_clip":
            return cls(model, 64)
        config = open_clip.get_model_config(model)
        size = config["vision_cfg"]["image_size"]
        if not (folder / model).exists():
            torch.manual_seed(0)
            clip = open_clip.create_model(model)
            statistics = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
            clip_model.write_clip(clip.state_dict(), config, *statistics, folder / model)
        return cls(str(folder / model), size)

    def pixels(self) -> torch.Tensor:
        """Return random images, uint8 ``(N, H, W)``, equal for all contestants."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (IMAGES, self.size, self.size), dtype=torch.uint8, generator=generator)


class Packed:
    """A pack of K equal trials, pixels and augmentation included."""

    def __init__(self, setting: Setting, capacity: int) -> None:
        self.setting = setting
        base = clip_lora.ClipLoraBase(weights=setting.weights, image_size=setting.size)
        train = Part.of(image=setting.pixels()[:, None].numpy(), label=np.arange(IMAGES) % len(CLASSES))
        self.pack = Pack(clip_lora.FAMILY, base, CLASSES, train, capacity=capacity, device=DEVICE)

    def ready(self, count: int, batch: int) -> Callable[[], int]:
        """Add ``count`` trials; return a step that returns its number of images."""
        for slot in self.pack.slots:
            self.pack.leave(slot)
        params = clip_lora.ClipLoraParams(batch_size=batch, augmentation=0, **self.setting.params)
        for seed in range(count):
            self.pack.join(params, seed=seed, horizon=10**7)

        def step() -> int:
            self.pack.step()  # its losses come to the host: it has waited for the device
            return count * batch

        return step


class Eager:
    """One trial as users write it: PEFT, autocast, torch's AdamW; images wait decoded and normalised on the device."""

    def __init__(self, setting: Setting) -> None:
        weights = clip_weights.find("", setting.weights, fetch=False)
        base = {"model": weights.model, "pretrained": None, "settings": {}, "image_size": setting.size}
        self.clip = peer_models.load(base).to(DEVICE)
        self.setting = setting
        captions = [[f"a chest X-ray of {name}"] for name in CLASSES]
        self.matrix = peer_models.class_matrix(self.clip, captions, open_clip.get_tokenizer(weights.model))
        pixels = setting.pixels()[:, None].float().div(255).sub(0.5).div(0.25).expand(-1, 3, -1, -1)
        self.images = pixels.contiguous().to(DEVICE)
        self.labels = (torch.arange(IMAGES) % len(CLASSES)).to(DEVICE)

    def ready(self, batch: int, *, compiled: bool = False) -> Callable[[], int]:
        """Begin a fresh trial; return its step.

        Args:
            batch: images of a step.
            compiled: by ``torch.compile`` into CUDA graphs, as an expert does it: frozen matrices in bfloat16 (CUDA),
                the learning rate a tensor, or each of its values would be compiled anew.
        """
        pattern = r"visual\.transformer\.resblocks\.\d+\.(attn\.[qkv]_proj|mlp\.c_fc|mlp\.c_proj)"
        clip = copy.deepcopy(self.clip)
        if compiled and DEVICE == "cuda":
            for module in clip.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(torch.bfloat16)
        model = peer_models.adapt(clip, self.setting.params, pattern).train()
        scores = peer_models.Scores(model, self.matrix)

        def objective(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                return F.cross_entropy(scores(images).float(), labels)

        rate: Any = 1e-4
        if compiled:
            objective = torch.compile(objective, mode="reduce-overhead")
            rate = torch.tensor(rate, device=DEVICE)
        on_gpu = DEVICE == "cuda"
        optimizer = torch.optim.AdamW(
            peer_models.trained(model), lr=rate, weight_decay=0.01, fused=on_gpu or None, capturable=on_gpu and compiled
        )
        state = {"at": 0}

        def step() -> int:
            rows = slice(state["at"], state["at"] + batch)
            state["at"] = (state["at"] + batch) % (IMAGES - batch + 1)
            if compiled:
                torch.compiler.cudagraph_mark_step_begin()
            loss = objective(self.images[rows], self.labels[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # at the end: CUDA graphs may then use the memory again
            loss.item()  # as everybody's loop does, to log it
            return batch

        return step

    def flops(self, batch: int) -> float:
        """Count the floating-point operations of one step for one image."""
        step = self.ready(batch)
        with FlopCounterMode(display=False) as counter:
            step()
        return counter.get_total_flops() / batch


def rate(step: Callable[[], int], seconds: float, warm: int = 3) -> float:
    """Return the images a second of a step, over at least ``seconds`` after ``warm`` steps."""
    for _ in range(warm):
        step()
    began, images = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds or not images:
        images += step()
    return images / elapsed


def memory() -> float:
    """Return MiB: the peak on the GPU since the last :func:`forget`, or what this process holds now."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


def forget() -> None:
    """Free what is not used, and begin counting the GPU's peak anew."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def matmul_rate() -> float:
    """Return the FLOP/s of a large square product: bf16 8192 on CUDA, float32 2048 on a CPU; the best of three."""
    on_gpu = DEVICE == "cuda"
    side, dtype, times = (8192, torch.bfloat16, 20) if on_gpu else (2048, torch.float32, 1)
    a, b = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(times):
            c = a @ b
        c[0, 0].item()
        best = max(best, times * 2 * side**3 / (time.perf_counter() - began))
    return best
