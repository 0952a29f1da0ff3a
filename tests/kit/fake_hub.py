"""An in-memory fake of the Hugging Face Hub on loopback (models only), for the real client to push to and pull from.

    with FakeHub() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(tmp_path, hub.token)})
        assert "config.json" in hub.files("user/model")

It speaks the endpoints that huggingface_hub 1.33 to 2.4 uses with HF_HUB_DISABLE_XET=1: no Xet, no pull requests.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import traceback
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


USER = "user"
LFS_SUFFIXES = (".safetensors",)
LFS_SIZE = 10 * 1024 * 1024
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?\r?\n)??---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


@dataclass
class Answer:
    """What goes back to the client."""

    status: int
    body: bytes = b""
    headers: dict = field(default_factory=dict)

    @classmethod
    def json(cls, value, status=200, headers=None):
        headers = {"Content-Type": "application/json"} | (headers or {})
        return cls(status, json.dumps(value, default=str).encode(), headers)


class HubError(Exception):
    """An error answer; the client chooses its exception by `code` (X-Error-Code) and shows `message`."""

    def __init__(self, status: int, message: str, code: str | None = None, **extra):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | extra.pop("headers", {})
        self.answer = Answer.json({"error": message, **extra}, status, headers)


@dataclass
class File:
    """A file of a commit: the content itself, also of LFS files."""

    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = ["version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(self.data)}"]
        return "".join(f"{line}\n" for line in lines).encode()

    @cached_property
    def oid(self) -> str:
        """The git hash of the blob: of the pointer for an LFS file."""
        blob = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Commit:
    """A snapshot of all files."""

    files: dict[str, File]
    title: str
    message: str = ""
    parent: "Commit | None" = None
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:23] + "Z")
    sha: str = ""

    def __post_init__(self):
        tree = sorted((path, file.oid) for path, file in self.files.items())
        text = repr((self.parent and self.parent.sha, self.title, self.message, tree))
        self.sha = hashlib.sha1(text.encode()).hexdigest()

    def history(self) -> "list[Commit]":
        """This commit and those before it, newest first."""
        commits, commit = [], self
        while commit:
            commits.append(commit)
            commit = commit.parent
        return commits


class Repo:
    """A model repository; new ones have one commit, as on the Hub."""

    def __init__(self, repo_id: str, private: bool):
        self.id, self.private = repo_id, private
        first = Commit({".gitattributes": File(GITATTRIBUTES)}, "initial commit")
        self.created = first.date
        self.branches, self.tags, self.lfs = {"main": first}, {}, {}  # name -> commit; sha256 -> content

    def commit(self, revision: str) -> Commit:
        """The commit of a branch, a tag or a full hash."""
        for refs in (self.branches, self.tags):
            if revision in refs:
                return refs[revision]
        heads = [*self.branches.values(), *self.tags.values()]
        commits = {commit.sha: commit for head in heads for commit in head.history()}
        if revision not in commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commits[revision]

    def branch(self, name: str) -> Commit:
        """The commit of a branch, for writing."""
        if name not in self.branches:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return self.branches[name]


def check_card(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about the metadata of a model card: a small part of what the Hub checks."""
    block = FRONT_MATTER.match(content)
    try:
        data = yaml.safe_load(block[1] or "") if block else None
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["The metadata must be a mapping"], []
    errors = []

    def entries(value, name, *required):
        """The entries of a list of mappings; notes what is wrong with them."""
        if not isinstance(value, list):
            errors.append(f'"{name}" must be an array')
            return
        for index, entry in enumerate(value):
            yield mapping(entry, f"{name}[{index}]", *required), f"{name}[{index}]"

    def mapping(value, name, *required):
        if not isinstance(value, dict):
            errors.append(f'"{name}" must be an object')
            return {}
        errors.extend(f'"{name}.{key}" is required' for key in required if value.get(key) is None)
        return value

    for model, model_name in entries(data.get("model-index") or [], "model-index", "name", "results"):
        for result, name in entries(model.get("results") or [], f"{model_name}.results", "task", "dataset", "metrics"):
            mapping(result.get("task", {"type": ""}), f"{name}.task", "type")
            mapping(result.get("dataset", {"name": "", "type": ""}), f"{name}.dataset", "name", "type")
            list(entries(result.get("metrics") or [], f"{name}.metrics", "type", "value"))
    return errors, []


@dataclass
class Request:
    """A request, its token already checked: `role` is None (no token), "read" or "write"."""

    hub: "FakeHub"
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict
    body: bytes
    role: str | None = None

    def json(self):
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")

    def repo(self, repo_id: str, write: bool = False) -> Repo:
        """The repository, if the token allows it."""
        repo = self.hub.repos.get(repo_id)
        if self.role is None and (write or repo is None or repo.private):
            # the Hub does not say whether it exists. The client knows a missing repository by this status from https
            # only, over http it needs the code
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if repo is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write and self.role != "write":
            raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
        return repo


