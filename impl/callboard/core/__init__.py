"""Pure state machines: no clock, no randomness, no input or output. Time is passed in, effects are returned."""
