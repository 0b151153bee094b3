"""Parameter types of the command line; each error names the flag and the value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from callboard.core.durations import parse_duration_ms

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_TRUE = {"1", "t", "true"}
_FALSE = {"0", "f", "false"}


class GoBoolean(click.ParamType[bool]):
    """true/false as Go's flag package reads them, so that `--tls-enabled=false` works."""

    name = "true|false"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        text = str(value).lower()
        if text not in _TRUE | _FALSE:
            self.fail(f"{value!r} is not true or false", param, ctx)
        return text in _TRUE


class DurationMs(click.ParamType[int]):
    """A duration such as 8s or 500ms, within bounds; its value is in milliseconds."""

    name = "duration"

    def __init__(self, minimum: str = "0", maximum: str | None = None) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            duration_ms = parse_duration_ms(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        too_long = self.maximum is not None and duration_ms > parse_duration_ms(self.maximum)
        if duration_ms < parse_duration_ms(self.minimum) or too_long:
            upper = f" to {self.maximum}" if self.maximum else " or more"
            self.fail(f"{value} is out of range: {self.minimum}{upper} is allowed", param, ctx)
        return duration_ms


class Label(click.ParamType[tuple[str, str]]):
    """KEY=VALUE."""

    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not key or not separator:
            self.fail(f"{value} is no KEY=VALUE", param, ctx)
        return key, text


class HostPort(click.ParamType[tuple[str, int]]):
    """host:port; IPv6 addresses in brackets."""

    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_host_port(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class NamedAddresses(click.ParamType[tuple[tuple[str, str, int], ...]]):
    """A comma-separated list of id=host:port."""

    name = "id=host:port,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str, str, int], ...]:
        if isinstance(value, tuple):
            return value
        entries: list[tuple[str, str, int]] = []
        for item in str(value).split(","):
            name, equals, address = item.strip().partition("=")
            if not equals or not name:
                self.fail(f"{item!r} is not of the form id=host:port", param, ctx)
            try:
                host, port = parse_host_port(address)
            except ValueError as error:
                self.fail(f"{item!r}: {error}", param, ctx)
            if name in {known for known, _, _ in entries}:
                self.fail(f"id {name!r} stands twice in the list", param, ctx)
            entries.append((name, host, port))
        return tuple(entries)


def parse_host_port(text: str) -> tuple[str, int]:
    """Host and port of `text`. Raises ValueError naming what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not host:port with a port from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:50005")
    if not host:
        raise ValueError(f"{text!r} names no host")
    return host, int(port)


def stacked(*decorators: Decorator) -> Decorator:
    """Apply `decorators` so that help lists them in the order given."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply
