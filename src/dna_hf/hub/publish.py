"""Publish a checkpoint folder: all of it or nothing, and then look at what others will get."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .. import models
from ..comparison import main_output, random_image
from ..conversion.report import REPORT_FILE, conversion_source
from ..evaluation.records import (
    MEASUREMENTS_FILE,
    TRAINING_FILE,
    Measurement,
    RecordError,
    TrainingRun,
    read_measurements,
    read_training,
    weights_digest,
)
from .errors import PublishError
from .model_card import model_card, task_of


CARD = "README.md"
# files of a checkpoint folder that go along as they are
EXTRA_FILES = (MEASUREMENTS_FILE, TRAINING_FILE, REPORT_FILE)
# what an earlier commit may have left in the repository and this one must not be mixed with
REPLACED = ["*.safetensors", "*.safetensors.index.json", "*.bin", "*.py"]
TRANSIENT = (408, 409, 412, 429, 500, 502, 503, 504)
# seconds before another attempt
WAITS: tuple[float, ...] = (2, 10, 30)
LOGITS_TOLERANCE = 1e-5
Result = TypeVar("Result")


@dataclass(frozen=True)
class Published:
    """What was published.

    Args:
        repo_id: name of the repository, with its owner.
        commit: hash of the commit; empty for a dry run.
        tag: names the commit, and is what the card tells its readers to pin.
        files: file name -> size in bytes.
        card: text of the model card.
        max_difference: between what the local and the downloaded model make of a random image; `None` for a dry run.
    """

    repo_id: str
    commit: str
    tag: str
    files: dict[str, int]
    card: str
    max_difference: float | None


def publish(
    checkpoint: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    max_shard_size: str = "5GB",
    token: str | None = None,
    dry_run: bool = False,
) -> Published:
    """Publish a checkpoint folder to the Hub in one commit, and check what was published.

    The commit has the weights as safetensors, the configuration with all its Auto classes, the code they need, the
    image processor, the records of training and measurement, and a model card made of them. Then it is downloaded into
    an empty cache, loaded in a process without dna-hf, and compared with the local model.

    Args:
        checkpoint: folder that `dna-hf train`, `dna-hf convert` or `save_pretrained` wrote; a `README.md` in it is
            kept as the card, if it claims no figure that was not measured.
        repo_id: `user/name`, or `name` for the user of the token.
        private: create the repository as a private one.
        revision: branch to commit to, created where there is none.
        licence: of the weights, in the Hub's spelling, e.g. `"apache-2.0"`.
        max_shard_size: weights beyond this size are spread over several files.
        token: of the Hub; by default that of `hf auth login` or `HF_TOKEN`.
        dry_run: make and check everything, upload nothing and do not talk to the Hub.

    Raises:
        PublishError: before anything is uploaded, if the folder is incomplete, its weights are not finite or not those
            of the configuration, or a figure was not measured on them; if the Hub refuses, with what was left there;
            or if what was published is not what is here.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is no name of a repository: {_first_line(error)}") from error
    model, processor = load_checkpoint(Path(checkpoint))
    measurements, training = _records(Path(checkpoint), model)
    with tempfile.TemporaryDirectory() as temporary:
        staging = Path(temporary, "repository")
        _stage(model, processor, Path(checkpoint), staging, max_shard_size)
        tag = _tag(staging)
        _write_card(staging, Path(checkpoint), model, repo_id, measurements, training, licence=licence, revision=tag)
        files = {path.name: path.stat().st_size for path in sorted(staging.iterdir())}
        card = (staging / CARD).read_text(encoding="utf-8")
        if dry_run:
            return Published(repo_id, "", tag, files, card, None)
        repo_id, commit = _upload(staging, repo_id, tag, private=private, revision=revision, token=token)
        difference = _verify(repo_id, commit, model, Path(temporary, "verify"), token)
    return Published(repo_id, commit, tag, files, card, difference)


