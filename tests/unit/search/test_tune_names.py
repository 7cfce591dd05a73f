"""Names of Ray Tune that packing depends on, and its sample objects of every shipped space."""

import inspect
import random

import numpy as np
import pytest
import ray
from ray.actor import ActorClass
from ray.tune.execution.tune_controller import TuneController

from lungtune import catalog
from lungtune.errors import SpaceError
from lungtune.search.backends.ray_tune import domains, virtual
from lungtune.search.backends.ray_tune.trainable import configuration
from lungtune.tune import param_space

MOVED = f"Ray {ray.__version__} moved {{}}: see search/backends/ray_tune/virtual.py"


def test_private_names_of_ray_are_where_they_were():
    start = inspect.getsource(TuneController.__init__)
    assert "self._class_cache = " in start, MOVED.format("TuneController._class_cache")
    schedule = inspect.getsource(TuneController._schedule_trial_actor)
    assert "self._class_cache.get(trainable_cls)" in schedule, MOVED.format("the use of TuneController._class_cache")
    wrapped = inspect.getsource(TuneController._wrapped)
    assert "TrialRunnerWrapper(" in wrapped, MOVED.format("TuneController._wrapped")
    wrapper = inspect.getsource(inspect.getmodule(TuneController).TrialRunnerWrapper)
    assert "self._tune_controller = " in wrapper, MOVED.format("TrialRunnerWrapper._tune_controller")
    assert callable(TuneController.cleanup), MOVED.format("TuneController.cleanup")
    assert callable(TuneController.update_max_pending_trials), MOVED.format("update_max_pending_trials")
    assert isinstance(virtual.VirtualClass.of(object, lambda named: None), ActorClass)


@pytest.mark.parametrize("name", catalog.spaces())
def test_samples_of_a_shipped_space_are_accepted_values(name):
    random.seed(0)
    np.random.seed(0)
    for profile in ("full", "demo"):
        space = catalog.space(name, profile, {})
        drawn = param_space(name, profile=profile)
        assert drawn.keys() == space.axes.keys()
        for axis, samples in drawn.items():
            for _ in range(200):
                value = samples.sample()
                value = value.item() if hasattr(value, "item") else value
                assert space.axes[axis]._contains(space.axes[axis].to_internal_repr(value)), (axis, value)
        filled = configuration(space, {})
        assert filled.keys() >= space.axes.keys() | space.fixed.keys()
        assert all(space.axes[axis]._contains(space.axes[axis].to_internal_repr(filled[axis])) for axis in space.axes)


def test_unknown_name_in_a_config_is_named():
    with pytest.raises(SpaceError, match=r"'learning_rate' is not a parameter of clip_head. Did you mean 'lr'"):
        configuration(catalog.space("clip_head", "demo", {}), {"learning_rate": 1e-3})


def test_param_space_holds_one_space():
    with pytest.raises(SpaceError, match=r"holds one space, but got several"):
        param_space("clip_head,vit_b16_head")


def test_perturbed_values_stay_in_their_ranges():
    space = catalog.space("clip_lora", "demo", {})
    wild = {"lr": 7.0, "lora_alpha": 16.4, "augmentation": -2, "batch_size": 5, "lora_rank": 8}
    tame = domains.accepted_params(space, wild)
    for name, value in tame.items():
        assert space.axes[name]._contains(space.axes[name].to_internal_repr(value)), (name, value)
