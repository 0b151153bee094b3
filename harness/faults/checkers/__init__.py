"""Checkers of recorded histories. None of them talks to a live system, so a saved history can be checked again."""
