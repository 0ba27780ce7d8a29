#!/usr/bin/env python3
"""Measures what README.md quotes, with servers of its own: `make measure`.

Start: from the fork of a worker to its line "ready" (connected, streams and consumer checked, pulling), median and range.
Idle: resident memory and CPU of a worker that has nothing to do.
Up: from `oncue up` to its ready line, everything built, data from the run before.
"""
import os, pathlib, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

root = pathlib.Path(__file__).resolve().parent.parent
binaries = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release"
work = pathlib.Path(tempfile.mkdtemp(prefix="oncue-measure-"))
children = []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(*command, env=None, log=None):
    out = open(work / log, "w") if log else subprocess.PIPE
    child = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, text=True, cwd=work)
    children.append(child)
    return child


def wait_for(port):
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.01)
    sys.exit(f"port {port} does not answer")


def end(child):
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def workers():
    nats, redis = free_port(), free_port()
    (work / "nats.conf").write_text(f'listen: "127.0.0.1:{nats}"\njetstream {{ store_dir: "{work}/nats" }}\n')
    start("nats-server", "-c", str(work / "nats.conf"), log="nats.log")
    start("redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(work), log="redis.log")
    wait_for(nats), wait_for(redis)
    env = os.environ | {
        "ONCUE_NATS_URL": f"nats://127.0.0.1:{nats}",
        "ONCUE_REDIS_URL": f"redis://127.0.0.1:{redis}",
        "ONCUE_CONFIG": str(root / "oncue.toml"),
    }
    starts, memory = [], []
    for _ in range(11):
        begin = time.monotonic()
        worker = start(str(binaries / "count-views"), env=env)
        for line in worker.stdout:
            if '"ready"' in line:
                break
        starts.append((time.monotonic() - begin) * 1000)
        time.sleep(1)
        memory.append(resident(worker.pid))
        last = worker
        if len(starts) < 11:
            end(worker)
    before, began = cpu_seconds(last.pid), time.monotonic()
    time.sleep(10)
    cpu = (cpu_seconds(last.pid) - before) / (time.monotonic() - began) * 100
    end(last)
    starts = sorted(starts[1:])  # the first one made the streams
    print(f"worker start to ready: {statistics.median(starts):.0f} ms ({starts[0]:.0f} to {starts[-1]:.0f})")
    print(f"idle worker: {max(memory):.1f} MB resident, {cpu:.2f} % of a core, tracing on")


def up():
    ready = []
    for _ in range(4):
        shutil.copy(root / "oncue.toml", work / "oncue.toml")
        begin = time.monotonic()
        house = start(str(binaries / "oncue"), "up")
        lines = []
        for line in house.stdout:
            lines.append(line)
            if "ready in" in line:
                break
        else:
            sys.exit("oncue up did not get ready:\n" + "".join(lines[-30:]))
        ready.append((time.monotonic() - begin) * 1000)
        begin = time.monotonic()
        end(house)
        print(f"  up {ready[-1]:.0f} ms, down {(time.monotonic() - begin) * 1000:.0f} ms")
    again = sorted(ready[1:])
    print(f"oncue up to ready: first {ready[0]:.0f} ms, then {statistics.median(again):.0f} ms ({again[0]:.0f} to {again[-1]:.0f})")


try:
    if "up" in sys.argv[1:] or len(sys.argv) == 1:
        up()
    if "workers" in sys.argv[1:] or len(sys.argv) == 1:
        workers()
finally:
    for child in reversed(children):
        end(child)
    shutil.rmtree(work, ignore_errors=True)
