"""Claims: one worker per piece, whatever dies, sleeps, or is seen late."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_memory.common.claims import Claims, FolderGoneError, claimed, remove_left, shared
from ser_memory.common.errors import SerError

OTHER = SerError("It is other work.")


class Time:
    """A clock that only sleeping moves; `during` is what happens meanwhile."""

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self.now, self.during = 0.0, during

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.during()


def worker(folder: Path, time: Time | None = None, timeout: float = 60.0) -> Claims:
    """A worker whose counter stands still in a test: a thread would raise it after ten seconds."""
    time = time or Time()
    return Claims(folder, timeout, time.clock, time.sleep)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "claims"


def test_one_worker_per_piece_and_none_for_one_that_is_done(folder: Path) -> None:
    with worker(folder) as a, worker(folder) as b:
        assert a.take("x")
        assert not b.take("x")
        assert b.take("y")
        assert not a.is_done("x")
        a.finish("x", "well")
        assert a.is_done("x")
        assert b.is_done("x")
        assert b.word("x") == "well"
        assert not a.take("x")
        assert not b.take("x")
        assert b.word("y") == ""


def test_who_left_in_order_is_followed_at_once(folder: Path) -> None:
    with worker(folder) as a:
        assert a.take("x")
        assert a.take("y")
        a.finish("y")
    with worker(folder) as b:
        assert b.take("x")
        assert not b.take("y")


def test_who_gives_no_sign_of_life_is_followed_after_the_timeout(folder: Path) -> None:
    time = Time()
    dead = worker(folder).__enter__()
    assert dead.take("x")
    assert dead.take("y")
    with worker(folder, time) as b:
        assert not b.take("x")
        time.now += 59
        assert not b.take("x")
        time.now += 2
        assert b.take("x")
        assert b.take("y"), "the timeout is of the worker, not of each piece"
    dead.leave()


def test_a_sign_of_life_counts_from_when_it_is_seen(folder: Path) -> None:
    time = Time()
    with worker(folder) as a, worker(folder, time) as b:
        assert a.take("x")
        assert not b.take("x")
        for count in range(3):
            time.now += 59
            a._show(str(count + 1))
            assert not b.take("x")
        time.now += 61
        assert b.take("x")


def test_a_worker_with_a_longer_timeout_is_given_its_own(folder: Path) -> None:
    time = Time()
    with worker(folder, timeout=600) as a, worker(folder, time, timeout=1) as b:
        assert a.take("x")
        assert not b.take("x")
        time.now += 599
        assert not b.take("x")
        time.now += 2
        assert b.take("x")


def test_two_that_follow_at_once(folder: Path) -> None:
    times = Time(), Time()
    with worker(folder) as dead, worker(folder, times[0]) as b, worker(folder, times[1]) as c:
        assert dead.take("x")
        assert not b.take("x")
        assert not c.take("x")
        for time in times:
            time.now += 61
        assert b.take("x")
        assert not c.take("x")
        # The first was only asleep: what it finishes counts, and the other's work changes nothing.
        dead.finish("x", "first")
        b.finish("x", "second")
        assert c.word("x") == "first"
        assert not c.take("x")


def test_a_worker_that_died_over_its_claim(folder: Path) -> None:
    """The file is there, and who made it never wrote into it. The next such file has a time of its own."""
    time = Time()
    with worker(folder, time) as b:
        (folder / "x.1").touch()
        assert not b.take("x")
        time.now += 61
        (folder / "x.2").touch()
        assert not b.take("x")
        time.now += 61
        assert b.take("x")
        (folder / "y.1").touch()
        assert not b.take("y")
        (folder / "y.1").write_text(f"{'f' * 32}\n")  # it was only slow
        time.now += 61
        assert not b.take("y")


def test_who_cannot_see_yet_that_a_piece_is_done_does_not_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulation of a client that believes for a while that a file does not exist, as NFS may let it."""
    with worker(folder) as a, worker(folder) as b:
        assert a.take("x")
        assert not b.take("x")
        a.finish("x")
        a.leave()
        real = Path.read_text
        hidden = {folder / "x.2"}

        def late(path: Path, *arguments: Any, **named: Any) -> str:
            if path in hidden:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            return real(path, *arguments, **named)

        monkeypatch.setattr(Path, "read_text", late)
        assert not b.is_done("x")
        assert not b.take("x")
        hidden.clear()
        assert b.is_done("x")


