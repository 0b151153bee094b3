"""callboard: a placement service for virtual actors. See README.md."""

from __future__ import annotations

__version__ = "0.1.0"
