"""A stand-in for the Hub over loopback: repositories in memory, just the routes that pushing and loading use.

`HF_ENDPOINT` must name it before anything imports the clients, so whoever uses it runs in a subprocess.
"""

import base64
import hashlib
import http.server
import json
import re
import sys
import threading

TOKEN = "hf_standinstandinstandinstandin12"


class Hub(http.server.ThreadingHTTPServer):
    """Holds {(type, id): {path: bytes}}, uploaded objects by SHA-256, and the paths of all requests.

    `pinned` names the commit that a repository is at, {id: commit}; that of any other changes with its files.
    """

    def __init__(self, pinned=None):
        super().__init__(("127.0.0.1", 0), Routes)
        self.repos, self.objects, self.seen, self.private, self.pinned = {}, {}, [], set(), pinned or {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # of a client that was killed
            super().handle_error(request, client_address)


class Missing(Exception):
    """What is asked for isn't there; its text is the Hub's code."""


class Routes(http.server.BaseHTTPRequestHandler):
    """One method a kind of request; what isn't known is a 404."""

    protocol_version = "HTTP/1.1"

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code):
        self.answer({"error": code}, 404, X_Error_Code=code)

    def handle_any(self):
        body, path = self.rfile.read(int(self.headers.get("Content-Length") or 0)), self.path.split("?")[0]
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length + 2)[:-2]
            self.rfile.readline()
        self.server.seen.append(f"{self.command} {path}")
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                try:
                    return method(self, body, *match.groups())
                except Missing as error:
                    return self.missing(error.args[0])
        return self.missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def files(self, kind, name, revision=None):
        """The files of a repository; Missing with the Hub's code if it or the revision is missing."""
        if (kind, name) not in self.server.repos:
            raise Missing("RepoNotFound")
        if revision not in (None, "main") and revision != self.sha(kind, name):
            raise Missing("RevisionNotFound")
        return self.server.repos[kind, name]

    def sha(self, kind, name):
        if name in self.server.pinned:
            return self.server.pinned[name]
        hashes = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.files(kind, name).items())
        return hashlib.sha1(repr(hashes).encode()).hexdigest()

    def whoami(self, body):
        self.answer({"name": "me", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self, body):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401)
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or 'me'}/{wanted['name'].split('/')[-1]}"
        key = f"{wanted.get('type', 'model')}s", name
        if wanted.get("visibility") == "private" and key not in self.server.repos:
            self.server.private.add(key)
        self.server.repos.setdefault(key, {})
        return self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def info(self, body, kind, name, revision=None):
        files = self.files(kind, name, revision)
        facts = {"id": name, "_id": "1", "sha": self.sha(kind, name), "private": (kind, name) in self.server.private,
                 "disabled": False, "gated": False, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip
        self.answer(facts | {"siblings": [{"rfilename": path, "size": len(files[path])} for path in files]})

    def tree(self, body, kind, name, revision, folder=""):
        files, folder = self.files(kind, name), (folder or "").strip("/")
        inside = [path for path in files if path.startswith(f"{folder}/" if folder else "")]
        if folder and not inside:
            raise Missing("EntryNotFound")
        parents = {"/".join(path.split("/")[:n]) for path in inside for n in range(1, path.count("/") + 1)}
        entries = [{"type": "directory", "path": path, "oid": "d" * 40, "size": 0} for path in parents]
        self.answer(entries + describe_files(files, inside))

    def paths_info(self, body, kind, name, revision):
        asked = json.loads(body)["paths"] if body.startswith(b"{") else []
        self.answer(describe_files(self.files(kind, name), asked))

    def preupload(self, body, kind, name, revision):
        files = [{"path": file["path"], "shouldIgnore": False} for file in json.loads(body)["files"]]
        for file in files:
            file["uploadMode"] = "lfs" if file["path"].endswith((".parquet", ".safetensors")) else "regular"
        self.answer({"files": files})

    def batch(self, body, kind, name):
        objects = [
            {"authenticated": True, "oid": item["oid"], "size": item["size"]} for item in json.loads(body)["objects"]
        ]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{self.server.url}/object/{item['oid']}", "header": {}}}
        self.answer({"transfer": "basic", "objects": objects})

    def put(self, body, oid):
        self.server.objects[oid] = body
        self.answer(ETag=f'"{oid}"')

    def commit(self, body, kind, name, revision):
        files = self.files(kind, name)
        for operation, value in (json.loads(line).values() for line in body.splitlines()):
            if operation == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif operation == "deletedFile":
                files.pop(value["path"])
        oid = self.sha(kind, name)
        url = f"{self.server.url}/{name}/commit/{oid}"
        self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def validate(self, body):
        self.answer({"errors": [], "warnings": []})

    def resolve(self, body, kind, name, revision, path):
        kind = (kind or "models/").strip("/")
        files = self.files(kind, name, revision)
        if path not in files:
            raise Missing("EntryNotFound")
        content, status = files[path], 200
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self.sha(kind, name)}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self.answer(content, status, Accept_Ranges="bytes", Content_Type="application/octet-stream", **headers)

    def log_message(self, *_):
        pass


def describe_files(files: dict, paths: list[str]) -> list[dict]:
    """Those of the paths that a repository has, as the Hub lists them."""
    hashes = {path: hashlib.sha1(files[path]).hexdigest() for path in paths if path in files}
    return [{"type": "file", "path": path, "oid": oid, "size": len(files[path])} for path, oid in hashes.items()]


REPO = r"(datasets|models)/([^/]+/[^/]+)"
ROUTES = [
    (r"GET /api/whoami-v2", Routes.whoami),
    (r"POST /api/repos/create", Routes.create),
    (rf"GET /api/{REPO}", Routes.info),
    (rf"GET /api/{REPO}/revision/([^/]+)", Routes.info),
    (rf"GET /api/{REPO}/tree/([^/]+)(/.*)?", Routes.tree),
    (rf"POST /api/{REPO}/paths-info/([^/]+)", Routes.paths_info),
    (rf"POST /api/{REPO}/preupload/([^/]+)", Routes.preupload),
    (rf"POST /api/{REPO}/commit/([^/]+)", Routes.commit),
    (r"POST /(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", Routes.batch),
    (r"PUT /object/(\w+)", Routes.put),
    (r"POST /api/validate-yaml", Routes.validate),
    (r"(?:GET|HEAD) /(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Routes.resolve),
]