def test_pieces_wait_until_they_are_ready_and_end_when_asked(folder: Path) -> None:
    done: list[int] = []
    with worker(folder) as a:
        for piece in claimed(a, [2, 1, 0], str, ready=lambda piece: piece == len(done)):
            done.append(piece)
            a.finish(str(piece))
        assert done == [0, 1, 2]
        assert list(claimed(a, [0, 1, 2], str)) == []
        assert [next(claimed(a, [3, 4], str, stopped=lambda: False))] == [3]
        assert list(claimed(a, [4, 5], str, stopped=lambda: True)) == []


def test_all_pieces_come_once_also_those_of_others(folder: Path) -> None:
    with ExitStack() as stack:
        a = stack.enter_context(worker(folder))
        assert a.take("2")

        def finish() -> None:
            if not a.is_done("2"):
                a.finish("2")

        b = stack.enter_context(worker(folder, Time(during=finish)))
        seen = []
        for piece, own in shared(b, range(5), str):
            seen.append((piece, own))
            if own:
                b.finish(str(piece))
        assert sorted(seen) == [(piece, piece != 2) for piece in range(5)]


def test_the_last_one_cleans_up(folder: Path) -> None:
    time = Time()
    with worker(folder) as a, worker(folder, time) as b:
        a.leave()
        time.during = lambda: b._show(f"{time.now}")
        asked = worker(folder, time)
        asked.id = a.id
        assert not asked.is_last(), "b is at work"
        assert time.now <= 10
        b.leave()
        assert b.is_last()
        b.remove()
    assert not folder.exists()


def test_a_dead_one_is_waited_for_once(folder: Path) -> None:
    time = Time()
    dead = worker(folder).__enter__()
    (folder / "2.worker").touch()  # another died when it came
    with worker(folder, time) as b:
        b.leave()
        assert b.is_last()
        assert 60 <= time.now < 65
    dead.leave()


def test_what_others_did_may_be_seen_late(folder: Path) -> None:
    time = Time()
    claims = worker(folder, time)
    assert claims.wait_for(lambda: time.now > 30)
    assert 30 < time.now <= 33
    assert not claims.wait_for(lambda: False)
    assert 90 <= time.now < 96


def test_a_folder_that_others_removed(folder: Path) -> None:
    with worker(folder) as a:
        a.remove()
        with pytest.raises(FolderGoneError, match="was removed while this worker used it"):
            a.take("x")
        with pytest.raises(FolderGoneError):
            a.finish("x")
        assert not a.is_done("x")
        with pytest.raises(FolderGoneError):  # not to wait forever for what others do
            a.wait()
    assert not folder.exists()


def test_other_work_is_refused_while_a_worker_lives(folder: Path) -> None:
    time = Time()
    with worker(folder).on("this", OTHER) as a, worker(folder).on("this", OTHER) as b:
        assert a.take("x")
        assert not b.take("x")
        time.during = lambda: b._show(f"{time.now}")
        with pytest.raises(SerError, match="It is other work"):
            worker(folder, time).on("that", OTHER).__enter__()
        with pytest.raises(SerError, match="It is other work"):
            remove_left_in(folder, time)
        a.finish("x")
        b.leave()
        a.leave()
    time.during, began = lambda: None, time.now
    with worker(folder, time).on("that", OTHER) as c:
        assert time.now == began, "all have left in order"
        assert c.take("x"), "it is another piece"


def remove_left_in(folder: Path, time: Time) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ser_memory.common.claims.Claims",
            lambda path, timeout: Claims(path, timeout, time.clock, time.sleep),
        )
        remove_left(folder, OTHER)


def test_other_work_follows_dead_workers_after_the_timeout(folder: Path) -> None:
    time = Time()
    asleep = worker(folder).on("this", OTHER).__enter__()
    assert asleep.take("x")
    assert asleep.take("y")
    asleep.finish("y")
    (folder / "2.worker").touch()  # another died when it came
    with worker(folder, time).on("that", OTHER) as b, worker(folder, time).on("that", OTHER) as c:
        assert 60 <= time.now < 130
        assert b.take("x")
        assert b.take("y")
        assert not c.take("x"), "it works with the first one"
        with pytest.raises(FolderGoneError):
            asleep.take("z")
        with pytest.raises(FolderGoneError):
            asleep.finish("x")
    asleep.leave()
    remove_left_in(folder, time)
    assert not folder.exists()
    remove_left_in(folder, time)
    assert not folder.exists()


