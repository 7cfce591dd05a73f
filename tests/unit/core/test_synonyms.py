"""Names of other libraries in the suggestions for unknown parameters and metrics."""

import pytest

from lungtune import catalog
from lungtune.core import params
from lungtune.core.synonyms import SYNONYMS, meant
from lungtune.errors import SpaceError

FAMILIES = [catalog.family(name) for name in catalog.families()]


@pytest.mark.parametrize(
    ("setting", "value", "name"),
    [
        ("learning_rate", 1e-3, "lr"),
        ("Learning-Rate", 1e-3, "lr"),
        ("epochs", 3, r"fidelity\.max"),
        ("n_trials", 8, "trials"),
        ("bs", 8, "batch_size"),
        ("objective", "auc", "macro_auroc"),
        ("objective", "roc_auc", "macro_auroc"),
        ("objective", "classification.f1", r"classification\.macro_f1"),
    ],
)
def test_synonym_in_a_setting_gets_a_suggestion(setting, value, name):
    with pytest.raises(SpaceError, match=rf" Did you mean '{name}'\?$"):
        catalog.space("clip_head", "demo", {setting: value})


def test_synonym_in_a_space_file_gets_a_suggestion(tmp_path):
    space = tmp_path / "mine.yaml"
    space.write_text("family: vit_lora\nobjective: auc\nparams: {learning_rate: 1e-3}\nstart: [{rank: 4}]\n")
    for name in ("lr", "macro_auroc", "lora_rank"):
        with pytest.raises(SpaceError, match=rf"Did you mean '{name}'\?"):
            catalog.space(str(space))


def test_a_name_of_another_family_is_not_offered():
    assert meant("dropout_rate", ["lr", "drop_rate"]) == " Did you mean 'drop_rate'?"
    assert "lora_rank" not in meant("rank", ["lr", "hidden"])


def test_every_synonym_belongs_to_a_name_there_is():
    known = {"trials", "fidelity.max"}
    for family in FAMILIES:
        known |= {*params.specs(family.Params), *params.specs(family.Base), *family.metrics}
    assert set(SYNONYMS) <= known
    assert not {name for names in SYNONYMS.values() for name in names} & (known - {"dropout", "loss"})
