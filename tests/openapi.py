#!/usr/bin/env python3
"""Asks a gateway everything that its OpenAPI document allows, and much that it does not: `make openapi`.

The demo runs on servers of its own, with routes to an event and to a row besides what it has. schemathesis makes requests
from `/openapi.json` for MINUTES (default 10) and fails for a server error, a status, media type, header or body that the
document does not name. The page of results is its own; what it prints last is how many requests there were.
"""
import os, pathlib, signal, socket, subprocess, sys, tempfile, time, urllib.request

root = pathlib.Path(__file__).resolve().parent.parent
binaries = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / os.environ.get("BUILD", "debug")
schemathesis = root / ".oncue" / "openapi" / "bin" / "schemathesis"
seconds = int(float(os.environ.get("MINUTES", "10")) * 60)
# A stream of events has no end, and a request for it no time.
UNENDING = "/stream"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"
ROUTES = """
[[route]]
method = "PUT"
path = "/pages/{page}/views"
event = "web.page.viewed"
fields = { page = "path.page", visitor = "header.x-visitor", referrer = { from = "query.ref", default = "none" } }

[[route]]
method = "GET"
path = "/counts/{page}"
row = "pages"
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    work = pathlib.Path(tempfile.mkdtemp(prefix="oncue-openapi-"))
    config = (root / "oncue.toml").read_text()
    config = config.replace('proto = "', f'proto = "{root}/').replace('site = "', f'site = "{root}/')
    (work / "oncue.toml").write_text(config + ROUTES)
    nats, redis, gateway, console = (free_port() for _ in range(4))
    env = os.environ | {
        "ONCUE_CONFIG": str(work / "oncue.toml"),
        "ONCUE_NATS_URL": f"nats://127.0.0.1:{nats}",
        "ONCUE_REDIS_URL": f"redis://127.0.0.1:{redis}",
        "ONCUE_GATEWAY_LISTEN": f"127.0.0.1:{gateway}",
        "ONCUE_CONSOLE_LISTEN": f"127.0.0.1:{console}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    up = subprocess.Popen([binaries / "oncue", "up"], env=env, cwd=work, stdout=open(work / "up.log", "w"), stderr=subprocess.STDOUT)
    try:
        document = f"http://127.0.0.1:{gateway}/openapi.json"
        for _ in range(600):
            if up.poll() is not None:
                sys.exit((work / "up.log").read_text())
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{gateway}/readyz")
                break
            except OSError:
                time.sleep(0.1)
        else:
            sys.exit("the gateway is not ready: " + (work / "up.log").read_text())
        command = [schemathesis, "run", document, "--max-time", str(seconds), "--continue-on-failure", "--checks", CHECKS]
        command += ["--exclude-path-regex", UNENDING, "--request-timeout", "20", "--warnings", "off"]
        return subprocess.call(command, cwd=work)
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)


sys.exit(main())