@pytest.mark.parametrize(("work", "joins"), [("this", False), ("that", True), ("third", False)])
def test_who_comes_between_the_last_look_of_another_and_its_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch, work: str, joins: bool
) -> None:
    """With the same work as the dead, or as the other one, or with a third: living workers have one work."""
    time = Time()
    dead = worker(folder).on("this", OTHER).__enter__()
    first, late = worker(folder).on(work, OTHER), worker(folder, time).on("that", OTHER)
    look, come = late._are_dead, list[Claims]()

    def looked(count: int) -> bool:
        are_dead = look(count)
        dead.leave()
        if first not in come:
            come.append(first.__enter__())
            assert first.take("x")
            time.during = lambda: first._show(f"{time.now}")
        return are_dead

    monkeypatch.setattr(late, "_are_dead", looked)
    if joins:
        with late:
            assert not late.take("x")
            assert late.take("y")
    else:
        with pytest.raises(SerError, match="It is other work"):
            late.__enter__()
    first.leave()


def test_a_removal_that_was_killed(folder: Path) -> None:
    """All who come later, with any of the numbers left, agree on one folder of pieces."""
    for gone in ((1,), (2,), (1, 3), (1, 2, 3)):
        time = Time()
        for _ in range(3):
            with worker(folder).on("this", OTHER) as old:
                old.take("x")
                old.finish("x")
        for number in gone:
            (folder / f"{number}.worker").unlink()
        with worker(folder, time).on("that", OTHER) as a, worker(folder, time).on("that", OTHER) as b:
            assert a.take("x")
            assert not b.take("x")
        b.remove()


def test_who_comes_while_the_last_one_looks_keeps_the_folder(folder: Path) -> None:
    time = Time()
    dead = worker(folder).__enter__()
    with worker(folder, time) as a, ExitStack() as stack:
        a.leave()

        def come() -> None:
            if time.now > 60:
                stack.enter_context(worker(folder).on("this", OTHER))

        time.during = come
        assert not a.is_last()
    dead.leave()


def test_who_comes_before_the_last_one_removes_the_folder_keeps_it(folder: Path) -> None:
    with worker(folder).on("this", OTHER) as a:
        pass
    assert a.is_last()
    with worker(folder).on("that", OTHER) as b:
        a.remove()
        assert b.take("x")
    assert b.is_last()
    b.remove()
    assert not folder.exists()


def test_two_that_leave_at_once_remove_the_folder(folder: Path) -> None:
    with worker(folder).on("this", OTHER) as a, worker(folder).on("this", OTHER) as b:
        pass
    assert a.is_last()
    assert b.is_last()
    a.remove()
    b.remove()
    assert not a.is_last(), "it is removed"
    assert list(folder.parent.iterdir()) == []


def test_a_removed_folder_is_never_there_in_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with worker(folder).on("this", OTHER) as a:
        pass
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # it was killed when it began
    assert a.is_last()
    a.remove()
    assert not folder.exists()


def test_who_comes_while_the_folder_is_removed_begins_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, late = worker(folder).on("this", OTHER), worker(folder).on("that", OTHER)
    with a:
        pass
    look = late._are_dead

    def looked(count: int) -> bool:
        are_dead = look(count)
        a.is_last()
        a.remove()
        return are_dead

    monkeypatch.setattr(late, "_are_dead", looked)
    with late:
        assert late.take("x")


def test_a_folder_that_was_made_again_between_the_look_and_the_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Time()
    dead = worker(folder).on("this", OTHER).__enter__()
    late, first = worker(folder, time).on("that", OTHER), worker(folder).on("third", OTHER)
    look = late._are_dead

    def looked(count: int) -> bool:
        are_dead = look(count)
        if time.during != beat:
            dead.leave()
            assert dead.is_last()
            dead.remove()
            first.__enter__()
            time.during = beat
        return are_dead

    def beat() -> None:
        first._show(f"{time.now}")

    monkeypatch.setattr(late, "_are_dead", looked)
    with pytest.raises(SerError, match="It is other work"):
        late.__enter__()
    with worker(folder).on("third", OTHER) as second:
        assert first.take("x")
        assert not second.take("x"), "both have one folder of pieces"
    first.leave()


