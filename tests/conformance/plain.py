"""The conformance functions for who knows nothing of Oncue: `plain.py lines NAME`, or `plain.py http PORT`."""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Rejected(Exception):
    pass


def conform(asked: dict[str, Any], row: dict[str, Any], attempt: int) -> dict[str, Any]:
    what = asked.get("what")
    if what == "echo":
        return {"emit": [{"type": "conform.case.answered", "data": asked}]}
    if what == "many":
        return {"emit": [{"type": "conform.case.answered", "data": {"key": asked["key"], "text": text}} for text in "123"]}
    if what == "later":
        data = {"key": asked["key"], "text": asked["text"]}
        return {"emit": [{"type": "conform.case.answered", "data": data, "delay": "500ms"}]}
    if what == "unnamed":
        return {"emit": [{"type": "conform.case.unnamed", "data": {"key": asked["key"]}}]}
    if what == "row" or what == "fail-once" and attempt > 1:
        return {"row": written(asked, row)}
    if what == "fail-once":
        raise OSError("not yet")
    if what == "after" and row.get("count"):
        return {"row": written(asked, row)}
    if what in ("reject", "after"):
        raise Rejected("told to reject")
    if what in ("fail", "spoil"):
        raise OSError("told to fail")
    if what in ("slow", "stall"):
        time.sleep(10)
    return {}


def written(asked: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "count": row.get("count", 0) + 1,
        "large": asked.get("number", 0),
        "ratio": asked.get("ratio", 0),
        "flag": asked.get("flag", False),
        "last": asked.get("text", ""),
        "note": asked.get("note"),
        "names": asked.get("names", []),
    }


def owned(asked: dict[str, Any], row: dict[str, Any], _: int) -> dict[str, Any]:
    return {"row": {"count": row.get("count", 0) + 1}}


def once(asked: dict[str, Any], _row: object, _attempt: int) -> dict[str, Any]:
    """Heeds its own words alone: it hears those of the others as well."""
    if asked.get("what") == "once-fail":
        raise OSError("told to fail")
    if asked.get("what") != "once":
        return {}
    return {"emit": [{"type": "conform.case.answered", "data": {"key": asked["key"], "note": "called"}}]}


FUNCTIONS = {"conform": conform, "owned": owned, "once": once}


def crashes(name: str, asked: dict[str, Any]) -> bool:
    return asked.get("what") == ("once-crash" if name == "once" else "crash")


def lines(name: str) -> None:
    for line in sys.stdin:
        event = json.loads(line)
        if crashes(name, event["data"]):
            os.abort()
        try:
            answer = FUNCTIONS[name](event["data"], event.get("row"), event["attempt"])
        except Rejected as e:
            answer = {"reject": str(e)}
        except Exception as e:
            answer = {"retry": str(e)}
        print(json.dumps(answer), flush=True)


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = self.path[1:]
        # Of a function without a table the body is the event's data.
        asked, row = (body, None) if name == "once" else (body["data"], body["row"])
        if crashes(name, asked):
            # As its process would: without an answer.
            self.close_connection = True
            return
        status, answer, media = 200, None, "application/json"
        try:
            answered = FUNCTIONS[name](asked, row, int(self.headers["ce-attempt"]))
            if name == "once":
                media, answered = "application/cloudevents-batch+json", answered.get("emit", [])
            answer = json.dumps(answered)
        except Rejected as e:
            status, answer = 422, str(e)
        except Exception as e:
            status, answer = 500, str(e)
        encoded = answer.encode()
        self.send_response(status)
        self.send_header("content-type", media)
        self.send_header("content-length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: object) -> None:
        pass


if sys.argv[1] == "lines":
    lines(sys.argv[2])
else:
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Service).serve_forever()
