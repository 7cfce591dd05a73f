"""Report section of a classifier."""

import json

import numpy as np

from lungtune.tasks.classification import evaluation
from lungtune.tasks.classification.report_markdown import section_markdown, section_text

CLASSES = ("normal", "a|b<script>")


def section(share_of_first=0.5):
    labels = np.arange(100) % 2
    output = (np.arange(100) >= 100 * share_of_first).astype(int)
    return evaluation.section(labels, 0.8 * np.eye(2)[output] + 0.1, np.arange(100) // 2, CLASSES, labels)


def test_a_section_is_plain_data():
    assert json.loads(json.dumps(section())) == section()
    assert section()["patients"] == 50


def test_collapse_gives_a_sentence():
    words = section_markdown("Test", section(share_of_first=0.99), CLASSES)
    assert "**The model has collapsed: it predicts 'normal' for 99.0 % of the cases.**" in words
    assert "collapsed" not in section_markdown("Test", section(), CLASSES)


def test_names_are_escaped_in_tables_and_pages():
    words = section_markdown("Test", section(), CLASSES)
    assert "<script>" not in words
    assert "| a/b(script) | 50 |" in words


def test_only_an_interval_that_is_a_point_is_called_one():
    """A class without a case has no interval."""
    labels = np.arange(100) % 2
    predicted = np.eye(3)[np.where(np.arange(100) % 7, labels, 1 - labels)]
    names = ("a", "b", "c")
    part = evaluation.section(labels, predicted, np.arange(100), names, labels)
    assert part["metrics"]["recall_c"]["low"] is None
    assert "is a single point" not in section_markdown("Test", part, names)
    part = evaluation.section(labels, np.eye(3)[labels], np.arange(100), names, labels)
    assert "is a single point" in section_markdown("Test", part, names)


def test_terminal_text_holds_headline_and_test_confusion():
    lines = "\n".join(section_text("test", section(), CLASSES))
    assert "test: 100 images of 50 patients" in lines
    assert "macro_f1" in lines
    assert "confusion matrix" in lines
    assert "confusion matrix" not in "\n".join(section_text("validation", section(), CLASSES))
