"""Bugs seeded into core, one at a time, and who finds them after how much work. `python -m harness.seeded_bugs`."""
