"""Synchronisation of a study's MLflow runs with its projection, in as few requests as possible."""

from __future__ import annotations

import functools
import json
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.tracking import limits, location, mlflow_views
from lungtune.tracking.projection import STUDY, Projection, RunView
from lungtune.tracking.store import Unreachable

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run
    from mlflow.tracking import MlflowClient

REFUSED = (
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "ENDPOINT_NOT_FOUND",
    "NOT_IMPLEMENTED",
    "FEATURE_DISABLED",
)
"""MLflow's codes of permanent errors; everything else (down, hung, locked, 5xx) is tried again later."""


class Forgotten(Exception):
    """A run must be sent from its beginning, which the projection no longer holds: read the journal again."""


@dataclass
class Sent:
    """Known content of one MLflow run."""

    id: str
    events: int = 0
    points: int = 0
    params: bool = False
    tags: int = 0
    status: str = ""
    files: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, value: Any, run_id: str, view: RunView) -> Sent:
        """Return what a cursor says of a run; where it is of another run, or can't be true, that nothing was sent."""
        try:
            sent = cls(**{key: value[key] for key in cls.__dataclass_fields__})
            numbers = (sent.events, sent.points, sent.tags, *sent.files.values())
            kinds = {type(number) for number in numbers} == {int} and type(sent.params) is bool
            if kinds and sent.id == run_id and 0 <= sent.events <= view.events and 0 <= sent.points <= view.total:
                return sent
        except (KeyError, TypeError, AttributeError):
            pass
        return cls(run_id)


