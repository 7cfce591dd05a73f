"""Saved view of MLflow's runs page: a study's trials, best first, with the columns and charts that compare them.

MLflow keeps saved views as tags of the experiment; ``?viewStateShareKey=<key>`` in the page's address opens one.
The format is that of MLflow 3.17's "Share" button. Versions without this format show their usual page.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from lungtune import summary
from lungtune.core.trial import History
from lungtune.errors import SpaceError

TAG = "mlflow.sharedViewState."
MAX_TAG = 19_000
"""MLflow accepts 20,000 bytes; of very wide spaces the later columns are left out."""

FIRST = ("attributes.`Run Name`", "runDateAndNestInfo", "duration")
SECTION = "lungtune-compare"


def tag(history: History) -> tuple[str, str]:
    """Return the experiment's tag (name, value) that holds a study's view."""
    space = history.study["space"]
    every = [space, *space.get("members", ())]
    params = list(dict.fromkeys(name for one in every for name in one.get("axes", {})))
    while True:
        value = json.dumps(_state(history, params), separators=(",", ":"))
        if len(value.encode()) <= MAX_TAG or not params:
            return f"{TAG}{key(history.study['name'], history.study['id'])}", value
        params = params[: len(params) // 2]


def key(name: str, study_id: str) -> str:
    """Return the key of a study's view: studies of several homes may have one name."""
    return f"{name}-{study_id[:8]}"


def address(server: str, experiment_id: str, view: str, *, charts: bool = False) -> str:
    """Return the address of a view on an MLflow server."""
    mode = "&compareRunsMode=CHART" if charts else ""
    page = f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"
    return f"{page}?viewStateShareKey={quote(view)}&workflowType=machine_learning{mode}"


def _state(history: History, params: list[str]) -> dict[str, Any]:
    metric = history.objective.metric
    best = f"best_{metric}"
    headline, by_class = _metrics(history)
    scores = [best, *(f"best_{name}" for name in headline if name != metric), "passes"]
    columns = ["tags.`state`", "tags.`reason`"]
    columns += [f"metrics.`{name}`" for name in scores] + [f"params.`{name}`" for name in params]
    return {
        "searchFilter": f"tags.`lungtune.kind` = 'trial' and tags.`lungtune.study_id` = '{history.study['id']}'",
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": history.objective.mode == "min",
        "selectedColumns": columns,
        "columnOrder": [*FIRST, *columns],
        "columnWidths": dict.fromkeys(columns, 110),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts(metric, by_class, best, params),
        "compareRunSections": [
            {"uuid": SECTION, "name": "Trials compared", "display": True, "isReordered": False, "deleted": False}
        ],
        "hideEmptyCharts": True,
    }


def _metrics(history: History) -> tuple[list[str], list[str]]:
    """Return the headline metrics of a study, and those by class; none where its family is gone."""
    try:
        family, task = summary.family_of(history), summary.task_of(history)
    except SpaceError:
        return [], []
    names = [f"{task.by_class}_{name}" for name in history.study["data"].get("classes", []) if task.by_class]
    return [family.metric_key(task, name) for name in task.headline], [family.metric_key(task, name) for name in names]


def _charts(metric: str, by_class: list[str], best: str, params: list[str]) -> list[dict[str, Any]]:
    charts: list[dict[str, Any]] = [
        {"type": "PARALLEL", "selectedParams": params, "selectedMetrics": [best], "showAllRuns": True,
         "displayName": f"parameters and {best}"},
        {"type": "LINE", **_line(metric)},
        {"type": "BAR", "metricKey": best, "displayName": best, "runsCountToCompare": 100},
        *({"type": "SCATTER", "xaxis": {"key": name, "type": "PARAM"}, "yaxis": {"key": best, "type": "METRIC"},
           "displayName": f"{name} and {best}", "runsCountToCompare": 1000} for name in params[:6]),
        {"type": "LINE", **_line("loss")},
        *({"type": "LINE", **_line(name)} for name in by_class[:8]),
    ]  # fmt: skip
    common = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False}
    return [{"uuid": f"lungtune-{i}", **common, **chart} for i, chart in enumerate(charts)]


def _line(metric: str) -> dict[str, Any]:
    return {
        "metricKey": metric, "displayName": metric, "runsCountToCompare": 100, "lineSmoothness": 0,
        "xAxisScaleType": "linear", "scaleType": "linear", "range": {}, "xAxisKey": "step",
        "selectedXAxisMetricKey": "", "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False,
        "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True,
    }  # fmt: skip