def check_access(token: str | None = None) -> None:
    """Check that the Hub can be reached and knows the token, before work is spent on something to publish.

    Raises:
        PublishError: saying what is wrong.
    """
    try:
        _attempt(HfApi(token=token).whoami)
    except Exception as error:
        reason = _reason(error, "")
        if reason is None:
            raise
        raise PublishError(reason) from error


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Any]:
    """Load a checkpoint folder, insisting that it is whole.

    Raises:
        PublishError: naming the file or tensor that is missing or wrong.
    """
    if not folder.is_dir():
        raise PublishError(f"checkpoint folder {str(folder)!r} does not exist.")
    if not (folder / "config.json").is_file():
        raise PublishError(f"{str(folder)!r} has no config.json: it is no checkpoint folder.")
    if not any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise PublishError(f"{str(folder)!r} has no {SAFE_WEIGHTS_NAME}: it holds no weights to publish.")
    if not (folder / "preprocessor_config.json").is_file():
        raise PublishError(
            f"{str(folder)!r} has no preprocessor_config.json: save the image processor of the model in it."
        )
    try:
        config = AutoConfig.from_pretrained(folder)
        architecture = (config.architectures or [""])[0]
        model_class = getattr(models, architecture, None)
        if model_class is None:
            raise PublishError(f"{str(folder)!r} holds a {architecture or config.model_type}, no DnA model.")
        model, info = model_class.from_pretrained(folder, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise PublishError(f"cannot load {str(folder)!r}: {_first_line(error)}") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if wrong:
        raise PublishError(
            f"the weights in {str(folder)!r} are not those of its config.json: {len(wrong)} tensors differ, first "
            f"{sorted(wrong)[0]!r}."
        )
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise PublishError(f"tensor {name!r} in {str(folder)!r} holds a number that is not finite.")
    return model.eval(), processor


def _records(folder: Path, model: PreTrainedModel) -> tuple[list[Measurement], TrainingRun | None]:
    """Records that hold for these weights."""
    digest = weights_digest(model.state_dict())
    try:
        measurements, training = read_measurements(folder), read_training(folder)
        for record in (*measurements, *([training] if training else [])):
            record.verify(digest)
    except RecordError as error:
        raise PublishError(f"{str(folder)!r}: {error}") from error
    return measurements, training


def _stage(model: PreTrainedModel, processor: Any, checkpoint: Path, staging: Path, max_shard_size: str) -> None:
    """Write everything but the card into an empty folder."""
    model.save_pretrained(staging, max_shard_size=max_shard_size)
    processor.save_pretrained(staging)
    for name in EXTRA_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, staging / name)


