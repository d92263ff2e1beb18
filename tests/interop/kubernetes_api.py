"""As much of a Kubernetes API server as the leadership label meets: pods with
metadata, GET and PATCH of one, over HTTPS with certificates made on the spot.

What the real one does and matters here: a merge patch that names another
resourceVersion is refused with 409, a JSON patch whose test fails with 422;
a patch that changes nothing leaves the resourceVersion alone; a token that is
not known gets 401, and what the role does not allow 403.  The role is the one
in deploy/kubernetes/rbac.yaml."""

import copy
import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time

RBAC = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                    "../../deploy/kubernetes/rbac.yaml")
PATH = re.compile(r"^/api/v1/namespaces/([^/]+)/pods/([^/?]+)"
                  r"(\?fieldManager=holdfast)?$")


def shipped_role():
    """verbs and resourceNames of the role's one rule."""
    with open(RBAC) as f:
        text = f.read()
    lists = {key: re.findall(r'"([^"]+)"', found) for key, found in
             re.findall(r"^\s+(?:- )?(\w+): \[(.*)\]$", text, re.MULTILINE)}
    assert lists["resources"] == ["pods"], lists
    return lists["verbs"], lists["resourceNames"]


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class Authority:
    """A CA of a test's own (or another's), and a server certificate that it
    has signed."""

    def __init__(self, folder, name, address="127.0.0.1", signer=None):
        at = os.path.join(folder, name)
        self.ca, self.ca_key = at + ".ca", at + ".cakey"
        self.chain, self.key = at + ".crt", at + ".key"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                 "-nodes"]
        if signer:
            self.ca, self.ca_key = signer.ca, signer.ca_key
        else:
            openssl("req", "-x509", *curve, "-keyout", self.ca_key, "-out",
                    self.ca, "-subj", "/CN=%s" % name, "-days", "2")
        openssl("req", *curve, "-keyout", self.key, "-out", at + ".csr",
                "-subj", "/CN=kubernetes")
        with open(at + ".ext", "w") as f:
            f.write("subjectAltName=IP:%s\n" % address)
        openssl("x509", "-req", "-in", at + ".csr", "-CA", self.ca, "-CAkey",
                self.ca_key, "-CAcreateserial", "-out", self.chain, "-days",
                "2", "-extfile", at + ".ext")


class Refused(Exception):
    def __init__(self, status, headers=()):
        super().__init__(status)
        self.status, self.headers = status, dict(headers)


def merge(target, patch):
    """RFC 7386."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


def json_patch(target, operations):
    """RFC 6902: test and replace of what is there."""
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~")
                          for part in operation["path"].split("/")[1:]]
        place = target
        for part in parents:
            place = place.get(part) or {}
        if last not in place:
            raise Refused(422)
        if operation["op"] == "test":
            if place[last] != operation["value"]:
                raise Refused(422)
        elif operation["op"] == "replace":
            place[last] = operation["value"]
        else:
            raise Refused(400)


class Request:
    def __init__(self, method, pod, token, body):
        self.at = time.monotonic()
        self.method, self.pod, self.token, self.body = method, pod, token, body
        self.status = None

    def __repr__(self):
        return "%s %s %s" % (self.method, self.pod, self.status)


class Server:
    """start() and stop() as often as wanted, on one port."""

    def __init__(self, authority):
        self.authority = authority
        self.changed = threading.Condition()
        self.verbs, self.allowed = shipped_role()
        self.pods = {}
        self.requests = []
        self.tokens = {"token-1"}
        # Called with the Request before anything is done, without the lock;
        # may raise Refused, or wait.  before_patch: with the lock, when a
        # patch is about to be applied.
        self.fault = None
        self.before_patch = None
        self.httpd = None
        self.connections = set()
        self.version = 100
        for name in self.allowed:
            self.make_pod(name)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]

    @property
    def url(self):
        return "https://127.0.0.1:%d" % self.port

    # ---- pods ----

    def make_pod(self, name, leader="no", epoch=None):
        """As the StatefulSet's template makes it, or in a later state."""
        with self.changed:
            self.version += 1
            metadata = {"name": name, "namespace": "messaging",
                        "resourceVersion": str(self.version),
                        "labels": {"app": "holdfast", "leader": leader}}
            if epoch is not None:
                metadata["annotations"] = {"holdfast/epoch": str(epoch)}
            self.pods[name] = {"kind": "Pod", "apiVersion": "v1",
                               "metadata": metadata,
                               "spec": {"containers": [{"name": "b"}]}}
            self.changed.notify_all()

    def label(self, name):
        return self.pods[name]["metadata"]["labels"].get("leader")

    def epoch(self, name):
        metadata = self.pods[name]["metadata"]
        return metadata.get("annotations", {}).get("holdfast/epoch")

    def relabel(self, name, leader, epoch=None):
        """By somebody else, with the lock held or not."""
        with self.changed:
            metadata = self.pods[name]["metadata"]
            metadata["labels"]["leader"] = leader
            if epoch is not None:
                metadata.setdefault("annotations", {})["holdfast/epoch"] = \
                    str(epoch)
            self.version += 1
            metadata["resourceVersion"] = str(self.version)
            self.changed.notify_all()

    def until(self, condition, what, seconds=30):
        with self.changed:
            if not self.changed.wait_for(condition, seconds):
                raise AssertionError(
                    "%s: not within %d s; the last requests: %r; %r" % (
                        what, seconds, self.requests[-8:],
                        {name: (self.label(name), self.epoch(name))
                         for name in self.pods}))

    def count(self, method=None, pod=None, since=0):
        return sum(1 for r in self.requests[since:]
                   if method in (None, r.method) and pod in (None, r.pod))

    def until_requests(self, more, what, **which):
        since = len(self.requests)
        self.until(lambda: self.count(since=since, **which) >= more, what)

    # ---- answering ----

    def answer(self, request, content_type):
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()
        if self.fault:
            self.fault(request)
        with self.changed:
            if request.token not in self.tokens:
                raise Refused(401)
            if request.method.lower() not in self.verbs or \
                    request.pod not in self.allowed:
                raise Refused(403)
            if request.pod not in self.pods:
                raise Refused(404)
            if request.method == "PATCH":
                self.patch(request, content_type)
            return copy.deepcopy(self.pods[request.pod])

    def patch(self, request, content_type):
        if self.before_patch:
            self.before_patch(request)
        pod = copy.deepcopy(self.pods[request.pod])
        version = pod["metadata"]["resourceVersion"]
        if content_type == "application/merge-patch+json":
            merge(pod, request.body)
            if pod["metadata"]["resourceVersion"] != version:
                raise Refused(409)
        elif content_type == "application/json-patch+json":
            json_patch(pod, request.body)
        else:
            raise Refused(415)
        if pod != self.pods[request.pod]:
            self.version += 1
            pod["metadata"]["resourceVersion"] = str(self.version)
            self.pods[request.pod] = pod

    def done(self, request, status):
        with self.changed:
            request.status = status
            self.changed.notify_all()

    # ---- the listener ----

    def start(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_api(self):
                match = PATH.match(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                token = (self.headers.get("Authorization") or "").partition(
                    "Bearer ")[2]
                request = Request(self.command, match and match[2], token,
                                  body)
                headers = {}
                try:
                    if not match or match[1] != "messaging":
                        raise Refused(404)
                    status, value = 200, server.answer(
                        request, self.headers.get("Content-Type"))
                except Refused as why:
                    status, headers = why.status, why.headers
                    value = {"kind": "Status", "code": status}
                text = json.dumps(value).encode()
                # Before it is sent: who reads it finds it recorded.
                server.done(request, status)
                self.send_response(status)
                for name, header in headers.items():
                    self.send_header(name, header)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PATCH = do_PUT = do_POST = do_DELETE = handle_api

            def log_message(self, *_arguments):
                pass

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, connection, address):
                # The handshake belongs to the connection's own thread.
                connection.settimeout(60)
                try:
                    connection = context.wrap_socket(connection,
                                                     server_side=True)
                    with server.changed:
                        server.connections.add(connection)
                    self.RequestHandlerClass(connection, address, self)
                except OSError:
                    pass  # it was not trusted, or cut off
                finally:
                    with server.changed:
                        server.connections.discard(connection)
                    connection.close()

            def handle_error(self, *_arguments):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.chain, self.authority.key)
        self.httpd = Listener(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.httpd.serve_forever,
                         args=(0.01,), daemon=True).start()
        return self

    def stop(self):
        """Refuses connections from now on, and breaks those there are."""
        if not self.httpd:
            return
        self.httpd.shutdown()
        self.httpd.server_close()
        self.httpd = None
        with self.changed:
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has ended by itself
