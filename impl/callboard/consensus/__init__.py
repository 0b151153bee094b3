"""Replicated logs behind one small interface; see `callboard.consensus.interface` for the contract."""
