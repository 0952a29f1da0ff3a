"""The fake Hub against the real client: run as a script, in a process of its own (pytest's is offline)."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.kit.fake_hub import FakeHub, check_card
from tests.kit.paths import with_tests


REPO = "user/model"
COMMIT, FILE = r"POST /api/models/.*/commit/", r"GET .*/resolve/.*/model\.safetensors"
CARD = """---
license: mit
model-index:
- name: toy
  results:
  - task: {type: image-classification}
    dataset: {name: Toy, type: toy}
    metrics: [{type: accuracy, value: 0.5}]
---
# A toy
"""


def test_real_client(tmp_path):
    environment = with_tests() | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_card():
    assert check_card(CARD) == ([], [])
    assert check_card("# no metadata")[1] == ["empty or missing yaml metadata in repo card"]
    assert "Invalid YAML" in check_card("---\na: [\n---\n")[0][0]
    for key in ("name", "results", "task", "dataset", "metrics"):
        errors = check_card(CARD.replace(f"{key}:", f"not_{key}:", 1))[0]
        assert len(errors) == 1 and f'{key}" is required' in errors[0], errors
    assert check_card(CARD.replace("{type: image-classification}", "{}"))[0] == [
        '"model-index[0].results[0].task.type" is required'
    ]


def refused(error, call, *args, status=None, text="", **kwargs):
    """Expect an exception, with the status and the text of its answer."""
    try:
        call(*args, **kwargs)
    except error as exception:
        assert status is None or exception.response.status_code == status, exception
        assert text in str(exception), exception
        return exception
    raise AssertionError(f"{call.__name__} was not refused")


def main(folder: Path):
    with FakeHub() as hub:
        os.environ.update(hub.environment(folder / "home", hub.token))
        for step in (check_push, check_pull, check_refs, check_access, check_cards, check_faults, check_delete):
            start = time.perf_counter()
            step(hub, folder)
            print(f"{step.__name__}: {time.perf_counter() - start:.2f} s")


def check_push(hub, folder):
    from huggingface_hub import CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, local = HfApi(), folder / "local"
    assert str(api.create_repo("model")) == f"{hub.endpoint}/{REPO}" and hub.exists(REPO)
    assert str(api.create_repo(REPO, exist_ok=True)) == f"{hub.endpoint}/{REPO}"
    refused(HfHubHTTPError, api.create_repo, REPO, status=409, text="You already created this model repo")
    (local / "code").mkdir(parents=True)
    (local / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (local / "config.json").write_text("{}")
    (local / "code" / "modeling.py").write_text("x = 1\n")
    info = api.upload_folder(repo_id=REPO, folder_path=local, commit_message="all")
    files = hub.files(REPO)
    assert files["model.safetensors"] == bytes(range(256)) * 40 and files["code/modeling.py"] == b"x = 1\n"
    assert sorted(files) == [".gitattributes", "code/modeling.py", "config.json", "model.safetensors"]
    assert hub.commits(REPO)[-1] == info.oid == api.model_info(REPO).sha and len(hub.commits(REPO)) == 2
    assert sorted(api.list_repo_files(REPO)) == sorted(files)
    assert hub.files(REPO, info.oid) == files and list(hub.files(REPO, hub.commits(REPO)[0])) == [".gitattributes"]

    puts = [path for method, path in hub.requests if method == "PUT"]
    assert len(puts) == 1
    again = api.upload_folder(repo_id=REPO, folder_path=local, commit_message="the same")
    assert again.oid == info.oid and len(hub.commits(REPO)) == 2  # nothing has changed: no commit

    big = b"0" * (10 * 1024 * 1024 + 1)
    first, big_info = hub.commits(REPO)[0], api.upload_file(repo_id=REPO, path_or_fileobj=big, path_in_repo="big.txt")
    assert sum(method == "PUT" for method, _ in hub.requests) == 2 and hub.files(REPO)["big.txt"] == big
    deletion = [CommitOperationDelete("big.txt"), CommitOperationDelete("code/")]
    arguments = {"repo_id": REPO, "operations": deletion, "commit_message": "tidy"}
    refused(
        HfHubHTTPError, api.create_commit, **arguments, parent_commit=first, status=412, text="A commit has happened"
    )
    api.create_commit(**arguments, parent_commit=big_info.oid)
    assert sorted(hub.files(REPO)) == [".gitattributes", "config.json", "model.safetensors"]
    api.upload_folder(repo_id=REPO, folder_path=local, commit_message="again")
    assert hub.files(REPO) == files


def check_pull(hub, folder):
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    snapshot = Path(snapshot_download(REPO, cache_dir=folder / "cache"))
    files = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    assert files == hub.files(REPO) and snapshot.name == hub.commits(REPO)[-1]

    api = HfApi()
    for name, lfs in (("model.safetensors", True), ("config.json", False)):
        head = get_hf_file_metadata(hf_hub_url(REPO, name))
        [info] = api.get_paths_info(REPO, name)
        assert head.size == info.size == len(files[name]) and head.commit_hash == snapshot.name
        assert head.etag == (info.lfs.sha256 if lfs else info.blob_id) and bool(info.lfs) == lfs
        assert {item.rfilename: item.blob_id for item in api.model_info(REPO, files_metadata=True).siblings}[
            name
        ] == info.blob_id
    assert {item.path for item in api.list_repo_tree(REPO)} == {*files, "code"} - {"code/modeling.py"}
    assert [item.path for item in api.list_repo_tree(REPO, "code")] == ["code/modeling.py"]
    [code, missing] = [api.get_paths_info(REPO, path) for path in ("code", "missing")]
    assert code[0].path == "code" and missing == []
    refused(EntryNotFoundError, hf_hub_download, REPO, "missing.json", status=404)
    refused(EntryNotFoundError, lambda: list(api.list_repo_tree(REPO, "missing")), status=404)
    refused(RevisionNotFoundError, hf_hub_download, REPO, "config.json", revision="missing", status=404)
    refused(RepositoryNotFoundError, hf_hub_download, "user/missing", "config.json", status=404)
    refused(RepositoryNotFoundError, api.dataset_info, REPO, status=404)


def check_refs(hub, folder):
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

    api, start = HfApi(), hub.commits(REPO)[1]
    api.create_branch(REPO, branch="dev/one", revision=start)
    refused(HfHubHTTPError, api.create_branch, REPO, branch="dev/one", status=409)
    api.create_branch(REPO, branch="dev/one", exist_ok=True)
    upload = {"repo_id": REPO, "path_or_fileobj": b"dev", "path_in_repo": "dev.txt"}
    commit = api.upload_file(**upload, revision="dev/one").oid
    assert hub.files(REPO, "dev/one")["dev.txt"] == b"dev" and "dev.txt" not in hub.files(REPO)
    assert hub.commits(REPO, "dev/one") == [*hub.commits(REPO)[:2], commit]
    api.create_tag(REPO, tag="v1.0", revision="dev/one")
    refused(HfHubHTTPError, api.create_tag, REPO, tag="v1.0", status=409)
    refs = api.list_repo_refs(REPO)
    assert {ref.name for ref in refs.branches} == {"main", "dev/one"}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1.0", commit)]
    for revision in ("dev/one", "v1.0", commit):
        assert Path(hf_hub_download(REPO, "dev.txt", revision=revision)).read_bytes() == b"dev"
        assert api.model_info(REPO, revision=revision).sha == commit
    refused(RevisionNotFoundError, api.upload_file, **upload, revision="missing", status=404)


def check_access(hub, folder):
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    private, (api, nobody, wrong, reader) = (
        "user/private",
        (HfApi(token=token) for token in (hub.token, False, "hf_wrong", hub.read_only_token)),
    )
    upload = {"path_or_fileobj": b"x", "path_in_repo": "x.txt"}
    api.create_repo(private, private=True)
    api.upload_file(repo_id=private, **upload)
    assert api.model_info(private).private and not api.model_info(REPO).private
    assert reader.list_repo_files(private) == api.list_repo_files(private) == [".gitattributes", "x.txt"]
    assert nobody.model_info(REPO).id == REPO
    refused(RepositoryNotFoundError, nobody.model_info, private, status=401)
    refused(RepositoryNotFoundError, hf_hub_download, private, "x.txt", token=False, status=401)
    refused(RepositoryNotFoundError, nobody.upload_file, repo_id=REPO, **upload, status=401)
    refused(HfHubHTTPError, nobody.create_repo, "user/other", status=401)
    for call in (wrong.model_info, wrong.create_repo):
        error = refused(HfHubHTTPError, call, REPO, status=401, text="Invalid credentials in Authorization header")
        assert not isinstance(error, RepositoryNotFoundError)
    assert (api.whoami()["name"], reader.whoami()["auth"]["accessToken"]["role"]) == ("user", "read")
    refused(HfHubHTTPError, wrong.whoami, status=401)
    refused(HfHubHTTPError, reader.upload_file, repo_id=REPO, **upload, status=403, text="you must use a write token")
    refused(HfHubHTTPError, reader.create_repo, "user/other", status=403)
    refused(
        HfHubHTTPError, api.create_repo, "else/other", status=403, text="You don't have the rights to create a model"
    )
    assert not hub.exists("user/other") and not hub.exists("else/other")


def check_cards(hub, folder):
    from huggingface_hub import HfApi, RepoCard, __version__

    upload = {"repo_id": REPO, "path_in_repo": "README.md"}
    bad, count = CARD.replace("task:", "no_task:"), len(hub.commits(REPO))
    HfApi().upload_file(**upload, path_or_fileobj=CARD.encode())
    assert HfApi().model_info(REPO).card_data.license == "mit"
    refused(
        ValueError, HfApi().upload_file, **upload, path_or_fileobj=bad.encode(), text='results[0].task" is required'
    )
    if int(__version__.split(".")[0]) >= 2:  # 1.x asks huggingface.co whatever HF_ENDPOINT says
        RepoCard(CARD).validate("model")
        refused(ValueError, RepoCard(bad).validate, "model", text="is required")
    assert len(hub.commits(REPO)) == count + 1


def check_faults(hub, folder):
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import _http

    api, count = HfApi(), len(hub.commits(REPO))
    network_error = (_http.httpx2 if hasattr(_http, "httpx2") else _http.httpx).TransportError
    upload = {"repo_id": REPO, "path_or_fileobj": b"new", "path_in_repo": "new.txt"}
    hub.fail(COMMIT, 500)
    refused(HfHubHTTPError, api.upload_file, **upload, status=500, text="FakeHub fault 500")
    hub.fail(COMMIT, 0)
    refused(network_error, api.upload_file, **upload)
    assert len(hub.commits(REPO)) == count and "new.txt" not in hub.files(REPO)
    hub.fail(COMMIT, 0, when="after")  # done, but the client can not know it; a second try does not repeat it
    refused(network_error, api.upload_file, **upload)
    assert len(hub.commits(REPO)) == count + 1 and hub.files(REPO)["new.txt"] == b"new"
    api.upload_file(**upload)
    assert len(hub.commits(REPO)) == count + 1

    hub.truncate(FILE)
    hub.requests.clear()
    snapshot = snapshot_download(REPO, cache_dir=folder / "truncated")
    assert Path(snapshot, "model.safetensors").read_bytes() == hub.files(REPO)["model.safetensors"]
    assert (
        sum("model.safetensors" in path and method == "GET" for method, path in hub.requests) == 2
    )  # it tried again by itself


def check_delete(hub, folder):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    HfApi().delete_repo(REPO)
    assert not hub.exists(REPO) and not HfApi().repo_exists(REPO)
    refused(RepositoryNotFoundError, HfApi().delete_repo, REPO, status=404)
    HfApi().delete_repo(REPO, missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
