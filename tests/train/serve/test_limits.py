"""A rate per client, a number of places, and the size of a body."""

from __future__ import annotations

import asyncio

import pytest

from ser_memory.train.serve import limits
from ser_memory.train.serve.limits import Places, Rate, RefusedError, bounded


def test_a_client_may_send_so_many_in_any_minute() -> None:
    now = 0.0
    rate = Rate(2, lambda: now)
    rate.take("a")
    now = 30.0
    rate.take("a")
    with pytest.raises(RefusedError, match="takes 2 uploads per minute") as refused:
        rate.take("a")
    assert (refused.value.status, refused.value.retry_after) == (429, 30)
    rate.take("b")
    now = 60.0
    rate.take("a")
    with pytest.raises(RefusedError):
        rate.take("a")


def test_clients_are_forgotten() -> None:
    now = 0.0
    rate = Rate(1, lambda: now)
    for client in range(1000):
        rate.take(str(client))
    now = 60.0
    rate.take("x")
    assert list(rate._times) == ["x"]


def test_places_are_given_back_whatever_happens() -> None:
    places = Places(1)
    places.took(8.0)
    with places.one(), pytest.raises(RefusedError) as refused, places.one():
        pass
    assert (refused.value.status, refused.value.retry_after) == (503, 4)
    with pytest.raises(ZeroDivisionError), places.one():
        1 / 0  # noqa: B018
    assert places.taken == 0


@pytest.mark.parametrize("stated", [None, "12", "x"])
def test_a_body_is_cut_off_when_too_much_has_come(stated: str | None) -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": bytes(60_000), "more_body": True}

    limited = bounded(receive, stated, 0.01)

    async def twice() -> None:
        assert len((await limited())["body"]) == 60_000
        with pytest.raises(RefusedError, match=r"larger than 0\.01 MB"):
            await limited()

    asyncio.run(twice())


def test_a_body_that_comes_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came fast leaves time for a pause; a client that sends nothing more has none."""
    monkeypatch.setattr(limits, "_PATIENCE", 0.0)
    monkeypatch.setattr(limits, "_PACE", 1000)
    messages: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    limited = bounded(messages.get, None, 1)

    async def body() -> None:
        messages.put_nowait({"type": "http.request", "body": bytes(200), "more_body": True})
        assert len((await limited())["body"]) == 200
        with pytest.raises(RefusedError, match="less than 1 kB per second") as refused:
            await limited()
        assert refused.value.status == 408

    asyncio.run(body())


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    async def receive() -> dict[str, object]:
        raise AssertionError

    with pytest.raises(RefusedError) as refused:
        bounded(receive, "2000000", 1)
    assert refused.value.status == 413
