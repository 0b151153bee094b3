"""For the tests of applications: time that stands still until a test moves it."""

from callboard.testing.clock import ManualClock, settle

__all__ = ["ManualClock", "settle"]
