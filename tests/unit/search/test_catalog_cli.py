"""``--check``: the start points of a space, by trial number."""

import pytest

from lungtune import catalog
from lungtune.search.ui import catalog_cli


def lines(capsys, *arguments):
    catalog_cli.check(*arguments, None)
    out = capsys.readouterr().out
    return [line for line in out.splitlines() if line.startswith("trial ")], " ".join(out.split())


def test_only_the_first_start_point_is_the_source_configuration(capsys):
    assert len(catalog.space("resnet50_full").start) > 1
    printed, _ = lines(capsys, "resnet50_full", "full", {})
    assert [line.partition(":")[0] for line in printed[:2]] == [
        "trial 0 is the source configuration",
        "trial 1 is another start point",
    ]


def test_start_points_of_several_spaces_have_their_trial_numbers(capsys):
    printed, _ = lines(capsys, "convnext_full,clip_head,res_unet", "demo", {})
    found = [line.partition(":")[0] for line in printed]
    assert found[0] == "trial 0 is the source configuration of convnext_full"
    assert "trial 3 is another start point of convnext_full" in found
    assert len([line for line in found if "source configuration" in line]) == 3


@pytest.mark.parametrize(("setting", "note"), [({"batch_size": 8}, True), ({"batch_size": 4}, False)])
def test_check_lists_start_points_changed_by_a_setting(capsys, setting, note):
    _, text = lines(capsys, "clip_lora", "demo", setting)
    assert ("note: batch_size is fixed at 8 in every trial; start point 1 had 4." in text) is note
