"""`/metrics`, `/healthz` and `/readyz`, for Prometheus and for whatever restarts the monitor, beside an API."""

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Exposition = Callable[[str], tuple[bytes, str]]
Check = Callable[[], Mapping[str, str | None]]
"""What is checked -> None if it is well, else what is wrong."""


def create_app(metrics: Exposition, alive: Check, ready: Check, *api: Route) -> Starlette:
    """The application. `metrics` gives the body and content type for an `Accept` header.

    `alive` answers `/healthz` and `ready` `/readyz`: 200, or 503 and what is wrong. `api` are further routes."""

    def answer(check: Check) -> Callable[[Request], JSONResponse]:
        def respond(request: Request) -> JSONResponse:
            parts = check()
            well = all(wrong is None for wrong in parts.values())
            return JSONResponse(
                {"ok": well, "parts": {name: wrong or "ok" for name, wrong in parts.items()}},
                status_code=200 if well else 503,
            )

        return respond

    def expose(request: Request) -> Response:
        body, content_type = metrics(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return Starlette(
        routes=[
            Route("/healthz", answer(alive)),
            Route("/readyz", answer(ready)),
            Route("/metrics", expose),
            *api,
        ]
    )


class WebServer:
    """Serves an application from a thread of its own, for as long as the `with` block lasts.

    Raises:
        OSError: the address cannot be listened on; raised on entering.
    """

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
        )
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it is served."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family)
        self._port = listener.getsockname()[1]
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[listener])), name="web", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=5)
