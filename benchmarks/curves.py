"""Learning-curve tables: a user's CSV file, and the two public families in ``../shared/data/curves``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from simulator import Table, target

LOG_RATIO = 50
"""A positive column that spans more than this factor is searched on a log scale."""


def table(config: pd.DataFrame, curves: np.ndarray, mode: str = "max") -> Table:
    """Return a table of a frame of hyperparameters ``(N, P)`` and their curves ``(N, epochs)``.

    Numbers become ranges, everything else and numbers of at most four values choices; columns of one value are left
    out. Where a number is missing (it does not apply) the median stands, where a choice is, ``none``.
    """
    axes: dict[str, BaseDistribution] = {}
    columns = {}
    for name in config.columns:
        values = config[name]
        if pd.api.types.is_numeric_dtype(values) and values.dtype != bool and values.nunique() > 4:
            values = values.fillna(values.median()).astype(float)
            low, high = float(values.min()), float(values.max())
            axes[name] = FloatDistribution(low, high, log=low > 0 and high / low > LOG_RATIO)
        else:
            values = values.map(lambda value: "none" if pd.isna(value) else str(value))
            if values.nunique() < 2:
                continue
            axes[name] = CategoricalDistribution(sorted(values.unique()))
        columns[name] = values.tolist()
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    return Table(axes, rows, curves, mode)


def from_csv(path: Path, mode: str = "max") -> Table:
    """Read a user's own table: one row a configuration, columns ``epoch_1`` .. ``epoch_n`` its curve, others its
    hyperparameters; empty cells after an epoch: the training broke off there."""
    frame = pd.read_csv(path)
    epochs = sorted((c for c in frame.columns if c.startswith("epoch_")), key=lambda c: int(c.removeprefix("epoch_")))
    if len(epochs) < 4:
        raise SystemExit(f"{path}: columns epoch_1 .. epoch_n (n >= 4) must hold the curves, but got {len(epochs)}.")
    return table(frame.drop(columns=epochs), frame[epochs].to_numpy(float), mode)


def medquicktune(folder: Path) -> dict[str, Table]:
    """Read MedQuickTune's six tasks: 3-D MRI and CT classification. All-zero rows are failed runs, and left out."""
    config, curve = (pd.read_csv(folder / f"{name}.csv", index_col=0) for name in ("config", "curve"))
    tables = {}
    for task, rows in config.groupby("dataset"):
        values = curve.loc[rows.index].to_numpy(float)
        whole = ~(values == 0).all(1)
        values = values[whole][:, ~(values == 0).all(0)]  # one task was trained for fewer epochs
        tables[f"medquicktune {task}"] = table(rows[whole].drop(columns="dataset"), values)
    return tables


class LCBench:
    """One task of YAHPO's surrogate of LCBench: any configuration has a curve. Validation accuracy, 52 epochs.

    The target is the final value of the best 1 % of 2,000 random configurations.
    """

    axes: Mapping[str, BaseDistribution] = {
        "batch_size": IntDistribution(16, 512, log=True),
        "learning_rate": FloatDistribution(1e-4, 0.1, log=True),
        "momentum": FloatDistribution(0.1, 0.99),
        "weight_decay": FloatDistribution(1e-5, 0.1),
        "num_layers": IntDistribution(1, 5),
        "max_units": IntDistribution(64, 1024, log=True),
        "max_dropout": FloatDistribution(0.0, 1.0),
    }
    """In the order of the model's input, which is not that of its ``config_space.json``."""
    epochs = 52
    mode = "max"

    def __init__(self, session: Any, task: int) -> None:
        self._session, self._task = session, task
        random = np.random.default_rng(0)
        columns = []
        for axis in self.axes.values():
            low, high = float(axis.low), float(axis.high)  # type: ignore[attr-defined]
            scale = np.geomspace if axis.log else np.linspace  # type: ignore[attr-defined]
            values = random.choice(scale(low, high, 10_001), 2000)
            columns.append(values.round() if isinstance(axis, IntDistribution) else values)
        self.target = target(self._values(np.stack(columns, 1), [self.epochs])[:, 0], self.mode)

    def _values(self, points: np.ndarray, epochs: Sequence[int]) -> np.ndarray:
        x = np.concatenate(
            [np.repeat(np.array(epochs, float), len(points))[:, None], np.tile(points, (len(epochs), 1))], 1
        )
        tasks = np.full((len(x), 1), self._task, np.int32)
        found = self._session.run(None, {"x_cat": tasks, "x_cont": x.astype(np.float32)})[0]
        return found[:, 1].reshape(len(epochs), len(points)).T

    def take(self, params: Mapping[str, Any], tried: set[int]) -> tuple[dict[str, Any], Sequence[float]]:
        """Return the configuration itself and its curve."""
        point = np.array([[float(params[name]) for name in self.axes]])
        return dict(params), self._values(point, range(1, self.epochs + 1))[0]


def lcbench(folder: Path) -> dict[str, LCBench]:
    """Open the surrogate's 34 tasks."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    numbers = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
    tasks = json.loads((folder / "config_space.json").read_text())["hyperparameters"][0]["choices"]
    return {f"lcbench {task}": LCBench(session, numbers[task]) for task in tasks}
