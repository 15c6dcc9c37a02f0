"""Transcription by Azure that is killed again and again sends nothing twice and loses nothing."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter

from tests.extract.test_azure import AGREED, Make, make, short_pauses

assert make  # the fixtures
assert short_pauses


def test_killed_at_random_moments_nothing_is_sent_again_or_lost(make: Make) -> None:
    faults = random.Random(7)
    place = make(60, lambda n, name: faults.choice(["truncated", "500", "429 after 0"]) if n % 9 == 4 else "")
    place.azure.delay = 0.03
    moments = random.Random(3)
    kills = 0
    for target in (5, 18, 19, 33, 47):
        process = place.start("--concurrency", "3", *AGREED)
        while len(place.azure.requests) < target and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 5
    assert place.start("--concurrency", "3", *AGREED).wait() == 0, (place.folder / "output.txt").read_text()
    assert place.texts() == place.all_texts()
    assert [request.id for request in place.azure.requests if request.stored] == []
    sent = Counter(request.id for request in place.azure.requests if not request.fault)
    again = sum(sent.values()) - len(place.recordings)
    print(
        f"{kills} kills, {len(place.azure.requests)} requests, {again} of them again: under way when killed"
    )
    assert again <= 3 * kills
