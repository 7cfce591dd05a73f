"""Model families as Ray Tune trainables: any searcher, scheduler, callback and dashboard of Tune.

::

    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch
    from lungtune.tune import export, packed, param_space, trainable

    results = tune.Tuner(
        trainable("clip_lora", data="chest_xray:DIR"),
        param_space=param_space("clip_lora", data="chest_xray:DIR"),
        tune_config=tune.TuneConfig(
            metric="macro_f1", mode="max", num_samples=24,
            search_alg=OptunaSearch(), scheduler=packed(ASHAScheduler(max_t=9)),
        ),
    ).fit()
    export(results)

One iteration is one report: an evaluation on validation at the next level of the space's ``fidelity``. Without
:func:`packed` each trial is an actor of its own, as usual in Tune; with it the trials of a device train together in one
process.
"""

from lungtune.tune.packing import packed
from lungtune.tune.recording import export, record
from lungtune.tune.spaces import mutations, param_space, trainable, within

__all__ = ["export", "mutations", "packed", "param_space", "record", "trainable", "within"]
