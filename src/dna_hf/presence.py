"""Whether a checkpoint is there, asked before anything heavy is imported."""

from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .data.errors import DataError
from .errors import DnaError, first_line, must_be_folder


# transformers' own, which is not imported here
CONFIG_NAME = "config.json"
# seconds that the Hub has for saying whether a repository is there
HUB_TIMEOUT = 2.0


def must_be_there(
    checkpoint: str | Path, revision: str | None = None, error_class: type[DnaError] = DataError
) -> None:
    """See that a checkpoint is a folder, in the cache or on the Hub; its files are not read.

    Args:
        checkpoint: folder, or name on the Hub.
        revision: commit, tag or branch on the Hub.
        error_class: class of the error.

    Raises:
        DnaError: of class `error_class`, if it is not there, or the Hub cannot be reached.
    """
    name = str(checkpoint)
    if Path(name).exists():
        must_be_folder(name, error_class)
    else:
        _look_on_hub(name, revision, error_class)


def _look_on_hub(name: str, revision: str | None, error_class: type[DnaError]) -> None:
    """See that a repository is in the cache or on the Hub, by one short question: transformers asks for a minute.

    Raises:
        DnaError: of class `error_class`, if it is not, saying why.
    """
    try:
        if not isinstance(try_to_load_from_cache(name, CONFIG_NAME, revision=revision), str):
            get_hf_file_metadata(hf_hub_url(name, CONFIG_NAME, revision=revision), timeout=HUB_TIMEOUT)
    except Exception as error:
        reason = _reason(error, revision)
        if reason is None:
            raise
        raise error_class(f"checkpoint {name!r} {reason}.") from error


def _reason(error: Exception, revision: str | None) -> str | None:
    """Why a checkpoint is not to be had from the Hub; `None` if the error says nothing of that."""
    not_there = "is not there: there is no such folder"
    reasons: dict[type[Exception], str] = {
        HFValidationError: not_there,
        # before the repository that is not found, of which it is a case
        GatedRepoError: "is gated on the Hub: ask for access, then run hf auth login",
        RevisionNotFoundError: f"has no revision {revision!r} on the Hub",
        RepositoryNotFoundError: f"{not_there}, and no repository of that name on the Hub (a private one needs hf "
        "auth login)",
        EntryNotFoundError: f"has no {CONFIG_NAME} on the Hub: it is no checkpoint of transformers",
        OfflineModeIsEnabled: f"{not_there}, it is not in the cache, and HF_HUB_OFFLINE is set",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    # the client's own errors of networks differ from one version to the next
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, OSError) or not names.isdisjoint({"RequestError", "HTTPError", "HTTPStatusError"}):
        return f"{not_there}, and the Hub ({constants.ENDPOINT}) cannot be reached: {first_line(error)}"
    return None
