"""Hypothesis profiles of the whole suite: `dev` (default), `ci` (CI=true), `nightly` (HYPOTHESIS_PROFILE=nightly).

`mutants` is for `harness.mutation`: the same examples each time, and a failure ends the test at once.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, Verbosity, settings

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile("dev", deadline=None, max_examples=50, suppress_health_check=_SLOW)
# Hypothesis's own "ci" profile always draws the same examples; ours follows --hypothesis-seed (one per commit).
settings.register_profile(
    "ci", deadline=None, max_examples=100, derandomize=False, print_blob=True, suppress_health_check=_SLOW
)
settings.register_profile(
    "nightly",
    deadline=None,
    max_examples=5000,
    derandomize=False,
    print_blob=True,
    verbosity=Verbosity.normal,
    suppress_health_check=_SLOW,
)
settings.register_profile(
    "mutants",
    deadline=None,
    max_examples=50,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))
