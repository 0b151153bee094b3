"""Whole clusters in one thread on virtual time, drawn from one seed: the core's machines under every fault.

`python -m harness.simulation --seeds 1-100` runs a campaign; README.md of this directory says what is modelled.
"""
