"""Runs the model checker TLC over tla/ and compares every result with the expected one.

Start it as ``python -m harness.modelcheck``; see tla/README.md for how to read its table.
"""
