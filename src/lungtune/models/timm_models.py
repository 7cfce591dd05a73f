"""Pretrained image models: timm's, the Conformers of this project, and the shipped bases."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from lungtune.core import paths
from lungtune.core.io import log_stderr
from lungtune.errors import SpaceError, WeightsError, did_you_mean
from lungtune.models import hub

if TYPE_CHECKING:
    import torch

_CONFIG = "config.json"
_FILES = ("model.safetensors", "pytorch_model.bin")
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
_OURS = "conformer_"
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")


@dataclass(frozen=True)
class Weights:
    """A model to build.

    Attributes:
        architecture: timm's name, or one of ``conformer.SIZES``.
        file: the weights; None for random ones.
        settings: arguments of the architecture.
        config: what timm calls pretrained_cfg: ``mean``, ``std``, ``input_size``, ``first_conv``, ``classifier``, ...
        about: in words, where they come from.
    """

    architecture: str
    file: Path | None
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    about: str


class Built(NamedTuple):
    """A model in eval mode on the CPU, and the pixel statistics its input must have, one for each channel.

    Its library builds it from ``architecture`` and ``settings``.
    """

    model: torch.nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: str = ""
    settings: Mapping[str, Any] = MappingProxyType({})


def check(model: str, weights: str) -> None:
    """Verify that weights are on this machine, fetching them if the hub answers; report random ones on stderr.

    Raises:
        WeightsError: they are unavailable; the message explains how to get them.
    """
    located = find(model, weights, fetch=True)
    if located.file is None:
        log_stderr(f"The weights of {located.architecture} are {located.about}.")


def find(model: str, weights: str, *, fetch: bool) -> Weights:
    """Find a model and its weights.

    Args:
        model: timm's name of the architecture or ``conformer_tiny``, ``_small``, ``_base``, ``_micro``; not read when
            ``weights`` is a folder.
        weights: name of a shipped base, a folder in timm's format for the hub, a weights file, a tag of timm's such as
            ``a1_in1k``, ``default`` for the model's own tag, or ``random``.
        fetch: download what no cache holds.

    Raises:
        WeightsError: they are unavailable; the message explains how to get them.
    """
    file = paths.expanded(weights)
    if weights == "random":
        return Weights(model, None, {}, _config_of(model, None), "random numbers: nothing is pretrained")
    for folder in (hub.shipped(weights), file):
        if folder.is_dir():
            return _folder(folder)
    if file.is_file():
        if file.suffix not in _ENDINGS:
            raise WeightsError(f"weights must be a file that ends with {' or '.join(_ENDINGS)}, but got {weights}.")
        return Weights(model, file, {}, _config_of(model, None) | {"num_classes": 0}, str(file))
    if hub.is_path(weights) or file.suffix in _ENDINGS:
        raise WeightsError(f"weights must name a folder with {_CONFIG} and weights, but {weights} does not exist.")
    config = _config_of(model, weights)
    return Weights(model, _of_tag(model, weights, config, fetch), {}, config, f"the weights '{weights}' of {model}")


def _folder(folder: Path) -> Weights:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        architecture = config["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder} must hold timm's {_CONFIG} with an architecture, but: {error}.") from error
    files = [folder / name for name in _FILES if (folder / name).is_file()]
    files += sorted(file for file in folder.iterdir() if file.suffix in _ENDINGS)
    if not files:
        raise WeightsError(f"{folder} must hold a weights file such as {_FILES[0]}, but has none.")
    settings, about = config.get("model_args") or {}, config.get("pretrained_cfg", config)
    return Weights(architecture, files[0], settings, {"num_classes": config.get("num_classes", 0)} | about, str(folder))


def _config_of(model: str, tag: str | None) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg`` of a model's weights; that of its default tag for None."""
    if model.startswith(_OURS):
        from lungtune.models import conformer

        conformer.known(model)
        if tag is not None:
            raise WeightsError(
                f"weights '{tag}' are not known for {model}: its authors give theirs as files "
                "(github.com/pengzhiliang/Conformer). Fetch one and give `--set weights=FILE`, or give 'random'."
            )
        return dict(_IMAGENET)
    from lungtune.models import lazy_imports

    timm = lazy_imports.timm()
    known = timm.list_models()
    if model not in known:
        close = difflib.get_close_matches(model, known, n=1)
        raise WeightsError(f"model '{model}' is not one of timm's.{did_you_mean(model, close)}")
    try:
        name = model if tag in (None, "default") else f"{model}.{tag}"
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # there is no such tag, or none at all
        config = None
    if tag is None:
        return config.to_dict() if config else dict(_IMAGENET)
    if config is None or not config.has_weights:
        tags = [entry.partition(".")[2] for entry in timm.list_pretrained(f"{model}.*")]
        raise WeightsError(f"weights '{tag}' are not known for {model}.{did_you_mean(tag, [*tags, 'random'])}")
    return config.to_dict()


