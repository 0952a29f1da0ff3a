"""Publish a checkpoint folder: all of it or nothing, and then look at what others will get."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import EvalResult, ModelCard, constants, get_token
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from .. import models
from ..errors import must_be_folder, told_as
from ..kinds import check_images, kind_of, kind_of_config, load_processor
from ..pretrained import load_whole, read_config
from ..records.checkpoint_records import (
    MEASUREMENTS_FILE,
    TRAINING_FILE,
    Measurement,
    RecordError,
    TrainingRun,
    read_measurements,
    read_training,
)
from ..records.digest import weights_digest
from ..records.names import CONVERSION_FILE, conversion_source
from ..records.one_input import main_output, random_inputs
from .errors import PublishError
from .model_card import eval_results, model_card, task_of
from .upload import sign_in, upload


CARD = "README.md"
# files of a checkpoint folder that go along as they are
EXTRA_FILES = (MEASUREMENTS_FILE, TRAINING_FILE, CONVERSION_FILE)
LOGITS_TOLERANCE = 1e-5
# in the card until the tag is known
TAG_PLACEHOLDER = "content-000000000000"


@dataclass(frozen=True)
class Published:
    """What was published.

    Args:
        repo_id: name of the repository, with its owner.
        commit: hash of the commit, empty for a dry run.
        tag: tag of the commit, which the card tells its readers to pin.
        files: file name -> size in bytes.
        card: text of the model card.
        max_difference: largest difference between what the local and the downloaded model make of a random input;
            `None` for a dry run.
    """

    repo_id: str
    commit: str
    tag: str
    files: dict[str, int]
    card: str
    max_difference: float | None

    def file_rows(self) -> list[tuple[str, str]]:
        """Name and size of each file, as text."""
        return [(name, f"{size:,}") for name, size in self.files.items()]

    def facts(self) -> list[tuple[str, str]]:
        """What there is to say of a commit: name and value, as text."""
        return [
            ("commit", self.commit),
            ("tag", self.tag),
            ("loaded without dna-hf", f"differs by {self.max_difference:.1e} from the local model"),
        ]


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
    image or video processor, the records of training and measurement, and a model card made of them. Then it is
    downloaded into an empty cache, loaded in a process without dna-hf, and compared with the local model.

    Args:
        checkpoint: folder that `dna-hf train`, `dna-hf convert` or `save_pretrained` wrote; a `README.md` in it is
            kept as the card, if it claims no figure that was not measured.
        repo_id: `user/name`, or `name` for the user of the token.
        private: create the repository as a private one.
        revision: branch to commit to, created where there is none.
        licence: licence of the weights, in the Hub's spelling, e.g. `"apache-2.0"`.
        max_shard_size: largest size of a file of weights, e.g. `"5GB"`; larger weights are spread over several files.
        token: access token of the Hub; by default that of `hf auth login` or `HF_TOKEN`.
        dry_run: make and check everything, but upload nothing and do not talk to the Hub.

    Raises:
        PublishError: before anything is uploaded, if the folder is incomplete, its weights are not finite or not those
            of the configuration, or a figure was not measured on them; if the Hub refuses, with what was left there;
            or if what was published is not what is here.
    """
    check_request(repo_id, max_shard_size)
    folder = Path(checkpoint)
    model, processor = load_checkpoint(folder)
    records = _records(folder, model)
    source = conversion_source(folder, PublishError)
    own_card = folder / CARD
    if own_card.is_file():
        _check_claims(own_card, records.measurements)
    with tempfile.TemporaryDirectory() as temporary:
        staging = Path(temporary, "repository")
        _stage(model, processor, folder, staging, max_shard_size)
        if not dry_run:
            user = _user(token)
            repo_id = repo_id if "/" in repo_id else f"{user}/{repo_id}"
        if own_card.is_file():
            shutil.copyfile(own_card, staging / CARD)
        else:
            _write_card(staging / CARD, model, repo_id, records, processor, source, licence)
        tag = _tag(staging)
        text = (staging / CARD).read_text(encoding="utf-8").replace(TAG_PLACEHOLDER, tag)
        (staging / CARD).write_text(text, encoding="utf-8")
        files = {path.name: path.stat().st_size for path in sorted(staging.iterdir())}
        if dry_run:
            return Published(repo_id, "", tag, files, text, None)
        commit = upload(staging, repo_id, tag, private=private, revision=revision, token=token)
        difference = _verify(repo_id, commit, model, Path(temporary, "verify"), token)
    return Published(repo_id, commit, tag, files, text, difference)


def check_request(repo_id: str, max_shard_size: str = "5GB") -> None:
    """Refuse what can be seen to be wrong before anything is read.

    Args:
        repo_id: name of the repository, with or without its owner.
        max_shard_size: largest size of a file of weights, e.g. `"5GB"`.

    Raises:
        PublishError: naming it.
    """
    with told_as(PublishError, f"{repo_id!r} is no name of a repository"):
        validate_repo_id(repo_id)
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[KMGT]B\s*", max_shard_size, re.IGNORECASE)
    if size is None or not float(size[1]):
        raise PublishError(
            f"max_shard_size (--max-shard-size) is {max_shard_size!r}: give a size in KB, MB, GB or TB, e.g. 5GB."
        )


