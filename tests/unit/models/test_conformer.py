"""Vision Conformer: equals the published one, takes any grid, loads published names."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from lungtune.errors import WeightsError
from lungtune.models.conformer import SIZES, Conformer, TransformerBlock, conformer, load


def _images(side: int = 64, channels: int = 1) -> torch.Tensor:
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def micro() -> Conformer:
    torch.manual_seed(0)
    return conformer("conformer_micro", 1, 4).eval()


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("conformer_tiny", {}, 23_524_704),
        ("conformer_small", {}, 37_673_424),
        ("conformer_small", {"patch": 32}, 38_853_072),
        ("conformer_base", {}, 83_289_136),
    ],
)
def test_parameters_count_as_published(name: str, settings: dict[str, int], count: int) -> None:
    with torch.device("meta"):
        model = conformer(name, **settings)
        logits = model(torch.empty(2, 3, 224, 224))
    assert sum(p.numel() for p in model.parameters()) == count
    assert [tuple(branch.shape) for branch in logits] == [(2, 1000)] * 2


def test_micro_size_is_small() -> None:
    assert sum(p.numel() for p in conformer("conformer_micro", 1, 6).parameters()) < 1.2e6


@pytest.mark.parametrize("side", [32, 64, 96])
def test_both_branches_score_images_of_any_grid(micro: Conformer, side: int) -> None:
    maps, tokens = micro.features(_images(side))
    assert maps.shape == (2, 64, side // 32, side // 32)
    assert tokens.shape == (2, 1 + (side // 16) ** 2, 96)
    assert [tuple(logits.shape) for logits in micro(_images(side))] == [(2, 4), (2, 4)]


def test_an_oblong_image_and_a_wider_patch_pass() -> None:
    model = conformer("conformer_micro", 3, 2, patch=32).eval()
    maps, tokens = model.features(torch.rand(1, 3, 64, 96))
    assert maps.shape[2:] == (2, 3)
    assert tokens.shape[1] == 1 + 2 * 3


@pytest.mark.parametrize("side", [48, 72])
def test_image_sides_must_be_multiples_of_the_stride(micro: Conformer, side: int) -> None:
    with pytest.raises(ValueError, match=rf"must be a multiple of 32 px, but got {side}x{side}"):
        micro(_images(side))


@pytest.mark.parametrize(("change", "factor"), [({"patch": 8}, 16), ({"depth": 7}, 3), ({"width": 97}, 3)])
def test_shapes_that_cannot_be_are_refused(change: dict[str, int], factor: int) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be a multiple of {factor}"):
        conformer("conformer_micro", 1, 2, **change)


def test_every_parameter_gets_a_gradient(micro: Conformer) -> None:
    """In eval mode: batch normalisation makes a bias before it idle while it trains."""
    target = torch.tensor([0, 1])
    sum(nn.functional.cross_entropy(logits, target) for logits in micro(_images())).backward()
    idle = [name for name, p in micro.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


def test_branches_exchange_features(micro: Conformer) -> None:
    """Logits of either branch depend on weights of the other's blocks."""
    conv, trans = micro(_images())
    there = torch.autograd.grad(conv.sum(), micro.trans_1.mlp.fc2.weight, retain_graph=True)[0]
    back = torch.autograd.grad(trans.sum(), micro.blocks[-1].cnn_block.conv2.weight)[0]
    assert there.abs().sum() > 0
    assert back.abs().sum() > 0


def test_drop_path_in_training_only_and_rising_with_depth() -> None:
    model = conformer("conformer_micro", 1, 4, drop_path=0.5)
    rates = [model.trans_1.drop_path, *(block.trans_block.drop_path for block in model.blocks)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    model.eval()
    assert torch.equal(model(_images())[1], model(_images())[1])
    tokens = torch.rand(64, 3, 96)
    block = model.blocks[-1].trans_block.train()
    torch.manual_seed(0)
    one = block(tokens)
    assert not torch.equal(one, block(tokens))
    torch.manual_seed(0)
    assert torch.equal(one, block(tokens))


def test_a_branch_that_is_kept_counts_for_those_dropped() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(96, 3, 0.25).train()
    ones = torch.ones(4000, 1, 1)
    kept = block._some(ones)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(kept.mean()) == pytest.approx(1, abs=0.05)


def test_heads_are_initialised_from_their_generator(micro: Conformer) -> None:
    micro.reset_heads(7, torch.Generator().manual_seed(1))
    first = {name: value.clone() for name, value in micro.state_dict().items() if "_cls_head" in name}
    state = torch.get_rng_state()
    micro.reset_heads(7, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 4
    assert all(torch.equal(value, micro.state_dict()[name]) for name, value in first.items())
    assert [logits.shape[1] for logits in micro(_images())] == [7, 7]
    micro.reset_heads(0)
    assert [logits.shape[1] for logits in micro(_images())] == list(micro.widths)


def _published(model: Conformer) -> dict[str, torch.Tensor]:
    """Return a state dict under the reference implementation's names."""
    return {
        re.sub(r"^blocks\.(\d+)\.", lambda m: f"conv_trans_{int(m[1]) + 2}.", key): value
        for key, value in model.state_dict().items()
    }


def test_published_names_load() -> None:
    donor = conformer("conformer_micro", 3, 1000).eval()
    state = _published(donor)
    for name in (
        "conv1.weight",
        "bn1.running_mean",
        "conv_1.residual_bn.weight",
        "cls_token",
        "trans_patch_conv.bias",
        "trans_1.attn.qkv.bias",
        "conv_trans_2.cnn_block.conv3.weight",
        "conv_trans_2.squeeze_block.conv_project.bias",
        "conv_trans_2.squeeze_block.ln.weight",
        "conv_trans_3.expand_block.bn.running_var",
        "conv_trans_6.fusion_block.residual_conv.weight",
        "conv_trans_6.trans_block.mlp.fc2.weight",
        "trans_norm.weight",
        "trans_cls_head.weight",
        "conv_cls_head.bias",
    ):
        assert name in state, name
    model = conformer("conformer_micro", 3, 1000).eval()
    load(model, state)
    assert torch.equal(model(_images(channels=3))[0], donor(_images(channels=3))[0])


def test_colour_weights_see_grey_as_three_equal_channels(micro: Conformer) -> None:
    donor = conformer("conformer_micro", 3, 1000).eval()
    head = micro.trans_cls_head.weight.clone()
    load(micro, _published(donor))
    grey = micro.features(_images())
    for ours, theirs in zip(grey, donor.features(_images().expand(-1, 3, -1, -1)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.equal(micro.trans_cls_head.weight, head), "heads of other classes stay as they were"
    load(donor, micro.state_dict())
    assert torch.allclose(donor.features(_images().expand(-1, 3, -1, -1))[0], grey[0], atol=1e-4)


def test_other_weights_do_not_load(micro: Conformer) -> None:
    state = _published(micro)
    del state["conv_trans_4.expand_block.bn.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"blocks.2.expand_block.bn.weight\""):
        load(micro, state)


def test_misspelt_sizes_are_reported() -> None:
    assert "conformer_tiny" in SIZES
    with pytest.raises(WeightsError, match="Did you mean 'conformer_small'"):
        conformer("conformer_smal")


def test_the_weights_of_another_kind_of_model_are_reported() -> None:
    from lungtune.trainables.conformer_full import FAMILY

    with pytest.raises(WeightsError, match=r"tiny_resnet must be weights of resnet18, but: .*'drop_path'"):
        FAMILY.backbone(FAMILY.Base(weights="tiny_resnet", image_size=64), ("a", "b"))