def _tag(staging: Path) -> str:
    """A name for the content, known before there is a commit, so that the card can tell its readers to pin it."""
    digest = hashlib.sha256()
    for path in sorted(staging.iterdir()):
        digest.update(f"{path.name}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"content-{digest.hexdigest()[:12]}"


def _write_card(
    staging: Path,
    checkpoint: Path,
    model: PreTrainedModel,
    repo_id: str,
    measurements: list[Measurement],
    training: TrainingRun | None,
    **facts: Any,
) -> None:
    own = checkpoint / CARD
    if own.is_file():
        _check_claims(own, measurements)
        shutil.copyfile(own, staging / CARD)
        return
    card = model_card(
        model,
        repo_id,
        measurements=measurements,
        training=training,
        converted_from=conversion_source(checkpoint),
        **facts,
    )
    card.save(staging / CARD)


def _check_claims(path: Path, measurements: list[Measurement]) -> None:
    """Refuse a card whose metadata has a figure that no measurement holds.

    Raises:
        PublishError: naming the figure.
    """
    try:
        claims = ModelCard.load(path).data.eval_results or []
    except ValueError as error:
        raise PublishError(f"the metadata of {str(path)!r} is wrong: {_first_line(error)}") from error
    measured = {
        (measurement.dataset.name, measurement.split, float(value))
        for measurement in measurements
        for value in measurement.metrics.values()
    }
    for claim in claims:
        if (claim.dataset_type, claim.dataset_split, claim.metric_value) not in measured:
            raise PublishError(
                f"{str(path)!r} claims {claim.metric_name or claim.metric_type} {claim.metric_value} on "
                f"{claim.dataset_name}, which {MEASUREMENTS_FILE} does not hold: measure it with `dna-hf evaluate "
                "--record`, or take it out of the metadata."
            )


def _upload(
    staging: Path, repo_id: str, tag: str, *, private: bool, revision: str | None, token: str | None
) -> tuple[str, str]:
    """Create the repository if need be, commit, and tag the commit: all or nothing.

    Returns:
        The full name of the repository, and the hash of the commit.

    Raises:
        PublishError: saying what the Hub refused and what is left there.
    """
    api = HfApi(token=token)
    created = False
    try:
        _attempt(lambda: api.whoami())
        created, repo_id = _create(api, repo_id, private)
        if revision is not None:
            _attempt(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
        # of a repeated attempt whose predecessor did get through, the client makes no second commit
        commit = _attempt(
            lambda: api.upload_folder(
                repo_id=repo_id,
                folder_path=staging,
                revision=revision,
                delete_patterns=REPLACED,
                commit_message="Publish a DnA model",
            )
        ).oid
        _attempt(lambda: api.create_tag(repo_id, tag=tag, revision=commit, exist_ok=True))
    except KeyboardInterrupt:
        _clean_up(api, repo_id, created)
        raise
    except Exception as error:
        reason = _reason(error, repo_id)
        if reason is None:
            raise
        raise PublishError(f"{reason} {_clean_up(api, repo_id, created)}") from error
    return repo_id, commit


def _create(api: HfApi, repo_id: str, private: bool) -> tuple[bool, str]:
    """Create the repository; whether it is new, and its full name."""
    try:
        return True, _attempt(lambda: api.create_repo(repo_id, private=private, exist_ok=False), _retry_create).repo_id
    except HfHubHTTPError as error:
        if _status(error) != 409:
            raise
    full_name = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
    if private and not _attempt(lambda: api.model_info(full_name)).private:
        raise PublishError(f"repository {full_name!r} exists and is public: make it private on the Hub first.")
    return False, full_name


def _clean_up(api: HfApi, repo_id: str, created: bool) -> str:
    """After a failure: remove a repository that was made for this, and say what is left."""
    if not created:
        return "Nothing was published."
    try:
        _attempt(lambda: api.delete_repo(repo_id, missing_ok=True))
    except Exception as error:
        if _reason(error, repo_id) is None:
            raise
        return f"Nothing was published, but the new repository {repo_id!r} could not be removed again: delete it."
    return "Nothing was published."


def _attempt(call: Callable[[], Result], again: Callable[[Exception], bool] | None = None) -> Result:
    """Call the Hub, and again after errors that pass."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not (again or _passes)(error):
                raise
            time.sleep(_retry_after(error, wait))
    return call()


def _passes(error: Exception) -> bool:
    """Whether an error may be gone after a while."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = _status(error)
    return status in TRANSIENT if status is not None else _is_connection_error(error)


def _retry_create(error: Exception) -> bool:
    """As [`_passes`], but here a conflict says that the repository exists."""
    return _status(error) != 409 and _passes(error)


def _is_connection_error(error: Exception) -> bool:
    """Whether the connection failed; the client's HTTP library differs between its versions."""
    names = {cls.__name__ for cls in type(error).__mro__}
    # the client wraps the error of an upload of large files
    cause = error.__cause__
    return bool(names & {"TransportError", "ConnectionError"}) or (isinstance(cause, Exception) and _passes(cause))


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _retry_after(error: Exception, wait: float) -> float:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    text = headers.get("Retry-After", "")
    return min(float(text), 60.0) if text.isdecimal() else wait


def _reason(error: Exception, repo_id: str) -> str | None:
    """One sentence for what the Hub or the way to it did; `None` for a defect of this program."""
    if isinstance(error, PublishError):
        return str(error)
    if isinstance(error, LocalTokenNotFoundError):
        return "There is no token for the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write."
    if isinstance(error, OfflineModeIsEnabled):
        return "The Hub client is offline: unset HF_HUB_OFFLINE."
    status = _status(error)
    if status is None and isinstance(error.__cause__, Exception):
        status = _status(error.__cause__)
    if status == 401:
        return "The Hub refused the token: run `hf auth login`, or set HF_TOKEN to a valid token that may write."
    if status == 403:
        return f"The token may not write to {repo_id!r}: use one with write access, and a name of yours."
    if status is not None:
        return f"The Hub answered with status {status} ({_first_line(error)}), also when asked again; try later."
    if _is_connection_error(error):
        return f"The Hub at {constants.ENDPOINT} cannot be reached ({_first_line(error)})."
    return f"The upload failed ({_first_line(error)})." if isinstance(error, OSError) else None


@torch.no_grad()
def _verify(repo_id: str, commit: str, model: PreTrainedModel, folder: Path, token: str | None) -> float:
    """Load what was published as its users do, and compare it with the local model.

    Raises:
        PublishError: if it does not load, has other weights, or computes something else.
    """
    folder.mkdir()
    config = model.config
    pixel_values = random_image(config)
    save_file({"pixel_values": pixel_values}, folder / "input.safetensors")
    environment = os.environ | {
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_MODULES_CACHE": str(folder / "modules"),
        "HF_TOKEN": token or get_token() or "",
    }
    script = Path(__file__).with_name("load_published.py")
    arguments = [
        repo_id,
        commit,
        task_of(config)[1],
        str(folder / "input.safetensors"),
        str(folder / "output.safetensors"),
    ]
    where = f"commit {commit} of {repo_id!r}"
    result = subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, cwd=folder, capture_output=True, text=True
    )
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise PublishError(f"{where} was published, but does not load in a process without dna-hf: {last}")
    found = load_file(folder / "output.safetensors")
    output = found.pop("output")
    if weights_digest(found) != weights_digest(model.state_dict()):
        raise PublishError(f"{where} was published, but its weights are not the local ones.")
    expected = main_output(model.float()(pixel_values))
    difference = (output - expected).abs().max().item()
    if not difference <= LOGITS_TOLERANCE * max(1.0, expected.abs().max().item()):
        raise PublishError(f"{where} was published, but computes something else: it differs by {difference:.1e}.")
    return difference


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", (str(error) or type(error).__name__).strip().splitlines()[0]).rstrip(".")
