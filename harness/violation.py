"""What checkers of simulations and model networks raise."""

from __future__ import annotations


class PropertyViolation(AssertionError):
    """A property of the design does not hold; `name` is the property's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text