def test_a_piece_that_is_finished_between_two_looks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker had made the file, and writes into it and leaves right after it was read."""
    with worker(folder) as a, worker(folder) as b:
        (folder / "x.1").touch()
        look = b._last

        def looked(name: str) -> tuple[int, str]:
            found = look(name)
            (folder / "x.1").write_text(f"{a.id}\n")
            a.leave()
            return found

        monkeypatch.setattr(b, "_last", looked)
        assert not b.take("x")
        assert not (folder / "x.2").exists()


def test_only_one_of_many_threads_gets_a_piece(folder: Path) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(folder)) for _ in range(8)]
        begin = threading.Barrier(len(workers))
        got: list[str] = []

        def run(claims: Claims) -> None:
            begin.wait()
            got.extend(piece for piece in map(str, range(100)) if claims.take(piece))

        threads = [threading.Thread(target=run, args=(each,)) for each in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got, key=int) == [str(i) for i in range(100)]


# What a worker may do next: take a piece, finish one that it has, fall asleep or wake up, leave.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["take", "finish", "sleep", "leave", "wait"]), st.integers(0, 2)
    )
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_nobody_gets_what_is_done_or_what_somebody_awake_has(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("claims")
    time = Time()
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(folder, time)) for _ in range(3)]
        awake, there = [True] * 3, [True] * 3
        has: dict[str, set[int]] = {str(piece): set() for piece in range(3)}
        done: set[str] = set()
        for count, (who, step, piece) in enumerate(steps):
            name = str(piece)
            if step == "wait":
                time.now += 30
                for i in range(3):
                    if awake[i] and there[i]:
                        workers[i]._show(f"{count + 1} 60")
            elif not there[who]:
                continue
            elif step == "sleep":
                awake[who] = not awake[who]
            elif not awake[who]:
                continue
            elif step == "leave":
                workers[who].leave()
                there[who] = False
            elif step == "finish" and who in has[name]:
                workers[who].finish(name)
                done.add(name)
            elif step == "take":
                others = {i for i in has[name] - {who} if there[i] and awake[i]}
                mine = workers[who].take(name)
                assert not (mine and name in done)
                last_alive = max(has[name], default=None) in others and len(has[name]) == 1
                assert not (mine and last_alive)
                if mine:
                    has[name].add(who)
        assert {name for name in has if workers[0].is_done(name)} == done


PIECES = 40


def live(folder: Path, log: Path, seed: int) -> None:
    """A worker that notes what it begins and what it has finished."""
    chance = random.Random(seed)
    with Claims(folder, timeout=3.0).on("this", OTHER) as claims:
        for piece in claimed(claims, range(PIECES), str):
            note(log, f"begun {piece} {claims.id}")
            time.sleep(chance.uniform(0.0, 0.04))
            note(log, f"done {piece} {claims.id}")
            claims.finish(str(piece))
        claims.leave()
        if claims.is_last():
            note(log, f"last 0 {claims.id}")


def note(log: Path, line: str) -> None:
    with log.open("a") as file:  # one write at the end of the file is whole
        file.write(line + "\n")


def notes(log: Path, kind: str) -> Counter[int]:
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(int(line.split()[1]) for line in lines if line.startswith(kind))


def test_workers_that_are_killed_at_random_moments(folder: Path, tmp_path: Path) -> None:
    """Real processes and SIGKILL: each piece is done, and twice only if it was under way when its worker was killed."""
    log, chance = tmp_path / "log", random.Random(5)
    fork = multiprocessing.get_context("fork")

    def begin() -> Any:
        process = fork.Process(target=live, args=(folder, log, chance.randrange(1000)))
        process.start()
        return process

    processes = [begin() for _ in range(4)]
    kills = 0
    for target in (5, 12, 20):
        while notes(log, "done").total() < target:
            time.sleep(0.005)
        victim = processes.pop(0)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        kills += victim.exitcode == -signal.SIGKILL
        processes.append(begin())
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert kills == 3
    done, begun = notes(log, "done"), notes(log, "begun")
    assert set(done) == set(range(PIECES))
    assert begun.total() - PIECES <= kills
    assert done.total() - PIECES <= kills
    assert notes(log, "last").total() >= 1
