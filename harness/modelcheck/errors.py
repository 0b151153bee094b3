"""The one exception of this package: something that the person at the keyboard can put right."""

from __future__ import annotations


class ModelCheckError(Exception):
    """A missing program, a bad manifest or a bad option. Its text is one clear line."""
