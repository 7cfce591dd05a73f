"""Parameters that may change within a trial, decided before anything runs."""

from dataclasses import replace

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lungtune import catalog
from lungtune.core.transfer import blocking, transferable


def space(name, **axes):
    return replace(catalog.space(name), axes=axes)


def test_structural_parameters_and_bases_are_not_transferable():
    axes = {
        "lr": FloatDistribution(1e-4, 1e-2, log=True),
        "lora_rank": CategoricalDistribution([2, 4]),
        "batch_size": IntDistribution(2, 8),
        "image_size": CategoricalDistribution([224, 336]),
    }
    assert transferable(catalog.family("clip_lora"), space("clip_lora", **axes)) == ("lr", "batch_size")


def test_an_axis_over_a_structural_value_is_not_transferable():
    family = catalog.family("res_unet")
    assert transferable(family, space("res_unet", lambda2=FloatDistribution(0.0, 1.0))) == ()
    assert transferable(family, space("res_unet", lambda2=CategoricalDistribution([0.0, 1.0]))) == ()
    assert transferable(family, space("res_unet", lambda2=FloatDistribution(0.01, 1.0))) == ("lambda2",)
    assert transferable(family, space("res_unet", optimizer=CategoricalDistribution(["adam", "sgd"]))) == ()
    assert transferable(family, space("res_unet", optimizer=CategoricalDistribution(["adam", "adamw"]))) == (
        "optimizer",
    )


def test_changes_that_block_a_transfer_are_named():
    unet, lora = catalog.family("res_unet"), catalog.family("clip_lora")
    assert blocking(unet, {"lambda2": 0.1, "lr": 1}, {"lambda2": 1.0, "lr": 2}) == []
    assert blocking(unet, {"lambda2": 0.1}, {"lambda2": 0.0}) == ["lambda2"]
    assert blocking(lora, {"lora_rank": 2, "lora_alpha": 1}, {"lora_rank": 4, "lora_alpha": 2}) == ["lora_rank"]
    assert blocking(lora, {"image_size": 224}, {"image_size": 336}) == ["image_size"]
