"""An audit as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from ser_memory.common.console import say, table
from ser_memory.common.files import write_whole
from ser_memory.train.audit.audit import Audit, Finding
from ser_memory.train.audit.measures import Estimate

HEADERS = (
    "what", "attack", "recordings", "members", "others", "AUC [95 %]", "found at 1 % [95 %]", "by chance",
    "between others", "own is nearest",
)  # fmt: skip
_EXPLANATION = """\
AUC: 0.5 knows nothing, 1 is always right. found: share of the members that are found while 1 % of the others are taken
for members; of a row, as the utterance that it is; of speakers, the share of right ones. Intervals take rows as
independent, and those of speakers take speakers so where there are ten. between others: the AUC between validation and
test rows, none of which are members. Where members are in another split than others, an AUC that is no farther from 0.5
than this one shows different splits and nothing else. own is nearest: share of the members whose nearest remembered row
is their own, however far it is: what somebody finds who knows that they are members."""


def show(audit: Audit, form: Callable[[Audit], str] | None, output: Path | None) -> None:
    """Print an audit, or write it to a file; as a table if no other form is given. Raises OSError."""
    if form is None and output is None:
        as_table(audit)
        return
    if form is None:
        text = io.StringIO()
        with redirect_stdout(text):
            as_table(audit)
        content = text.getvalue()
    else:
        content = form(audit)
    if output is None:
        sys.stdout.write(content)
    else:
        write_whole(output, content)


def as_table(audit: Audit) -> None:
    """Two tables: the attacks, and the bytes."""
    say(audit.audited)
    for note in audit.notes:
        say(note)
    say()
    table("Attacks", HEADERS, [_cells(each) for each in audit.findings], left=3)
    say(_EXPLANATION)
    say()
    sizes = [[name, f"{size:,}"] for name, size in audit.tensors.items()]
    total = sum(audit.tensors.values())
    table("Bytes in the bundle", ["tensor", "bytes"], [*sizes, ["all", f"{total:,}"]])


def as_json(audit: Audit) -> str:
    """Everything, by name."""
    return json.dumps(asdict(audit), indent=2) + "\n"


def as_csv(audit: Audit) -> str:
    """An attack a row; an estimate has a column for its value and two for its interval."""
    text = io.StringIO()
    rows = [_flat(each) for each in audit.findings]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(finding: Finding) -> dict[str, object]:
    made: dict[str, object] = {}
    for name, value in vars(finding).items():
        if isinstance(value, Estimate):
            made |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        elif name == "named":
            made |= dict.fromkeys((name, f"{name}_low", f"{name}_high"))
        else:
            made[name] = value
    return made


def _cells(finding: Finding) -> list[str]:
    between = finding.between_others
    return [
        finding.what, finding.attack, finding.recordings, f"{finding.members:,}",
        f"{finding.others:,} {finding.compared_with}", _ends(finding.auc, 3), _ends(finding.found, 3),
        f"{finding.by_chance:.3f}", "" if between is None else f"{between:.3f}",
        "" if finding.named is None else _ends(finding.named, 3),
    ]  # fmt: skip


def _ends(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
