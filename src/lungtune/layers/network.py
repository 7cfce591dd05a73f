"""Fully or partly trained networks, run per trial with its own parameters, statistics and randomness.

A trial's parameters are rows of the pack's parameter stack; they override those of the shared backbone for each call.
Frozen parts are therefore shared, and in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lungtune.layers.layout import BatchLayout

Outputs = Mapping[str, Tensor]
_RATES = ("drop_prob", "drop_path")
_KNOWN = "_lungtune_modes"
"""Attribute of a network that caches the result of ``_modes`` for the network's lifetime."""


def run(
    model: nn.Module,
    inputs: Tensor,
    layout: BatchLayout,
    call: Callable[[Any, Tensor], Outputs],
) -> dict[str, Tensor]:
    """Run the rows of each slot through the network with its trial's parameters.

    Args:
        model: the backbone; the trials train some of its parameters (``Family.trainable_parameters``, full names).
        inputs: ``(N, ...)``, rows ordered as in ``layout``.
        layout: the layout.
        call: takes a trial's ``Params`` and its rows, runs ``model`` and returns its outputs by name.

    Returns:
        The outputs of all rows.
    """
    parts: list[Outputs] = []
    for i, rows in enumerate(layout.rows):
        tensors = layout.network(i)
        model.training = layout.training
        for module, trains in _modes(model, tensors):
            module.training = trains and layout.training
        with _drawing(layout, i):
            overrides = {f"model.{name}": tensor for name, tensor in tensors.items()}
            parts.append(functional_call(_Call(model, call), overrides, (layout.params[i], inputs[rows])))
    if len(parts) == 1:
        return dict(parts[0])
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts]) for name in names}


class _Call(nn.Module):
    """An arbitrary call of a network wrapped as a module, as ``functional_call`` requires."""

    def __init__(self, model: nn.Module, call: Callable[[Any, Tensor], Outputs]) -> None:
        super().__init__()
        self.model = model
        self._call = call

    def forward(self, params: Any, rows: Tensor) -> Outputs:
        return self._call(params, rows)


def parameters(model: nn.Module, trained: Callable[[str], bool]) -> dict[str, Tensor]:
    """Return copies of the parameters whose names ``trained`` accepts: what ``Family.trainable_parameters`` returns."""
    return {name: value.detach().clone().float() for name, value in model.named_parameters() if trained(name)}


def statistics(model: nn.Module, trained: Callable[[str], bool]) -> list[str]:
    """Return the names of the buffers that ``trained`` accepts: what ``Family.statistics`` returns.

    Buffers that no state dict holds, such as a filter's taps or an index, are part of the architecture.
    """
    kept = model.state_dict().keys()
    return [name for name, _ in model.named_buffers() if name in kept and trained(name)]


@torch.no_grad()
def redraw(own: dict[str, Tensor], heads: Iterable[str], generator: torch.Generator) -> None:
    """Reinitialise the parameters of the named Linears in place, as ``torch.nn.Linear`` does.

    Args:
        own: parameters by full name.
        heads: full names of Linears, such as ``fc``.
        generator: everything random is drawn from it.
    """
    for head in heads:
        limit = own[f"{head}.weight"][0].numel() ** -0.5
        for part in ("weight", "bias"):
            own[f"{head}.{part}"].uniform_(-limit, limit, generator=generator)


class DropPath:
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382) of a network whose rate every trial chooses.

    The network is built with a rate above zero, so that its layers exist; each keeps its share of it.

    Args:
        model: holds layers with a ``drop_prob`` (timm's) or ``drop_path`` (our Conformer's).
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [(m, name) for m in model.modules() for name in _RATES if isinstance(getattr(m, name, None), float)]
        rates = [getattr(module, name) for module, name in layers]
        self._layers = [(*at, rate / max(rates)) for at, rate in zip(layers, rates, strict=True) if rate]

    def set(self, rate: float) -> None:
        """Set the drop probability: ``rate`` in [0, 1) for the deepest layer, in proportion for the others."""
        for layer, name, share in self._layers:
            setattr(layer, name, rate * share)


def _modes(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[tuple[nn.Module, bool]]:
    """Return (submodule, True if it trains) of all submodules; frozen ones stay in eval mode.

    A module without parameters, such as dropout, follows the module it is part of.
    """
    known = model.__dict__.setdefault(_KNOWN, {})
    key = tuple(tensors)
    if key not in known:
        prefixes = {name[:i] for name in tensors for i, letter in enumerate(name) if letter == "."} | {""}
        modes: dict[str, tuple[nn.Module, bool]] = {}
        for name, module in model.named_modules():
            bare = next(module.parameters(), None) is None
            parent = modes.get(name.rpartition(".")[0])
            modes[name] = module, parent[1] if bare and parent else name in prefixes
        known[key] = list(modes.values())[1:]  # without the network itself: a reference cycle
    return known[key]


@contextmanager
def _drawing(layout: BatchLayout, i: int) -> Iterator[None]:
    """Seed torch's global generators for a slot's step and for the part of its batch that passes.

    Their state is restored afterwards.
    """
    if not layout.training:
        yield
        return
    device = layout.bits[i].generator.device
    devices: Sequence[Any] = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(layout.drawing(i))
        yield
