"""A web service of its own, which has never heard of Oncue: `python3 hook.py PORT LOG`. It notes each request in LOG."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked: dict[str, int] = {}


class Hook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with open(sys.argv[2], "a") as log:
            print(json.dumps({"path": self.path, "headers": headers, "body": body}), file=log)
        if self.path == "/count":
            self.count(body["data"], body["row"])
        else:
            self.greet(body)

    def count(self, view: dict, row: dict) -> None:
        count = row.get("count", 0) + 1
        emit = []
        if count % 10 == 0:
            emit = [{"type": "web.page.milestone", "data": {"page": view["page"], "views": count}}]
        self.answer(200, {"row": {"count": count}, "emit": emit})

    def greet(self, view: dict) -> None:
        page, what = view["page"], view.get("referrer")
        times = asked[page] = asked.get(page, 0) + 1
        milestone = {"type": "web.page.milestone", "data": {"page": page, "views": 7}}
        if what == "binary":
            self.answer(200, milestone["data"], ("ce-type", milestone["type"]), ("ce-specversion", "1.0"))
        elif what == "structured":
            self.answer(200, milestone, kind="application/cloudevents+json; charset=utf-8")
        elif what == "batch":
            self.answer(200, [milestone] * 3, kind="application/cloudevents-batch+json")
        elif what == "busy" and times == 1:
            self.answer(503, {}, ("retry-after", "2"))
        elif what == "reject":
            self.answer(422, {"why": "no\nsuch page" + "!" * 5000})
        elif what == "fail":
            self.answer(500, {"why": "out of order"})
        elif what == "slow":
            time.sleep(5)
            self.answer(204)
        elif what == "elsewhere":
            self.answer(307, None, ("location", "/count"))
        elif what == "chatty":
            self.answer(200, "thanks", kind="text/plain")
        elif what == "unknown":
            self.answer(200, {"file": "f"}, ("ce-type", "files.file.removed"))
        elif what == "torn":
            self.send_response(200)
            self.send_header("content-length", "100")
            self.end_headers()
            self.wfile.write(b"{")
            self.close_connection = True
        elif what == "endless":
            self.answer(200, "x" * (17 << 20), kind="application/json")
        else:
            self.answer(204)

    def answer(self, status: int, content: object = None, *headers: tuple[str, str], kind: str = "application/json") -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (*headers, ("content-type", kind), ("content-length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hook).serve_forever()
