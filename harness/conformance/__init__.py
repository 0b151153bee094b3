"""Holding the code to its specification: paths of TLC's state graphs replayed on core (tla/doc/Conformance.md), and
traces of the code judged by TLC (tla/doc/Traces.md)."""
