"""What a person sees: rich on a terminal, plain lines otherwise; errors as one sentence.

Results go to standard output, progress and notices to standard error, so that output can be piped.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import click

from ser_memory.common.errors import SerError, UsageError, system_errors
from ser_memory.common.reporting import Advance

TYPED = "ser_memory.typed"  # in the `meta` of a command's context: the command line

_PLAIN_INTERVAL = 10.0  # seconds between progress lines where there is no terminal
_PLAIN_FIRST = 3.0  # seconds before the first
_LIST = re.compile(r"comma|\blist\b|\w,\w")  # in the help of an option whose value is a list
_PLAIN = {"±": "+-", "†": "r"}  # of a dagger, since it marks a difference from a random memory
_WORTH_A_LINE = 2.0  # seconds; a task that ends sooner gets no line


class Command(click.Command):
    """A click command whose SerErrors and system errors end in one sentence and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an option of one value that is typed twice: click would use the last without a word.

        What was typed is in the context then, as `ctx.meta[TYPED]`.
        """
        ctx.meta[TYPED] = shlex.join([str(self.name), *args])
        if not ctx.resilient_parsing:
            _, _, typed = self.make_parser(ctx).parse_args(args=list(args))
            for option, times in Counter(typed).items():
                single = isinstance(option, click.Option) and not (option.multiple or option.is_flag)
                if single and times > 1:
                    several = ", with commas between its values" if _LIST.search(option.help or "") else ""
                    raise click.UsageError(
                        f"{option.opts[0]} is given {times} times, and it takes one value: give it once{several}.",
                        ctx,
                    )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with system_errors():
                return super().invoke(ctx)
        except SerError as error:
            raise _Failure(str(error), error.exit_code) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options under the titles of their groups, in the order in which the groups first appear."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "") or "Options", []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class GroupedOption(click.Option):
    """An option that --help lists under a title of its own."""

    def __init__(self, *args: Any, group: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group


class _Failure(click.ClickException):
    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


def say(line: str = "") -> None:
    """A line of the result, on standard output; a terminal without some of its characters gets plain ones."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        for sign, plain in _PLAIN.items():
            line = line.replace(sign, plain)
        line = line.encode(encoding, "replace").decode(encoding)
    click.echo(line)


def agree(question: str, subject: str) -> None:
    """Ask before something is sent, and return if the answer is yes.

    Raises UsageError if there is no terminal to ask at, and SerError if the answer is no.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"There is no terminal to ask at: add --yes to agree to {subject}.")
    if not click.confirm(question, default=False, err=True):
        raise SerError(f"You did not agree to {subject}: nothing was sent.")


class Number(click.FloatRange):
    """A finite number within a range: click's own lets nan and inf through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class OrNone(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.4
    """A word that stands for None, or a value of another type."""

    def __init__(self, word: str, kind: click.ParamType) -> None:  # type: ignore[type-arg, unused-ignore]
        self._word, self._kind = word, kind
        self.name = f"{word}|{kind.name}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value is None or value == self._word:
            return None
        try:
            return self._kind.convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message.rstrip('.')}, and it is not {self._word!r}.", param, ctx)


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A titled table, its first `left` columns left-aligned, the others right-aligned.

    With rules on a terminal that is wide enough, aligned by spaces elsewhere; no figure is ever cut.
    """
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
    if sys.stdout.isatty() and sum(widths) + 2 * len(widths) <= shutil.get_terminal_size().columns:
        _rich_table(title, headers, rows, left)
        return
    say(title)
    for row in (headers, *rows):
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say("  " + "  ".join(cells).rstrip())
    say()


def _rich_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        title=Text(title, "bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    for column, header in enumerate(headers):
        drawn.add_column(Text(header), justify="left" if column < left else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console(highlight=False).print(drawn)


class Terminal:
    """Reports on standard error: a moving bar on a terminal, a line now and then elsewhere."""

    def notice(self, line: str) -> None:
        click.echo(line, err=True)

    def progress(
        self, label: str, total: float, unit: str, done: float = 0.0
    ) -> AbstractContextManager[Advance]:
        """Show how far a long task is, its rate and the time left."""
        show = _rich_progress if sys.stderr.isatty() else _plain_progress
        return show(label, total, unit, done)


TERMINAL = Terminal()


class _Spending:
    """The amount of work done, as a function that also takes what turns out to be unnecessary."""

    def __init__(self, total: float, done: float, show: Callable[[], None]) -> None:
        self.total, self.done = total, done
        self._show = show

    def __call__(self, amount: float) -> None:
        self.done += amount
        self._show()

    def spare(self, amount: float) -> None:
        """The total is smaller by this amount."""
        self.total -= amount
        self._show()


@contextmanager
def _rich_progress(label: str, total: float, unit: str, done: float) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.1f} {unit}/s" if speed else f"- {unit}/s")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=int(done))
        spent = _Spending(total, done, lambda: bar.update(task, total=spent.total, completed=spent.done))
        yield spent


@contextmanager
def _plain_progress(label: str, total: float, unit: str, done: float) -> Iterator[Advance]:
    start = time.monotonic()
    due = start + _PLAIN_FIRST
    before = done

    def show() -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + _PLAIN_INTERVAL
            rate = (spent.done - before) / (now - start)
            speed = f", {rate:,.1f} {unit}/s, {clock((spent.total - spent.done) / rate)} left" if rate else ""
            TERMINAL.notice(f"{label}: {spent.done:,.0f} of {spent.total:,.0f} {unit}{speed or ' so far'}")

    spent = _Spending(total, done, show)
    # The first unit may take longer than somebody waits for a sign of life.
    first = threading.Timer(_PLAIN_FIRST, show)
    first.daemon = True
    first.start()
    try:
        yield spent
    finally:
        first.cancel()
    elapsed = time.monotonic() - start
    if elapsed >= _WORTH_A_LINE:
        TERMINAL.notice(f"{label}: {spent.done - before:,.0f} {unit} in {clock(elapsed)}")


def clock(seconds: float) -> str:
    """`41 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"  # noqa: PLR2004
