"""COCO's server over loopback. It breaks off the first answer for every file, as a long download will be."""

import http.server
import re
import threading


class Coco(http.server.ThreadingHTTPServer):
    """Serves a folder; `broken_off` and `resumed` hold the paths that this happened to."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), CocoAnswer)
        self.folder, self.broken_off, self.resumed = folder, set(), set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class CocoAnswer(http.server.BaseHTTPRequestHandler):
    """A file, whole or from a byte on."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, server = self.path.lstrip("/"), self.server
        if not (server.folder / path).is_file():
            return self.send_error(404)
        content = (server.folder / path).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - first))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        self.close_connection = path not in server.broken_off
        end = len(content) // 2 if self.close_connection else len(content)
        server.broken_off.add(path)
        if first:
            server.resumed.add(path)
        self.wfile.write(content[first:end])
        return None

    do_HEAD = do_GET

    def log_message(self, *_):
        pass