ROUTES = []


def route(method: str, pattern: str):
    """Register a handler: {id} is a repository, {name} one part of the path, {name*} the rest; all are unquoted."""
    pattern = pattern.replace("{id}", "(?P<id>[^/]+/[^/]+)").replace(".git", r"\.git")
    pattern = re.sub(r"\{(\w+)\*\}", r"(?P<\1>.+)", pattern)
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))
    return lambda handler: ROUTES.append((method, pattern, handler)) or handler


@route("GET", "/api/whoami-v2")
def whoami(request):
    if request.role is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "fake", "role": request.role}
    auth = {"type": "access_token", "accessToken": token}
    return {"type": "user", "id": "0" * 24, "name": USER, "fullname": USER, "isPro": False, "orgs": [], "auth": auth}


@route("POST", "/api/validate-yaml")
def validate_yaml(request):
    errors, warnings = check_card(request.json()["content"])
    answer = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Answer.json(answer, 400 if errors else 200)


def wants_private(payload: dict) -> bool:
    return payload["visibility"] == "private" if payload.get("visibility") else bool(payload.get("private"))


@route("POST", "/api/repos/create")
def create_repo(request):
    payload = request.json()
    namespace, url = payload.get("organization") or USER, request.hub.endpoint
    repo_id = f"{namespace}/{payload['name']}"
    if request.role is None:
        raise HubError(401, "Invalid username or password.")
    if payload.get("type", "model") != "model":
        raise HubError(400, "FakeHub has repositories of type model only")
    if namespace != USER or request.role != "write":
        raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
    if repo_id in request.hub.repos:
        raise HubError(409, "You already created this model repo", url=f"{url}/{repo_id}")
    request.hub.repos[repo_id] = Repo(repo_id, wants_private(payload))
    return {"url": f"{url}/{repo_id}", "name": repo_id}


@route("DELETE", "/api/repos/delete")
def delete_repo(request):
    payload = request.json()
    repo_id = f"{payload.get('organization') or USER}/{payload['name']}"
    request.repo(repo_id if payload.get("type", "model") == "model" else "", write=True)
    del request.hub.repos[repo_id]
    return {}