class Writer:
    """Delivers a projection. Not thread-safe: one thread uses it."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self.client = client
        self.uri = uri
        self.experiment_id = ""
        self.sent: dict[str, Sent] = {}
        self.refused: dict[str, str] = {}
        """Errors of refused items, by item; reported to the user, never raised."""
        self._places: list[str] = []
        """Experiments of this name; a second one is there after the first was restored from MLflow's trash."""
        self.troubled = False
        """True if a request got no answer: runs may be duplicated until the next :meth:`attach`."""
        self._doubtful = False

    def attach(self, projection: Projection, known: dict[str, Any]) -> None:
        """Find the experiment and the study's runs; ``known`` is an earlier cursor or empty.

        A run known to the cursor continues from there; one identified by its tags alone is sent everything again; of
        several runs for one trial (a request that was answered after its sender had died) one stays. A run that holds
        what the journal does not, as after the journal was cut, is deleted (to MLflow's trash) and made again.

        Args:
            projection: of the whole journal.
            known: as :meth:`cursor` returns it.

        Raises:
            Unreachable: the store can't be reached, or refuses.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.experiment_id = self._experiment(projection, str(known.get("experiment_id", "")))
            runs = self._search(projection.study_id)
        except MlflowException as error:
            raise Unreachable(str(error)) from error
        name, value = mlflow_views.tag(projection.history)
        self._try("saved view", lambda: self.client.set_experiment_tag(self.experiment_id, name, value))
        logged: dict[str, list[Run]] = {}
        for run in runs:
            tags = run.data.tags
            key = STUDY if tags.get("lungtune.kind") == "study" else tags.get("lungtune.trial", "")
            logged.setdefault(key, []).append(run)
        remembered = known.get("runs")
        remembered = remembered if isinstance(remembered, dict) else {}
        self.sent = {}
        views, ours = projection.runs, projection.metrics
        for key, found in logged.items():
            here = [run for run in found if run.info.experiment_id == self.experiment_id]
            sound = [run.info.run_id for run in here if key in views and _fits(run, views[key], ours)]
            if sound:
                old = remembered.get(key)
                last = str(old.get("id")) if isinstance(old, dict) else ""
                kept = last if last in sound else min(sound)
                self.sent[key] = Sent.read(old, kept, views[key])
                sound.remove(kept)
            for extra in {run.info.run_id for run in found} - {sent.id for sent in self.sent.values()}:
                self._try(key, functools.partial(self.client.delete_run, extra))
        self._doubtful = False
        projection.changed = dict.fromkeys(views)

    def deliver(self, projection: Projection) -> None:
        """Send everything the store lacks.

        Raises:
            Unreachable: the store can't be reached; what was sent so far is remembered.
            Forgotten: attach again with a projection of the whole journal.
        """
        if self._doubtful:
            self.attach(projection, self.cursor())
        runs = projection.runs
        while keys := list(projection.changed):
            for key in keys:
                for _ in range(2):  # a run deleted by hand is recreated, once
                    if self._deliver(projection, key, runs[key]):
                        break
                else:
                    raise Unreachable(f"the run '{runs[key].name}' is deleted again and again")
                projection.changed.pop(key, None)

    def cursor(self) -> dict[str, Any]:
        """Return the cursor with which :meth:`attach` continues from here."""
        runs = {key: vars(sent) for key, sent in self.sent.items()}
        return {"experiment_id": self.experiment_id, "runs": runs}

    def put_file(self, key: str, name: str, content: bytes, version: int | None = None) -> bool:
        """Store ``content`` as the artifact ``name`` of a run, if that ``version`` is not there already.

        A store that accepts no files must not block the numbers: this is noted, not raised.
        """
        sent, version = self.sent.get(key), zlib.crc32(content) if version is None else version
        if sent is None or sent.files.get(name) == version:
            return True
        folder, _, last = name.rpartition("/")
        what = f"{key}: {name}"
        try:
            with tempfile.TemporaryDirectory() as temporary:
                path = Path(temporary) / last
                path.write_bytes(content)
                stored = self._try(what, lambda: self.client.log_artifact(sent.id, str(path), folder or None))
        except (Unreachable, OSError, ImportError) as error:  # ImportError: the artifact store's own client library
            self.refused[what], stored = limits.clip(str(error), 300), False
        if stored:
            sent.files[name] = version
            self.refused.pop(what, None)
        return stored

    def put_files(self, projection: Projection) -> bool:
        """Store all files that did not get through at first; stops at the first that still does not."""
        return all(
            self.put_file(key, name, text.encode())
            for key, view in projection.runs.items()
            for name, text in view.files.items()
        )

    def _deliver(self, projection: Projection, key: str, view: RunView) -> bool:
        if key not in self.sent:
            self._create(projection, view)
            if key == STUDY:  # its trials name it
                projection.changed |= dict.fromkeys(projection.runs)
        sent, wanted = self.sent[key], self._tags(view)
        if sent.points < view.forgotten:
            raise Forgotten
        events, points, tags = view.events, view.total, _digest(wanted)
        if (sent.events, sent.points, sent.tags, sent.status) == (events, points, tags, view.status) and sent.params:
            view.forget(points)
            return True
        new_tags = wanted if sent.tags != tags else {}
        new_params = {} if sent.params else view.params
        if not self._batch(sent, view, view.points[sent.points - view.forgotten :], new_params, new_tags):
            del self.sent[key]
            return False
        sent.points, sent.params, sent.tags = points, True, tags
        if sent.status != view.status:
            self._status(sent, view)
        for name, text in view.files.items():
            self.put_file(key, name, text.encode())
        sent.events = events
        view.forget(points)
        return True

    def _create(self, projection: Projection, view: RunView) -> None:
        from mlflow.exceptions import MlflowException

        tags = self._tags(view)
        try:
            run = self._reach(
                lambda: self.client.create_run(self.experiment_id, start_time=view.start, tags=tags, run_name=view.name)
            )
        except Unreachable:
            self._doubtful = True  # the request may have arrived all the same: look before asking again
            raise
        except MlflowException as error:  # most likely the experiment was deleted by hand: begin a new one
            self._doubtful, self.experiment_id = True, ""
            raise Unreachable(str(error)) from error
        sent = Sent(run.info.run_id, tags=_digest(tags), status="RUNNING")
        self.sent[view.key] = sent
        dataset = _dataset(projection)
        self._try(f"{view.key}: data set", lambda: self.client.log_inputs(sent.id, [dataset]))

    def _tags(self, view: RunView) -> dict[str, str]:
        return view.tags if view.key == STUDY else {**view.tags, "mlflow.parentRunId": self.sent[STUDY].id}

    def _status(self, sent: Sent, view: RunView) -> None:
        if view.end is None:
            self._try(view.key, lambda: self.client.update_run(sent.id, status=view.status))
        else:
            self._try(view.key, lambda: self.client.set_terminated(sent.id, view.status, view.end))
        sent.status = view.status

    def _batch(self, sent: Sent, view: RunView, points: list, params: dict[str, str], tags: dict[str, str]) -> bool:
        """Send metrics, parameters and tags, in one request where the limits allow; False if the run is gone."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(p.key, p.value, p.time, p.step) for p in points]
        entities: dict[str, list] = {"params": [Param(*item) for item in params.items()]}
        entities["tags"] = [RunTag(*item) for item in tags.items()]
        while metrics or any(entities.values()):
            batch = {name: items[: limits.ITEMS_PER_BATCH] for name, items in entities.items()}
            room = limits.METRICS_PER_BATCH - sum(map(len, batch.values()))
            batch["metrics"] = metrics[:room]
            metrics = metrics[room:]
            entities = {name: items[limits.ITEMS_PER_BATCH :] for name, items in entities.items()}
            if not self._send(sent, view.key, batch):
                return False
        return True

    def _send(self, sent: Sent, key: str, batch: dict[str, Any]) -> bool:
        """Send one batch; of a refused batch, the part at fault is located and skipped."""
        if not any(batch.values()) or self._try("", lambda: self.client.log_batch(sent.id, **batch)):
            return True
        if not self._alive(sent):
            return False
        for name, items in batch.items():
            for item in items:
                single: dict[str, Any] = {name: [item]}
                self._try(f"{key}: {item.key}", functools.partial(self.client.log_batch, sent.id, **single))
        return True

    def _alive(self, sent: Sent) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self._reach(lambda: self.client.get_run(sent.id)).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def _experiment(self, projection: Projection, known: str) -> str:
        from mlflow.entities import ViewType
        from mlflow.exceptions import MlflowException

        name = projection.experiment
        quoted = name.replace("'", "_")
        text = f"tags.`lungtune.experiment` = '{quoted}'"
        ours = self._reach(lambda: self.client.search_experiments(ViewType.ACTIVE_ONLY, filter_string=text))
        self._places = ids = [experiment.experiment_id for experiment in ours]
        if ids:
            return known if known in ids else min(ids)
        tags = {"lungtune.experiment": quoted, "mlflow.experimentKind": "custom_model_development"}
        files = location.artifact_location(self.uri)
        for number in range(1, 100):
            candidate = name if number == 1 else f"{name} ({number})"  # the plain name may lie in MLflow's trash
            try:
                return self._reach(functools.partial(self.client.create_experiment, candidate, files, tags))
            except MlflowException as error:
                if error.error_code == "PERMISSION_DENIED":
                    raise
                held = self._reach(functools.partial(self.client.get_experiment_by_name, candidate))
                if held is not None and held.lifecycle_stage == "active":
                    return held.experiment_id
        raise Unreachable(f"no experiment could be created for '{name}'")

    def _search(self, study_id: str) -> list[Run]:
        text, token, runs = f"tags.`lungtune.study_id` = '{study_id}'", None, []
        search, where = self.client.search_runs, sorted({self.experiment_id, *self._places})
        while True:
            page = self._reach(functools.partial(search, where, text, max_results=500, page_token=token))
            runs += page
            token = page.token
            if not token:
                return runs

    def _try(self, what: str, call: Callable[[], Any]) -> bool:
        """Call MLflow; False, with a note, when it refuses."""
        from mlflow.exceptions import MlflowException

        try:
            self._reach(call)
        except MlflowException as error:
            if what:
                self.refused[what] = limits.clip(str(error), 300)
            return False
        return True

    def _reach(self, call: Callable[[], Any]) -> Any:
        """Call MLflow; a refusal passes through, transient errors become ``Unreachable``."""
        from mlflow.exceptions import MlflowException

        try:
            return call()
        except MlflowException as error:
            if error.error_code in REFUSED:
                raise
            self.troubled = True
            raise Unreachable(str(error)) from error
        except Unreachable:
            raise
        except Exception as error:  # requests, SQLAlchemy, a client library of a plugin: none of them ends the tracker
            self.troubled = True
            raise Unreachable(str(error) or type(error).__name__) from error


def _fits(run: Run, view: RunView, ours: set[str]) -> bool:
    """True if a logged run began with its trial, and the newest points of our metrics are in the journal."""
    if run.info.start_time != view.start:
        return False
    if view.forgotten:  # sent by this writer
        return True
    points = {(point.key, point.time, point.step) for point in view.points}
    metrics = getattr(run.data, "_metric_objs", ())
    return all((each.key, each.timestamp, each.step) in points for each in metrics if each.key in ours)


def _digest(tags: dict[str, str]) -> int:
    return zlib.crc32(json.dumps(tags, sort_keys=True).encode())


def _dataset(projection: Projection) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = projection.history.study["data"]
    source = str(data.get("source") or "data")
    profile = {key: data[key] for key in ("classes", "counts") if key in data}
    digest = str(data.get("hash") or "0")[: limits.DIGEST]
    entity = Dataset(
        source.partition(":")[0][:500],
        digest,
        "local",
        json.dumps({"uri": source}),
        profile=json.dumps(profile, ensure_ascii=False),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])