def _of_tag(model: str, tag: str, config: Mapping[str, Any], fetch: bool) -> Path:
    from huggingface_hub import hf_hub_download

    repo, name, url = config.get("hf_hub_id"), config.get("hf_hub_filename"), config.get("url")
    path = None
    if repo:
        names = (name.replace("pytorch_model.bin", "model.safetensors"), name) if name else _FILES
        files = [(repo, each) for each in dict.fromkeys(names)]
        path = hub.cached(files) or (hub.fetched(files, hf_hub_download) if fetch else None)
        command = f"hf download {repo}"
    elif url:
        path, command = _of_url(url, fetch), f"timm.create_model('{model}', pretrained=True)"
    if path is None:
        raise WeightsError(hub.remedy(tag, model, command, f"with {_CONFIG} and {_FILES[0]}"))
    return path


def _of_url(url: str, fetch: bool) -> Path | None:
    import torch

    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    try:
        if not file.is_file() and fetch and hub.exists(url):
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file))
    except OSError:  # no network, a download that broke off, a full disk
        return None
    return file if file.is_file() else None


def build(model: str, weights: str, image_size: int, in_chans: int = 1, num_classes: int = 0, **settings: Any) -> Built:
    """Build a pretrained model.

    First convolutions are adapted to ``in_chans`` (colour weights summed for grey images), positions to ``image_size``.
    Whatever no file holds - a new head, random weights - is drawn alike at every call.

    Args:
        model, weights: see ``find``; what no cache holds is fetched.
        image_size: px; it matters to models of a fixed size only.
        in_chans: channels of the images: for one, the pixel statistics are the mean of the pretrained channels'.
        num_classes: outputs; 0 for features.
        settings: further arguments of the architecture, such as ``drop_path_rate``.

    Raises:
        WeightsError: the weights are not available, or not those of the model.
        SpaceError: the image size does not fit the model.
    """
    import torch

    located = find(model, weights, fetch=True)
    state = hub.read(located.file) if located.file else None
    settings = {**located.settings, **settings}
    if located.config.get("fixed_input_size"):
        settings["img_size"] = image_size
    make = _conformer if located.architecture.startswith(_OURS) else _of_timm
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make(located, state, image_size, in_chans, num_classes, settings)
    config = {**_IMAGENET, **located.config}
    mean, std = (_each(config[key], in_chans) for key in ("mean", "std"))
    return Built(net.eval(), mean, std, located.architecture, settings)


def having(built: Built, part: str, what: str) -> Built:
    """Return ``built`` if its model has a part of that name.

    Raises:
        SpaceError: it has not; ``what`` names the required kind of model.
    """
    if not hasattr(built.model, part):
        raise SpaceError(f"model must be {what}, but got {built.architecture}.")
    return built


def _each(values: Any, channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _conformer(
    located: Weights, state: dict | None, image_size: int, in_chans: int, classes: int, settings: dict
) -> torch.nn.Module:
    from lungtune.models import conformer

    net = conformer.conformer(located.architecture, in_chans, classes, **settings)
    _fits(image_size, net.stride, located.architecture)
    try:
        if state is not None:
            conformer.load(net, state)
    except RuntimeError as error:
        raise _misfit(located, error) from error
    return net


def _of_timm(
    located: Weights, state: dict | None, image_size: int, in_chans: int, classes: int, settings: dict
) -> torch.nn.Module:
    from lungtune.models import lazy_imports

    timm = lazy_imports.timm()
    wanted = {field.name for field in fields(timm.models.PretrainedCfg)} - set(_SOURCES)
    config = {key: value for key, value in located.config.items() if key in wanted}
    settings = {**settings, "in_chans": in_chans}
    if state is not None:
        config |= {"state_dict": state, **_shapes(config, state)}
    # With as many outputs as the file has, timm raises on missing or unused weights.
    held = config["num_classes"] if state is not None else classes
    try:
        net = timm.create_model(
            located.architecture, pretrained=state is not None, pretrained_cfg=config, num_classes=held, **settings
        )
    except (RuntimeError, KeyError, TypeError) as error:  # TypeError: a family's setting that the model does not have
        raise _misfit(located, error) if state is not None else error from error
    net.pretrained_cfg.pop("state_dict", None)
    if config.get("fixed_input_size"):
        patch = getattr(getattr(net, "patch_embed", None), "patch_size", 1)
        _fits(image_size, patch if isinstance(patch, int) else patch[0], located.architecture)
    if held != classes:
        net.reset_classifier(classes)
    return net


def _shapes(config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return how many outputs and channels weights have, where that can be seen: a description may say otherwise."""
    head, stem = ((config.get(key) or "") for key in ("classifier", "first_conv"))
    head, stem = (name if isinstance(name, str) else name[0] for name in (head, stem))
    shapes: dict[str, Any] = {}
    for name in (f"{head.partition('.')[0]}.weight", f"{head}.weight"):
        if name in state:
            shapes["num_classes"] = len(state[name])
    weight, size = state.get(f"{stem}.weight"), config.get("input_size", (3, 224, 224))
    if weight is not None and weight.ndim == 4 and weight.shape[1] in (1, 3):
        shapes["input_size"] = (weight.shape[1], *size[1:])
    return shapes


def _fits(image_size: int, patch: int, model: str) -> None:
    if image_size % patch:
        raise SpaceError(f"image_size must be a multiple of {patch} px for {model}, but got {image_size}.")


def _misfit(located: Weights, error: Exception) -> WeightsError:
    lines = [line.strip() for line in str(error).strip().split("\n")]
    return WeightsError(f"{located.about} must be weights of {located.architecture}, but: {' '.join(lines)[:300]}")