@route("GET", "/api/models/{id}/revision/{revision}")
@route("GET", "/api/models/{id}")
def model_info(request, id, revision="main"):
    repo = request.repo(id)
    commit = repo.commit(revision)
    siblings = []
    for path, file in sorted(commit.files.items()):
        siblings.append({"rfilename": path})
        if request.flag("blobs"):
            siblings[-1] |= {"blobId": file.oid, "size": len(file.data)}
            if file.lfs:
                siblings[-1]["lfs"] = {"sha256": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    info = {"_id": "0" * 24, "id": id, "modelId": id, "author": USER, "sha": commit.sha, "private": repo.private}
    info |= {"createdAt": repo.created, "lastModified": commit.date, "siblings": siblings, "spaces": [], "tags": []}
    info |= {"disabled": False, "gated": False, "downloads": 0, "likes": 0}
    readme = commit.files["README.md"].data.decode() if "README.md" in commit.files else ""
    if (block := FRONT_MATTER.match(readme)) and not check_card(readme)[0]:
        card = yaml.safe_load(block[1] or "") or {}
        info |= {key: card[key] for key in ("pipeline_tag", "library_name", "tags", "model-index") if card.get(key)}
        info["cardData"] = card
    return info


def tree_entry(path: str, commit: Commit) -> dict | None:
    """How the Hub describes the file or folder at a path; None if there is none."""
    if file := commit.files.get(path):
        entry = {"type": "file", "oid": file.oid, "size": len(file.data), "path": path}
        if file.lfs:
            entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    else:
        inside = sorted((name, file.oid) for name, file in commit.files.items() if name.startswith(f"{path}/"))
        if not inside:
            return None
        entry = {"type": "directory", "oid": hashlib.sha1(repr(inside).encode()).hexdigest(), "size": 0, "path": path}
    return entry


@route("GET", "/api/models/{id}/tree/{revision}")
@route("GET", "/api/models/{id}/tree/{revision}/{folder*}")
def tree(request, id, revision, folder=""):
    commit = request.repo(id).commit(revision)
    prefix = f"{folder.strip('/')}/" if folder else ""
    paths = set()
    for path in commit.files:
        if path.startswith(prefix):
            parts = path[len(prefix) :].split("/")
            depth = len(parts) if request.flag("recursive") else 1
            paths |= {prefix + "/".join(parts[: index + 1]) for index in range(depth)}
    if folder and not paths:
        raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    return [tree_entry(path, commit) for path in sorted(paths)]


@route("POST", "/api/models/{id}/paths-info/{revision}")
def paths_info(request, id, revision):
    commit = request.repo(id).commit(revision)
    paths = parse_qs(request.body.decode()).get("paths", [])
    return [entry for path in paths if (entry := tree_entry(path.strip("/"), commit))]


@route("GET", "/api/models/{id}/refs")
def refs(request, id):
    repo = request.repo(id)

    def listing(refs, kind):
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": refs[name].sha} for name in refs]

    answer = {"branches": listing(repo.branches, "heads"), "tags": listing(repo.tags, "tags")}
    return answer | {"converts": [], "pullRequests": []}


@route("POST", "/api/models/{id}/branch/{name}")
def create_branch(request, id, name):
    repo = request.repo(id, write=True)
    if name in repo.branches:
        raise HubError(409, f"Reference already exists: refs/heads/{name}")
    repo.branches[name] = repo.commit(request.json().get("startingPoint", "main"))
    return {}


@route("DELETE", "/api/models/{id}/branch/{name}")
def delete_branch(request, id, name):
    repo = request.repo(id, write=True)
    repo.branch(name)
    del repo.branches[name]
    return Answer()


@route("POST", "/api/models/{id}/tag/{revision}")
def create_tag(request, id, revision):
    repo, tag = request.repo(id, write=True), request.json()["tag"]
    if tag in repo.tags:
        raise HubError(409, f"Tag reference exists already: refs/tags/{tag}")
    repo.tags[tag] = repo.commit(revision)
    return {}


@route("POST", "/api/models/{id}/preupload/{revision}")
def preupload(request, id, revision):
    files = request.repo(id, write=True).branch(revision).files
    answer = []
    for item in request.json()["files"]:
        lfs = item["path"].endswith(LFS_SUFFIXES) or item["size"] > LFS_SIZE
        answer.append({"path": item["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False})
        if item["path"] in files:  # with it the client leaves out what has not changed
            answer[-1]["oid"] = files[item["path"]].etag
    return {"files": answer}


@route("POST", "/{id}.git/info/lfs/objects/batch")
def lfs_batch(request, id):
    repo = request.repo(id, write=True)
    objects = [{"oid": item["oid"], "size": item["size"]} for item in request.json()["objects"]]
    for item in objects:
        if item["oid"] not in repo.lfs:
            href = f"{request.hub.endpoint}/lfs/{id}/{item['oid']}?size={item['size']}"
            item["actions"] = {"upload": {"href": href}}
    return {"transfer": "basic", "objects": objects}


@route("PUT", "/lfs/{id}/{oid}")
def lfs_put(request, id, oid):
    """The storage: like a signed URL it asks for no token."""
    if hashlib.sha256(request.body).hexdigest() != oid or len(request.body) != int(request.query["size"][0]):
        raise HubError(400, "BadDigest: the content does not match the announced sha256 and size")
    request.hub.repos[id].lfs[oid] = request.body
    return {}


@route("POST", "/api/models/{id}/commit/{revision}")
def create_commit(request, id, revision):
    repo = request.repo(id, write=True)
    head = repo.branch(revision)
    if request.flag("create_pr"):
        raise HubError(400, "FakeHub has no pull requests")
    files, header = dict(head.files), {}
    for line in request.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        path = value.get("path", "")
        if key == "header":
            header = value
            if not head.sha.startswith(header.get("parentCommit", "")):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            files[path] = File(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            data = repo.lfs.get(value["oid"])
            if data is None or value.get("size", len(data)) != len(data):
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = File(data, lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            folder = path.rstrip("/") + "/"
            gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(folder))]
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist in this branch: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"Unknown operation in commit: {key}")
    if not header.get("summary"):
        raise HubError(400, "The header of the commit lacks a summary")
    commit = repo.branches[revision] = Commit(files, header["summary"], header.get("description", ""), head)
    url = f"{request.hub.endpoint}/{id}/commit/{commit.sha}"
    return {"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""}


@route("GET", "/{id}/resolve/{revision}/{path*}")
def resolve(request, id, revision, path):
    commit = request.repo(id).commit(revision)
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    if path not in commit.files:
        raise HubError(404, "Entry not found", "EntryNotFound", headers=headers)
    file = commit.files[path]
    data, size = file.data, len(file.data)
    headers |= {"ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(size)}
    if match := re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range") or ""):
        first, last = match.groups()
        start = int(first) if first else max(size - int(last or 0), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= stop:
            return Answer(416, b"", headers | {"Content-Range": f"bytes */{size}"})
        return Answer(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})
    return Answer(200, data, headers)


@dataclass
class Fault:
    """What to do to the next requests that match; status None: send half of the body."""

    pattern: str
    times: int
    status: int | None
    headers: dict = field(default_factory=dict)
    when: str = "after"


class FakeHub:
    """The server, to be used as a context manager; all that it holds is gone with it."""

    token = "hf_fake"
    read_only_token = "hf_read"

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._server.server_close()

    def environment(self, cache: Path, token: str | None = None) -> dict[str, str]:
        """Variables that lead a client process here, with its own cache and without any token of the machine."""
        switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
        switches |= {"TRANSFORMERS_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        folders = {"HF_HOME": cache, "HF_HUB_CACHE": Path(cache, "hub"), "HF_TOKEN_PATH": Path(cache, "token")}
        tokens = {"HF_TOKEN": token or "", "HUGGING_FACE_HUB_TOKEN": ""}
        return {"HF_ENDPOINT": self.endpoint} | switches | tokens | {key: str(path) for key, path in folders.items()}

    def add(self, repo_id: str, folder: Path):
        """Put the files of a folder into a new public repository, whoever owns the name."""
        repo = Repo(repo_id, private=False)
        first = repo.branches["main"]
        files = {path.name: File(path.read_bytes(), path.suffix == ".safetensors") for path in folder.iterdir()}
        repo.lfs |= {file.sha256: file.data for file in files.values() if file.lfs}
        repo.branches["main"] = Commit(first.files | files, "add files", parent=first)
        with self._lock:
            self.repos[repo_id] = repo

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The content of a repository at a branch, tag or hash."""
        with self._lock:
            return {path: file.data for path, file in self.repos[repo_id].commit(revision).files.items()}

    def commits(self, repo_id: str, branch: str = "main") -> list[str]:
        """The hashes of the commits of a branch, oldest first, with the initial one."""
        with self._lock:
            return [commit.sha for commit in reversed(self.repos[repo_id].branches[branch].history())]

    def exists(self, repo_id: str) -> bool:
        return repo_id in self.repos

    def fail(self, pattern: str, status: int, times: int = 1, headers: dict | None = None, when: str = "before"):
        """Answer `status` to the next `times` requests with a match of `pattern` in "METHOD path" (no query).

        Status 0 resets the connection instead. With when="after" the request is carried out and only its answer lost.
        """
        if when not in ("before", "after"):
            raise ValueError(f"when must be 'before' or 'after', not {when!r}")
        self._faults.append(Fault(pattern, times, status, headers or {}, when))

    def truncate(self, pattern: str, times: int = 1):
        """Send the headers of the next matching GET requests in full, but only half of the body."""
        self._faults.append(Fault(pattern, times, None))

    def _fault(self, method: str, path: str) -> Fault | None:
        """The first fault for a request that is not used up; counts it."""
        for fault in self._faults:
            usable = fault.times > 0 and (fault.status is not None or method == "GET")
            if usable and re.search(fault.pattern, f"{method} {path}"):
                fault.times -= 1
                return fault
        return None

    def _serve(self, request: Request) -> tuple[Answer, Fault | None]:
        with self._lock:
            self.requests.append((request.method, request.path))
            fault = self._fault(request.method, request.path)
            if fault is None or fault.when == "after":
                answer = self._answer(request)
            if fault and fault.status is not None:
                answer = Answer.json({"error": f"FakeHub fault {fault.status}"}, fault.status, fault.headers)
            return answer, fault

    def _answer(self, request: Request) -> Answer:
        roles = {None: None, f"Bearer {self.token}": "write", f"Bearer {self.read_only_token}": "read"}
        try:
            authorization = request.headers.get("Authorization")
            if authorization not in roles:
                raise HubError(401, "Invalid credentials in Authorization header")
            request.role = roles[authorization]
            method = "GET" if request.method == "HEAD" else request.method
            for route_method, pattern, handler in ROUTES:
                if route_method == method and (match := pattern.fullmatch(request.path)):
                    result = handler(request, **{key: unquote(value) for key, value in match.groupdict().items()})
                    return result if isinstance(result, Answer) else Answer.json(result)
            if re.match(r"/api/(models|datasets|spaces)/|.+/resolve/", request.path):
                request.repo("")  # no such repository
            raise HubError(404, "Sorry, we can't find the page you are looking for.")
        except HubError as error:
            return error.answer
        except Exception as error:  # a bug here, or a malformed request
            traceback.print_exc()
            return Answer.json({"error": f"FakeHub: {error!r}"}, 500)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _handle(self):
        url = urlsplit(self.path)
        request = Request(self.hub, self.command, url.path, parse_qs(url.query), self.headers, self._body())
        answer, fault = self.hub._serve(request)
        if fault and fault.status == 0:  # closing with this option set sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(answer.status)
        for key, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.status is None:
            self.close_connection = True
            self.wfile.write(answer.body[: len(answer.body) // 2])
        else:
            self.wfile.write(answer.body)

    def handle(self):
        try:
            super().handle()
        except ConnectionError:  # the client went away
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def log_message(self, format, *args):
        pass