def _write_card(
    path: Path,
    model: PreTrainedModel,
    repo_id: str,
    records: "_Records",
    processor: Any,
    converted_from: str | None,
    licence: str | None,
) -> None:
    card = model_card(
        model,
        repo_id,
        measurements=records.measurements,
        training=records.training,
        processor=processor,
        converted_from=converted_from,
        licence=licence,
        revision=TAG_PLACEHOLDER,
    )
    card.save(path)


def _user(token: str | None) -> str:
    try:
        return sign_in(token)
    except PublishError as error:
        raise PublishError(f"{error} Nothing was published.") from error


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Any]:
    """Load a checkpoint folder, insisting that it is whole.

    Raises:
        PublishError: naming the file or tensor that is missing or wrong.
    """
    must_be_folder(folder, PublishError)
    described = read_config(folder, error_class=PublishError)
    pickled = [name for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if (folder / name).is_file()]
    if pickled and not any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise PublishError(
            f"{str(folder)!r} holds its weights as {pickled[0]}, which may run code: save the model again "
            f"with save_pretrained, as {SAFE_WEIGHTS_NAME}."
        )
    architecture = (described.get("architectures") or [""])[0]
    model_class = getattr(models, architecture, None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise PublishError(f"{str(folder)!r} holds a {architecture or described.get('model_type')}, no DnA model.")
    processor = load_processor(folder, kind_of(folder, error_class=PublishError), error_class=PublishError)
    model = load_whole(model_class, folder, error_class=PublishError)
    check_images(processor, model.config, str(folder), PublishError)
    return model.eval(), processor


class _Records(NamedTuple):
    """Records that hold for the weights of a checkpoint."""

    measurements: list[Measurement]
    training: TrainingRun | None


def _records(folder: Path, model: PreTrainedModel) -> _Records:
    digest = weights_digest(model.state_dict())
    try:
        records = _Records(read_measurements(folder), read_training(folder))
        for record in (*records.measurements, *([records.training] if records.training else [])):
            record.verify(digest)
    except RecordError as error:
        raise PublishError(f"{str(folder)!r}: {error}") from error
    return records


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


def _check_claims(path: Path, measurements: list[Measurement]) -> None:
    """Refuse a card whose metadata has a figure that no measurement holds.

    Raises:
        PublishError: naming the figure.
    """
    with told_as(PublishError, f"the metadata of {str(path)!r} is wrong"):
        claims = ModelCard.load(path).data.eval_results or []
    measured = [_claim(result) for measurement in measurements for result in eval_results(measurement)]
    for claim in claims:
        if _claim(claim) not in measured:
            raise PublishError(
                f"{str(path)!r} claims {claim.metric_name or claim.metric_type} {claim.metric_value} on "
                f"{claim.dataset_name}, which {MEASUREMENTS_FILE} does not hold: measure it with `dna-hf evaluate "
                "--record`, or take it out of the metadata."
            )


def _claim(result: EvalResult) -> tuple:
    """What a figure in a card's metadata says."""
    data = (result.task_type, result.dataset_type, result.dataset_config, result.dataset_split)
    return (*data, result.metric_type, result.metric_name, result.metric_value)


@torch.no_grad()
def _verify(repo_id: str, commit: str, model: PreTrainedModel, folder: Path, token: str | None) -> float:
    """Load what was published as its users do, and compare it with the local model.

    Raises:
        PublishError: if it does not load, has other weights, or computes something else.
    """
    folder.mkdir()
    kind = kind_of_config(model.config)
    assert kind is not None  # or it would not have been loaded
    inputs = random_inputs(model.config)
    save_file(inputs, folder / "input.safetensors")
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
        task_of(type(model))[1],
        kind.auto_processor.__name__,
        str(folder / "input.safetensors"),
        str(folder / "output.safetensors"),
    ]
    where = f"commit {commit} of {repo_id!r}"
    result = subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, cwd=folder, capture_output=True, text=True
    )
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise PublishError(
            f"{where} was published, but does not load in a process without dna-hf: {last.rstrip('.')}."
        )
    found = load_file(folder / "output.safetensors")
    output = found.pop("output")
    if weights_digest(found) != weights_digest(model.state_dict()):
        raise PublishError(f"{where} was published, but its weights are not the local ones.")
    expected = main_output(model.float()(**inputs))
    difference = (output - expected).abs().max().item()
    if not difference <= LOGITS_TOLERANCE * max(1.0, expected.abs().max().item()):
        raise PublishError(f"{where} was published, but computes something else: it differs by {difference:.1e}.")
    return difference
