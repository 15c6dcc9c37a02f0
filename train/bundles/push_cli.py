"""ser-bundle push: a bundle as a repository of a Hugging Face hub."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ser_memory.common.console import Command, agree, say
from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.reporting import notice

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ser_memory.train.bundle import Bundle

_REMEDIES = {
    401: "log in with `hf auth login`, or set HF_TOKEN to a valid token",
    403: "use a token that may write there, or a repository of your own",
    404: "check the name of the repository, and HF_ENDPOINT",
    412: "somebody else changed the repository meanwhile, so look at it and run the same command again",
}
_SERVERS_FAULT = 500  # status codes from here on


@click.command("push", cls=Command)
@click.argument("folder", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("repository")
@click.option(
    "--private/--public",
    default=True,
    show_default=True,
    help="Who can see it: those with access, or everybody.",
)
@click.option("--yes", is_flag=True, help="Agree to the publication without a question.")
def push(folder: Path, repository: str, private: bool, yes: bool) -> None:
    """Publish a BUNDLE as the model REPOSITORY, such as me/emotion, on the Hugging Face hub.

    The bundle is checked first. Its files are then sent in one commit: the repository has the old bundle or the new one, and
    never a mixture. The token is that of `hf auth login` or HF_TOKEN; HF_ENDPOINT is the address of another hub.
    """
    if repository.count("/") != 1:
        raise UsageError(f"{repository!r} is no repository: give USER/NAME, such as me/emotion.")
    from huggingface_hub import HfApi, get_token

    from ser_memory.train.bundle_files import FILES, read_one

    bundle = read_one(folder)
    # In memory, so that what is sent is what was checked, even if the folder is written again during the question.
    files = {name: (bundle.folder / name).read_bytes() for name in FILES}
    api = HfApi(token=get_token())
    if not api.token:
        raise SerError("There is no token of the hub: log in with `hf auth login`, or set HF_TOKEN.")
    notice(
        f"{_content(bundle)} It goes to {api.endpoint}/{repository}, {'private' if private else 'public'}."
    )
    if not yes:
        agree("Publish it?", "the publication")
    _send(api, repository, private, files, bundle.info.title)


def _content(bundle: Bundle) -> str:
    """What a bundle has of people."""
    from ser_memory.train.bundles.card import kept_by

    rows = {
        seen.name: (kept.rows if kept else 0) + len(measured or ())
        for seen, kept, measured in zip_longest(bundle.info.seen, bundle.kept, bundle.estimates)
    }
    each = ", ".join(f"{name} {n:,}" for name, n in rows.items())
    return (
        f"{bundle.folder}, {bundle.info.title}, has {sum(rows.values()):,} rows of utterances ({each}), and keeps "
        f"{kept_by(bundle.info)}. A bundle is not anonymous: see ser-bundle audit."
    )


def _send(api: HfApi, repository: str, private: bool, files: dict[str, bytes], title: str) -> None:
    """Make the repository if it is new, and commit the files; raises SerError in one sentence."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HFValidationError

    state = "Nothing was sent."
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        before = api.model_info(repository)
        if private and not before.private:
            raise UsageError(
                f"{repository} is there already, and everybody can see it: add --public, or name another repository."
            )
        state = f"{repository} has what it had before, or the whole bundle: run the same command again."
        # upload_folder would make several commits of a large folder.
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=title,
            parent_commit=before.sha,
        )
    except SerError:
        raise
    except HFValidationError as error:
        raise UsageError(f"The hub allows no such name: {error}") from None
    except KeyboardInterrupt:
        raise SerError(f"Interrupted. {state}") from None
    except Exception as error:  # of the hub, of HTTP, of the network or of the storage: each has other types
        raise SerError(_explain(error, api.endpoint, repository, state)) from error
    seen_by = "only those with access to it" if before.private else "everybody"
    had = " already" if commit.oid == before.sha else ""
    say(f"{api.endpoint}/{repository} has {title}{had}, commit {commit.oid}; {seen_by} can see it.")


def _explain(error: BaseException, endpoint: str, repository: str, state: str) -> str:
    status, said = None, ""
    cause: BaseException | None = error
    while cause is not None and status is None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        said = str(getattr(cause, "server_message", None) or cause).strip() or type(cause).__name__
        cause = cause.__cause__
    said = said.splitlines()[0].rstrip(".")
    if status is None:
        return f"{endpoint} could not be used ({said}): check the connection and HF_ENDPOINT. {state}"
    if status >= _SERVERS_FAULT:
        return f"{endpoint} failed with status {status} ({said}): try it later. {state}"
    remedy = _REMEDIES.get(status, "solve that")
    return f"{endpoint} refused {repository} with status {status} ({said}): {remedy}. It was not changed."
