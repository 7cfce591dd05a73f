"""Rungs, reports and planned work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtune.core.resource import Fidelity
from lungtune.errors import SpaceError


def test_three_passes_have_rungs():
    fidelity = Fidelity(max=3, min=1 / 3, eta=3)
    assert fidelity.rungs == (0.333333, 1.0)
    assert fidelity.levels == (0.333333, 1.0, 3)


def test_planned_work_counts_surviving_trials():
    planned = Fidelity(max=9, min=1, eta=3).planned(27)
    assert planned == [(1, 27, 27), (3, 9, 18), (9, 3, 18)]


def test_one_level_is_refused():
    with pytest.raises(SpaceError, match="at least two rungs"):
        Fidelity(max=1, min=0.9999, eta=3)


@given(
    top=st.floats(0.1, 100),
    share=st.floats(0.001, 0.5),
    eta=st.floats(1.5, 6),
    report=st.floats(0, 1),
)
def test_every_rung_is_reported_and_reports_ascend(top, share, eta, report):
    try:
        fidelity = Fidelity(max=top, min=top * share, eta=eta, report=report * top)
    except SpaceError:
        return
    reports = fidelity.reports
    assert list(reports) == sorted(set(reports))
    assert reports[-1] == pytest.approx(top)
    for level in fidelity.levels:
        assert any(abs(level - value) < 1e-6 * max(1, top) for value in reports)
