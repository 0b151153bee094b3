"""Admin HTTP: /healthz, /readyz, /placement/state and /metrics; and the metrics port, which answers on any path."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from callboard.server.listening import check_can_bind
from callboard.server.metrics import Metrics

REQUEST_BYTES_MAX = 16 * 1024
PATHS_WITHOUT_CERTIFICATE = frozenset({"/healthz", "/readyz"})
"""Probes of an orchestrator cannot present a certificate; they say nothing but yes or no."""


class Health(Protocol):
    """What the HTTP server asks of the replica."""

    def failure(self) -> str | None:
        """Why the replica cannot go on, or None while it can."""

    def unready(self) -> str | None:
        """Why the replica is not ready to serve or redirect, or None if it is."""

    def placement_state(self) -> dict[str, object]:
        """Upstream's JSON of all tables. Raises NotInOfficeError on a replica that does not lead."""


class NotInOfficeError(Exception):
    """This replica does not lead, so it does not know which hosts are connected."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminHttp:
    """The two HTTP listeners of a replica."""

    def __init__(self, health: Health, metrics: Metrics, *, metadata_enabled: bool, tls: ssl.SSLContext | None) -> None:
        self._health = health
        self._metrics = metrics
        self._metadata_enabled = metadata_enabled
        self._tls = tls
        self._runners: list[web.AppRunner] = []

    async def start_health(self, host: str, port: int) -> int:
        """Listen for /healthz and the others; returns the port. Raises AddressError."""
        application = self._application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/placement/state", self._placement_state)
        application.router.add_get("/metrics", self._metrics_text)
        return await self._listen(application, "--healthz-port", host, port)

    async def start_metrics(self, host: str, port: int) -> int:
        """Listen for metrics on any path; returns the port. Raises AddressError."""
        application = self._application()
        application.router.add_get("/{path:.*}", self._metrics_text)
        return await self._listen(application, "--metrics-port", host, port)

    async def stop(self) -> None:
        """Close both listeners."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    def _application(self) -> web.Application:
        return web.Application(client_max_size=REQUEST_BYTES_MAX, middlewares=[self._require_certificate])

    async def _listen(self, application: web.Application, flag: str, host: str, port: int) -> int:
        check_can_bind(flag, host, port)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, host or None, port, ssl_context=self._tls)
        await site.start()
        self._runners.append(runner)
        addresses = runner.addresses
        return int(addresses[0][1]) if addresses else port

    @web.middleware
    async def _require_certificate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._tls is not None and request.path not in PATHS_WITHOUT_CERTIFICATE:
            transport = request.transport
            connection = transport.get_extra_info("ssl_object") if transport is not None else None
            if connection is None or not connection.getpeercert():
                raise web.HTTPForbidden(text="a client certificate is required\n")
        return await handler(request)

    async def _healthz(self, _request: web.Request) -> web.Response:
        failure = self._health.failure()
        return web.Response(status=503 if failure else 200, text=f"{failure or 'ok'}\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reason = self._health.failure() or self._health.unready()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

    async def _metrics_text(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _placement_state(self, _request: web.Request) -> web.Response:
        if not self._metadata_enabled:
            raise web.HTTPNotFound(text="start the server with --metadata-enabled to serve /placement/state\n")
        try:
            state = self._health.placement_state()
        except NotInOfficeError as error:
            return web.json_response({"error": str(error)}, status=503)
        return web.Response(text=json.dumps(state), content_type="application/json")
