"""What may be set of a host's session."""

from __future__ import annotations

import pytest

from callboard.core.native_host import HELLO_REPEAT_MS
from callboard.host.session import Reconnecting


def test_a_silence_in_which_no_hello_is_repeated_is_refused() -> None:
    assert Reconnecting(silence_ms=2 * HELLO_REPEAT_MS).silence_ms == 2000
    with pytest.raises(ValueError, match="silence_ms 1999 is below 2000"):
        Reconnecting(silence_ms=2 * HELLO_REPEAT_MS - 1)
