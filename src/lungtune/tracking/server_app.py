"""MLflow's web application whose first page is the newest study's runs.

MLflow finds :func:`app` by the entry point ``lungtune`` of the group ``mlflow.app`` (``mlflow server --app-name``).
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lungtune.core import paths
from lungtune.tracking import mlflow_views, store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NAME = "lungtune"
STORE = "LUNGTUNE_UI_STORE"
"""Environment variable with the URI of the store that is served."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_CACHED = (b"if-none-match", b"if-modified-since", b"if-range", b"range")


def app() -> App:
    """Return the application; imports MLflow."""
    from mlflow.server.fastapi_app import app as served

    return FirstPage(served)


class FirstPage:
    """Redirects requests of MLflow's home to the newest study; all else is MLflow's.

    Pages of MLflow are fragments of one file (``/#/experiments/1``), which are not sent to the server: a script in that
    file redirects.

    Args:
        served: MLflow's application.
    """

    def __init__(self, served: App) -> None:
        self._served = served

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await self._served(scope, receive, send)
            return
        import anyio

        page = await anyio.to_thread.run_sync(first_page, os.environ[STORE])
        scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name not in _CACHED]}
        started: list[Message] = []
        body = bytearray()

        async def changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            whole = redirecting(bytes(body), page)
            headers = [(name, value) for name, value in started[0]["headers"] if name.lower() not in _LENGTHS]
            length = (b"content-length", str(len(whole)).encode())
            fresh = (b"cache-control", b"no-store")
            await send({**started[0], "headers": [*headers, length, fresh]})
            await send({"type": "http.response.body", "body": whole})

        await self._served(scope, receive, changed)


_LENGTHS = (b"content-length", b"etag", b"last-modified", b"cache-control")


def redirecting(html: bytes, page: str) -> bytes:
    """Return MLflow's page with a script that leaves its home for ``page``."""
    target = json.dumps(page).replace("<", "\\u003c")
    script = f'<script>if(["","#","#/"].includes(location.hash))location.replace({target})</script>'
    return html.replace(b"<head>", b"<head>" + script.encode(), 1)


def first_page(uri: str) -> str:
    """Return the address, from ``/`` on, of the newest study's runs; of the list of experiments where there is none."""
    try:
        found = studies(_client(uri))
    except Exception:  # MLflow's own page then reports the store's error
        return "/#/experiments"
    if not found:
        return "/#/experiments"
    newest = max(found, key=_changed)
    return mlflow_views.address("", newest.experiment, newest.view)


class Logged(NamedTuple):
    """A study in the store.

    Attributes:
        name: of the study.
        id: of the study.
        title: the name, with the id's beginning where several studies have it.
        experiment: id of its experiment.
        view: key of its saved view.
        began: unix time of its beginning.
    """

    name: str
    id: str
    title: str
    experiment: str
    view: str
    began: float


def studies(client: MlflowClient) -> list[Logged]:
    """Return every study in the store, by name, then by its beginning."""
    experiments = {each.experiment_id: each.tags for each in client.search_experiments()}
    runs: list[Any] = []
    token = None
    while experiments:
        page = client.search_runs(list(experiments), "tags.`lungtune.kind` = 'study'", page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    names = Counter(run.data.tags.get("study", "") for run in runs)
    found = []
    for run in runs:
        experiment, tags = run.info.experiment_id, run.data.tags
        name, study_id = tags.get("study", ""), tags.get("lungtune.study_id", "")
        title = name if names[name] == 1 else f"{name} ({study_id[:8]})"
        key = mlflow_views.key(name, study_id)
        view = key if mlflow_views.TAG + key in experiments[experiment] else name  # 0.1 named views by the study alone
        found.append(Logged(name, study_id, title, experiment, view, run.info.start_time / 1000))
    return sorted(found, key=lambda study: (study.name, study.began, study.id))


def _changed(study: Logged) -> float:
    """Return the unix time of a study's last event where it is in this home, else of its beginning."""
    path = paths.studies() / study.name / "journal.jsonl"
    try:
        with open(path, "rb") as file:
            own = json.loads(file.readline())["id"] == study.id
        return path.stat().st_mtime if own else study.began
    except (OSError, ValueError, KeyError, TypeError):
        return study.began


@functools.cache
def _client(uri: str) -> MlflowClient:
    return store.client(uri)
