"""Pretrained image models: located, read safely, adapted to grey images of any size."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lungtune.errors import SpaceError, WeightsError
from lungtune.models import hub, lazy_imports, timm_models, timm_vit

NARROW = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def _donor(architecture: str, **settings: object) -> torch.nn.Module:
    torch.manual_seed(1)
    return lazy_imports.timm().create_model(architecture, **settings).eval()


def _folder(folder: Path, model: torch.nn.Module, architecture: str, settings: dict, config: dict) -> Path:
    folder.mkdir(exist_ok=True)
    about = {"architecture": architecture, "model_args": settings, "pretrained_cfg": model.pretrained_cfg | config}
    (folder / "config.json").write_text(json.dumps(about))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def resnet(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    model = _donor("resnet18", num_classes=5, **NARROW)
    pixels = {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3), "num_classes": 5}
    return model, _folder(tmp_path / "resnet", model, "resnet18", NARROW, pixels)


@pytest.fixture
def grey() -> torch.Tensor:
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_folder_is_adapted_to_grey_images(resnet: tuple[torch.nn.Module, Path], grey: torch.Tensor) -> None:
    donor, folder = resnet
    built = timm_models.build("never read", str(folder), 64)
    wanted = donor.forward_head(donor.forward_features(grey.expand(-1, 3, -1, -1)), pre_logits=True)
    assert torch.allclose(built.model(grey), wanted, atol=1e-5)
    assert built.mean == pytest.approx((0.5,))
    assert built.std == pytest.approx((0.2,))
    assert not built.model.training
    assert "state_dict" not in built.model.pretrained_cfg


def test_rgb_statistics_and_equal_sized_head_are_kept(resnet: tuple[torch.nn.Module, Path], grey: torch.Tensor) -> None:
    donor, folder = resnet
    built = timm_models.build("", str(folder), 64, in_chans=3, num_classes=5)
    assert built.mean == (0.4, 0.5, 0.6)
    assert torch.equal(built.model(grey.expand(-1, 3, -1, -1)), donor(grey.expand(-1, 3, -1, -1)))


def test_new_head_is_deterministic_and_keeps_global_rng(resnet: tuple[torch.nn.Module, Path]) -> None:
    state = torch.get_rng_state()
    one, two = (timm_models.build("", str(resnet[1]), 64, num_classes=3, drop_rate=0.1).model for _ in range(2))
    assert one.fc.out_features == 3
    assert torch.equal(one.fc.weight, two.fc.weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.drop_rate == 0.1


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
def test_wrapped_state_dicts_are_read(tmp_path: Path, name: str, grey: torch.Tensor) -> None:
    donor = _donor("resnet18", num_classes=7, in_chans=1, **NARROW)
    if name == "w.safetensors":
        save_file(donor.state_dict(), tmp_path / name)
    else:
        state = donor.state_dict()
        wrapped = {"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
        torch.save(wrapped if name == "w.pth" else state, tmp_path / name)
    built = timm_models.build("resnet18", str(tmp_path / name), 64, **NARROW)
    assert torch.allclose(built.model(grey), donor.forward_head(donor.forward_features(grey), pre_logits=True))
    assert built.mean == pytest.approx((0.449,), abs=1e-3)


def test_positions_are_stretched_to_the_image(tmp_path: Path) -> None:
    donor = _donor("vit_tiny_patch16_224", img_size=64, num_classes=0, in_chans=1, **SMALL)
    save_file(donor.state_dict(), tmp_path / "vit.safetensors")
    built = timm_models.build("vit_tiny_patch16_224", str(tmp_path / "vit.safetensors"), 96, **SMALL)
    assert built.model.pos_embed.shape == (1, 1 + 12 * 12, 32)
    assert built.model(torch.zeros(1, 1, 96, 96)).shape == (1, 32)
    with pytest.raises(SpaceError, match="multiple of 8 px for vit_tiny_patch16_224, but got 100"):
        timm_models.build("vit_tiny_patch16_224", str(tmp_path / "vit.safetensors"), 100, **SMALL)


def test_random_weights_are_deterministic_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (timm_models.build("resnet18", "random", 64, num_classes=2, **NARROW).model for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    timm_models.check("resnet18", "random")
    assert "The weights of resnet18 are random numbers" in capsys.readouterr().err


def test_a_conformer_is_built_like_any_other(tmp_path: Path, grey: torch.Tensor) -> None:
    built = timm_models.build("conformer_micro", "random", 64, num_classes=4)
    assert [tuple(logits.shape) for logits in built.model(grey)] == [(2, 4), (2, 4)]
    save_file(built.model.state_dict(), tmp_path / "c.safetensors")
    again = timm_models.build("conformer_micro", str(tmp_path / "c.safetensors"), 64, num_classes=4)
    assert torch.equal(again.model(grey)[1], built.model(grey)[1])
    with pytest.raises(SpaceError, match="multiple of 32 px"):
        timm_models.build("conformer_micro", "random", 80)
    with pytest.raises(WeightsError, match="authors give theirs as files"):
        timm_models.find("conformer_tiny", "default", fetch=False)


@pytest.mark.parametrize(("tag", "repo"), [("a1_in1k", "timm/resnet18.a1_in1k"), ("default", None)])
def test_cached_weights_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resnet: tuple[torch.nn.Module, Path], tag: str, repo: str | None
) -> None:
    import huggingface_hub

    asked = []

    def cached(name: str, file: str) -> str | None:
        asked.append((name, file))
        return str(resnet[1] / "model.safetensors") if file == "model.safetensors" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    result = timm_models.find("resnet18", tag, fetch=False)
    assert asked[0][0] == (repo or asked[0][0])
    assert asked[0][0].startswith("timm/resnet18.")
    assert result.file == resnet[1] / "model.safetensors"
    built = timm_models.build("resnet18", tag, 64, **NARROW)
    assert torch.equal(built.model.fc(torch.ones(1)), torch.ones(1))
    assert built.mean == pytest.approx((sum(result.config["mean"]) / 3,))


def test_weights_of_the_hub_cannot_be_had_offline() -> None:
    with pytest.raises(WeightsError, match=r"neither in a cache .* run `hf download timm/resnet18.a1_in1k`"):
        timm_models.check("resnet18", "a1_in1k")


def test_unanswering_hub_is_queried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def silent(url: str, headers: dict[str, str] | None = None) -> bool:
        asked.append(url)
        raise TimeoutError("timed out")

    monkeypatch.setattr(hub, "exists", silent)
    assert hub.fetched([("a/b", "one"), ("a/b", "two")], lambda repo, name: name) is None
    assert len(asked) == 1
    monkeypatch.setattr(hub, "exists", lambda url, headers=None: url.endswith("two"))
    assert hub.fetched([("a/b", "one"), ("a/b", "two")], lambda repo, name: name) == Path("two")


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("resnet19", "default", "'resnet19' is not one of timm's. Did you mean 'resnet1"),
        ("resnet18", "a1_in2k", "'a1_in2k' are not known for resnet18. Did you mean 'a1_in1k'"),
        ("vit_tiny_patch16_224", "rnadom", "'rnadom' are not known for vit_tiny_patch16_224. Did you mean 'random'"),
        ("conformer_tny", "random", "Did you mean 'conformer_tiny'"),
        ("resnet18", "./nowhere", "./nowhere does not exist"),
        ("resnet18", "nowhere.pth", r"nowhere.pth does not exist"),
        ("", "tiny_clip", "must hold timm's config.json with an architecture"),
    ],
)
def test_misspelt_models_are_reported(model: str, weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        timm_models.check(model, weights)


def test_weights_of_another_model_are_refused(tmp_path: Path, resnet: tuple[torch.nn.Module, Path]) -> None:
    file = str(resnet[1] / "model.safetensors")
    with pytest.raises(WeightsError, match=r"must be weights of resnet18, but: .*Missing key"):
        timm_models.build("resnet18", file, 64)
    with pytest.raises(WeightsError, match="must be weights of vit_tiny_patch16_224, but: "):
        timm_models.build("vit_tiny_patch16_224", file, 64, **SMALL)
    with pytest.raises(WeightsError, match=r"must be weights of conformer_micro, but: .*Missing key"):
        timm_models.build("conformer_micro", file, 64)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    for name, content in (("evil.pth", Evil()), ("list.pth", [1, 2])):
        torch.save(content, tmp_path / name)
        with pytest.raises(WeightsError, match="must hold a state dict and nothing else"):
            hub.read(tmp_path / name)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(WeightsError, match="must hold a state dict and nothing else"):
        hub.read(tmp_path / "torn.safetensors")
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"must be a file that ends with .safetensors or .pth"):
        timm_models.find("resnet18", str(tmp_path / "w.npz"), fetch=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("family", "base", "what"),
    [
        ("resnet50_full", "tiny_vit", "a ResNet of timm's, but got vit_tiny_patch16_224"),
        ("convnext_full", "tiny_resnet", "a ConvNeXt of timm's, but got resnet18"),
        ("vit_lora", "tiny_resnet", "a vision transformer of timm's, but got resnet18"),
        ("resnet152_head", "tiny_conformer", "one of timm's, but got conformer_micro"),
    ],
)
def test_a_family_refuses_a_base_of_another_kind(family: str, base: str, what: str) -> None:
    trainable = importlib.import_module(f"lungtune.trainables.{family}").FAMILY
    with pytest.raises(SpaceError, match=f"model must be {what}"):
        trainable.backbone(trainable.Base(weights=base, image_size=64), ("a", "b"))


ODD = {
    "eva02_tiny_patch14_224": (28, "its attention also has q_bias, v_bias, k_bias and takes rope"),
    "eva02_base_patch14_224": (28, "Eva has blocks without a fused qkv"),
    "beit_base_patch16_224": (32, "its attention also has q_bias, v_bias, relative_position_bias_table"),
    "vit_relpos_small_patch16_224": (32, "its attention also has rel_pos"),
    "vit_small_patch16_rope_mixed_224": (32, "its attention also takes rope"),
    "vit_pe_core_tiny_patch16_384": (32, "its attention also takes rope"),
    "vit_small_patch16_dinov3": (32, "its attention also takes rope"),
    "cait_xxs24_224": (32, "its attention also has proj_l, proj_w"),
}


@pytest.mark.parametrize("model", ODD)
def test_attention_that_splitting_would_alter_is_refused(model: str) -> None:
    size, why = ODD[model]
    built = timm_models.build(model, "random", size, img_size=size, depth=1)
    with pytest.raises(SpaceError, match=f"with plain attention, but got {model}: {re.escape(why)}"):
        timm_vit.split(built, size)


@pytest.mark.parametrize(
    ("model", "size"),
    [("vit_tiny_patch16_224", 32), ("deit_tiny_patch16_224", 32), ("vit_small_patch14_reg4_dinov2", 28)],
)
def test_plain_attention_is_split_and_computes_the_same(model: str, size: int) -> None:
    plain, built = (timm_models.build(model, "random", size, img_size=size, depth=2) for _ in range(2))
    for net in (plain.model, built.model):
        torch.manual_seed(1)  # a fresh model's attention is nearly uniform and would hide a mistake
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    timm_vit.split(built, size)
    assert all(isinstance(block.attn, timm_vit.Attention) for block in built.model.blocks)
    images = torch.rand(2, 1, size, size)
    with torch.no_grad():
        torch.testing.assert_close(built.model(images), plain.model(images), atol=1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="split attention takes tokens alone"):
        built.model.blocks[0].attn(torch.zeros(1, 2, built.model.embed_dim), attn_mask=torch.zeros(2, 2))


def test_a_change_no_name_shows_is_refused_by_its_output() -> None:
    built = timm_models.build("vit_tiny_patch16_224", "random", 32, img_size=32, depth=1)
    built.model.blocks[0].attn.fused_attn = False
    built.model.blocks[0].attn.scale = 8.0  # in place of width ** -0.5
    torch.nn.init.normal_(built.model.blocks[0].attn.qkv.weight, std=0.2)
    why = r"with its q, k and v apart, its output differs from the original's by .* \(at most 0.0001\)"
    with pytest.raises(SpaceError, match=why):
        timm_vit.split(built, 32)
