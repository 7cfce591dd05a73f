"""Errors cross processes: they survive pickling."""

from __future__ import annotations

import pickle

import pytest

from lungtune import errors
from lungtune.errors import LungtuneError, TrialError

CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LungtuneError)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_error_survives_pickling(cls: type[LungtuneError]) -> None:
    error = cls("nan", "loss is nan") if issubclass(cls, TrialError) else cls("lr must be positive")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (cls, str(error), vars(error))
