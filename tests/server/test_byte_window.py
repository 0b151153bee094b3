"""The bound on bytes in flight: never exceeded, fair, and safe to cancel."""

from __future__ import annotations

import asyncio
import random

import pytest

from callboard.server.byte_window import ByteWindow


async def use(window: ByteWindow, size: int, noise: random.Random, peak: list[int]) -> None:
    async with window.reserve(size):
        peak.append(window.in_flight_bytes)
        for _ in range(noise.randrange(4)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(20))
async def test_never_exceeds_its_limit_and_ends_empty_whatever_is_cancelled(seed: int) -> None:
    noise, window = random.Random(seed), ByteWindow(100)
    peak: list[int] = []
    tasks = [asyncio.ensure_future(use(window, noise.randrange(1, 100), noise, peak)) for _ in range(60)]
    for task in tasks:
        await asyncio.sleep(0)
        if noise.random() < 0.3:
            noise.choice(tasks).cancel()
        del task
    await asyncio.gather(*tasks, return_exceptions=True)
    assert max(peak) <= 100
    assert window.in_flight_bytes == 0


async def test_a_message_larger_than_the_window_goes_alone() -> None:
    window, peak = ByteWindow(10), list[int]()
    noise = random.Random(1)
    await asyncio.gather(*(use(window, size, noise, peak) for size in (4, 50, 4)))
    assert max(peak) == 50
    assert window.in_flight_bytes == 0


async def test_first_come_first_served() -> None:
    window, order = ByteWindow(10), list[str]()

    async def take(name: str, size: int) -> None:
        async with window.reserve(size):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(take("a", 8), take("large", 9), take("small", 1))
    assert order == ["a", "large", "small"], "a small message overtook one that waited longer"


async def test_seeded_bug_without_turns_is_caught() -> None:
    """A window that lets everybody in at once fails the first test's check."""

    class Open(ByteWindow):
        def _fits(self, size_bytes: int) -> bool:
            return True

    window, peak = Open(100), list[int]()
    noise = random.Random(3)
    await asyncio.gather(*(use(window, 60, noise, peak) for _ in range(5)))
    assert max(peak) > 100
