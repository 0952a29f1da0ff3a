"""Bring a folder to the Hub: all of it in one commit, or nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from ..errors import first_line
from .errors import PublishError


# what an earlier commit may have left in the repository and this one must not be mixed with
REPLACED = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.py")
TRANSIENT = (408, 409, 412, 429, 500, 502, 503, 504)
# seconds before another attempt
WAITS: tuple[float, ...] = (2, 10, 30)
Result = TypeVar("Result")


@dataclass
class _Progress:
    """What has been done on the Hub so far, to be undone or reported after a failure."""

    repo_id: str
    created: bool = False
    branch: str | None = None
    commit: str | None = None


def sign_in(token: str | None = None) -> str:
    """Check that the Hub can be reached and knows the token; returns the user's name.

    Raises:
        PublishError: saying what is wrong.
    """
    try:
        return attempt(HfApi(token=token).whoami)["name"]
    except Exception as error:
        raise _publish_error(error, "") from error


def upload(
    folder: Path,
    repo_id: str,
    tag: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Create the repository if need be, commit a folder, and tag the commit.

    Args:
        folder: folder whose files are uploaded; of what is in the repository, weights and code go, and other files
            stay.
        repo_id: full name of the repository.
        tag: tag of the commit.
        private: create the repository as a private one.
        revision: branch to commit to, created where there is none.
        token: access token of the Hub.

    Returns:
        The hash of the commit.

    Raises:
        PublishError: saying what the Hub refused and what is left there.
    """
    api = HfApi(token=token)
    progress = _Progress(repo_id)
    try:
        _prepare(api, progress, private, revision)
        # of a repeated attempt whose predecessor did get through, the client makes no second commit
        progress.commit = attempt(lambda: _commit(api, folder, repo_id, revision))
        attempt(lambda: api.create_tag(repo_id, tag=tag, revision=progress.commit, exist_ok=True))
    except KeyboardInterrupt:
        _undo(api, progress)
        raise
    except Exception as error:
        failure = _publish_error(error, repo_id)
        raise PublishError(f"{failure} {_undo(api, progress)}") from error
    return progress.commit


def _prepare(api: HfApi, progress: _Progress, private: bool, revision: str | None) -> None:
    """Make the repository and the branch where there are none."""
    repo_id = progress.repo_id
    if not attempt(lambda: api.repo_exists(repo_id)):
        attempt(lambda: _create(api, progress, private))
    if private and not attempt(lambda: api.model_info(repo_id)).private:
        raise PublishError(f"Repository {repo_id!r} exists and is public: make it private on the Hub first.")
    if revision is not None and not attempt(lambda: api.revision_exists(repo_id, revision)):
        progress.branch = revision
        attempt(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))


def _create(api: HfApi, progress: _Progress, private: bool) -> None:
    """Create the repository, and note that it is ours to remove after a failure."""
    tried_before, progress.created = progress.created, True
    try:
        api.create_repo(progress.repo_id, private=private)
    except HfHubHTTPError as error:
        status = _status(error)
        if status in (401, 403):
            progress.created = False
        # it exists: ours if an earlier attempt got through and only its answer was lost, else somebody was faster
        if status != 409:
            raise
        progress.created = tried_before


def _commit(api: HfApi, folder: Path, repo_id: str, revision: str | None) -> str:
    """One commit that adds the files of a folder and deletes what they replace.

    Not `upload_folder`, which may split a large upload into several commits.
    """
    names = {path.name for path in folder.iterdir()}
    stale = [
        name
        for name in api.list_repo_files(repo_id, revision=revision)
        if name not in names and any(fnmatch(name, pattern) for pattern in REPLACED)
    ]
    operations: list[Any] = [CommitOperationAdd(name, folder / name) for name in sorted(names)]
    operations += [CommitOperationDelete(name) for name in stale]
    return api.create_commit(repo_id, operations, commit_message="Publish a DnA model", revision=revision).oid


def _undo(api: HfApi, progress: _Progress) -> str:
    """After a failure: remove what was made for this, and say what is left."""
    repo_id = progress.repo_id
    if progress.commit is not None and not progress.created:
        return f"Commit {progress.commit} is published, but has no tag: publish again to tag it."
    try:
        if progress.created:
            attempt(lambda: api.delete_repo(repo_id, missing_ok=True))
        elif progress.branch is not None and api.revision_exists(repo_id, progress.branch):
            attempt(lambda: api.delete_branch(repo_id, branch=str(progress.branch)))
    except Exception as error:
        _publish_error(error, repo_id)
        left = f"repository {repo_id!r}" if progress.created else f"branch {progress.branch!r} of {repo_id!r}"
        return f"Nothing was published, but the new {left} could not be removed again: delete it."
    return "Nothing was published."


def attempt(call: Callable[[], Result]) -> Result:
    """Call the Hub, and again after errors that pass."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not _passes(error):
                raise
            time.sleep(_retry_after(error, wait))
    return call()


def _publish_error(error: Exception, repo_id: str) -> PublishError:
    """What the Hub or the way to it did, as the user sees it; a defect of ours is raised as it is."""
    if isinstance(error, PublishError):
        return error
    status, reason = _status(error), first_line(error)
    if isinstance(error, LocalTokenNotFoundError):
        text = "There is no token for the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write."
    elif isinstance(error, OfflineModeIsEnabled):
        text = "The Hub client is offline: unset HF_HUB_OFFLINE."
    elif status == 401:
        text = "The Hub refused the token: run `hf auth login`, or set HF_TOKEN to a valid token that may write."
    elif status == 403:
        text = f"The token may not write to {repo_id!r}: use one with write access, and a name of yours."
    elif status is not None:
        text = f"The Hub answered with status {status} ({reason}), also when asked again; try later."
    elif _is_connection_error(error):
        text = f"The Hub at {constants.ENDPOINT} cannot be reached ({reason})."
    elif isinstance(error, OSError):
        text = f"The upload failed ({reason})."
    else:
        raise error
    return PublishError(text)


def _passes(error: Exception) -> bool:
    """Whether an error may be gone after a while."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = _status(error)
    return status in TRANSIENT if status is not None else _is_connection_error(error)


def _is_connection_error(error: Exception) -> bool:
    """Whether the connection failed; the client's HTTP library differs between its versions, so by name."""
    names = {cls.__name__ for each in _chain(error) for cls in type(each).__mro__}
    return bool(names & {"TransportError", "ConnectionError"})


def _response(error: Exception) -> Any:
    """The Hub's answer that led to an error, if there was one."""
    return next((each.response for each in _chain(error) if getattr(each, "response", None) is not None), None)


def _chain(error: Exception) -> list[Any]:
    """An error and its cause: the client wraps errors of uploads of large files."""
    return [error] if error.__cause__ is None else [error, error.__cause__]


def _status(error: Exception) -> int | None:
    return getattr(_response(error), "status_code", None)


def _retry_after(error: Exception, wait: float) -> float:
    """Seconds to wait: as long as the Hub asks for, up to a minute, or `wait`."""
    text = (getattr(_response(error), "headers", None) or {}).get("Retry-After", "")
    return min(float(text), 60.0) if text.isdecimal() else wait
