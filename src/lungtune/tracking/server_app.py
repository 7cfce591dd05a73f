"""MLflow's web application whose first page is the newest study's runs.

MLflow finds :func:`app` by the entry point ``lungtune`` of the group ``mlflow.app`` (``mlflow server --app-name``).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

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
        experiments = studies(_client(uri))
    except Exception:  # MLflow's own page then reports the store's error
        return "/#/experiments"
    if not experiments:
        return "/#/experiments"
    name, experiment = max(experiments, key=lambda one: _changed(one[0]))
    return mlflow_views.address("", experiment, name)


def studies(client: MlflowClient) -> list[tuple[str, str]]:
    """Return the name and the experiment of every study in the store, by name."""
    return sorted(
        (key.removeprefix(mlflow_views.TAG), experiment.experiment_id)
        for experiment in client.search_experiments()
        for key in experiment.tags
        if key.startswith(mlflow_views.TAG)
    )


def _changed(study: str) -> float:
    try:
        return (paths.home() / "studies" / study / "journal.jsonl").stat().st_mtime
    except OSError:
        return 0.0


@functools.cache
def _client(uri: str) -> MlflowClient:
    return store.client(uri)
