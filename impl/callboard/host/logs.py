"""The library's own log: standard logging under `callboard.host`, so that the application decides what it prints."""

from __future__ import annotations

import logging
from typing import Any

import structlog


def library_logger(name: str) -> Any:
    """A logger with fields, on top of the standard logger of that name: nothing below WARNING unless configured."""
    return structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
    )
