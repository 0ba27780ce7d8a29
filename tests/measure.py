#!/usr/bin/env python3
"""Measures what README.md quotes, with servers of its own: `make measure`.

Start: from the fork of a worker to its line "ready" (connected, streams and consumer checked, pulling), median and range.
Idle: resident memory and CPU of a worker that has nothing to do.
Up: from `oncue up` to its ready line, everything built, data from the run before.
Asleep: what 200 functions that sleep cost the bus, in a quiet stream and in one that is busy with other things; and the
time from publishing an event for a function that sleeps to its first commit.
Locks: a function on servers that `oncue up` has locked beside the same on open ones, in turns.
"""
import json, os, pathlib, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time, urllib.request

root = pathlib.Path(__file__).resolve().parent.parent
profile = os.environ.get("MEASURE", "release")
binaries = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / profile
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


def talk(port, text, end):
    """Lines in, lines out, as far as `end`: both servers speak so."""
    with socket.create_connection(("127.0.0.1", port), 5) as s:
        s.sendall(text.encode())
        answer = b""
        while end not in answer:
            answer += s.recv(65536)
        return answer.decode()


def publish(port, subject, payload):
    talk(port, f'CONNECT {{"verbose":false}}\r\nPUB {subject} {len(payload)}\r\n{payload}\r\nPING\r\n', b"PONG")


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


def house(names, fields):
    """`oncue up` with servers of its own, running namesakes; its ports and processes once it is ready."""
    home = pathlib.Path(tempfile.mkdtemp(dir=work))
    nats, monitor, redis, gateway, console = (free_port() for _ in range(5))
    for name in names:
        (home / name).symlink_to(binaries / "namesake")
    for program in ("oncue", "oncue-gateway", "oncue-console"):
        (home / program).symlink_to(binaries / program)
    functions = "".join(f"[functions.{name}]\n{fields}\n" for name in names)
    streams = "".join(f'{name}.max_bytes = "64MiB"\n' for name in ("web", "files", "dlq", "objects"))
    (home / "oncue.toml").write_text(f"[app]\nname = \"measure\"\n[streams]\n{streams}{functions}")
    (home / "nats.conf").write_text(
        f'listen: "127.0.0.1:{nats}"\nhttp: "127.0.0.1:{monitor}"\njetstream {{ store_dir: "{home}/nats" }}\n'
    )
    bus = start("nats-server", "-c", str(home / "nats.conf"), log="nats.log")
    start("redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(home), log="redis.log")
    wait_for(nats), wait_for(redis)
    env = os.environ | {
        "ONCUE_NATS_URL": f"nats://127.0.0.1:{nats}",
        "ONCUE_REDIS_URL": f"redis://127.0.0.1:{redis}",
        "ONCUE_GATEWAY_LISTEN": f"127.0.0.1:{gateway}",
        "ONCUE_CONSOLE_LISTEN": f"127.0.0.1:{console}",
        "ONCUE_CONFIG": str(home / "oncue.toml"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    up = start(str(home / "oncue"), "up", "--bin", str(home), "--data", str(home / ".oncue"), env=env, log="up.log")
    for _ in range(6000):
        if "ready in" in (work / "up.log").read_text():
            return nats, monitor, redis, bus, up
        if up.poll() is not None:
            break
        time.sleep(0.02)
    sys.exit("oncue up did not get ready:\n" + (work / "up.log").read_text()[-3000:])


def cost(monitor, bus, up, seconds, meanwhile):
    def look():
        counts = json.load(urllib.request.urlopen(f"http://127.0.0.1:{monitor}/varz"))
        fields = [counts[name] for name in ("in_msgs", "out_msgs", "in_bytes", "out_bytes")]
        return [*fields, cpu_seconds(bus.pid), cpu_seconds(up.pid), time.monotonic()]

    before = look()
    meanwhile(time.monotonic() + seconds)
    *counts, nats, own, took = (b - a for a, b in zip(before, look()))
    requests, answers, asked, answered = (n / took for n in counts)
    return (
        f"{requests:.1f} messages/s ({asked:.0f} B/s) in and {answers:.1f} ({answered:.0f} B/s) out, "
        f"nats-server {nats / took * 100:.2f} % of a core, oncue up {own / took * 100:.2f} %"
    )


def asleep(functions=200, seconds=60):
    names = [f"sleeper-{n}" for n in range(functions)]
    nats, monitor, _, bus, up = house(names, 'min = 0')
    time.sleep(10)
    quiet = lambda end: time.sleep(end - time.monotonic())

    def busy(end):
        while time.monotonic() < end:
            publish(nats, "web.page.milestone", '{"page":"/","views":10}')
            time.sleep(0.1)

    print(f"{functions} asleep, quiet: {cost(monitor, bus, up, seconds, quiet)}")
    print(f"{functions} asleep, 10 other events/s in their stream: {cost(monitor, bus, up, seconds, busy)}")
    if "woken" in (work / "up.log").read_text():
        sys.exit("somebody did not sleep")
    end(up)


def wake(rounds=11):
    nats, _, redis, _, up = house(["sleeper"], 'min = 0\nidle = "1s"')
    took = []
    for n in range(rounds):
        while (work / "up.log").read_text().count("workers, asleep") < n:
            time.sleep(0.05)
        time.sleep(0.5)
        begin = time.monotonic()
        publish(nats, "web.page.viewed", f'{{"page":"/{n}"}}')
        while f":s:namesakes:/{n}\r" not in talk(redis, "KEYS *:s:*\r\nPING\r\n", b"PONG"):
            time.sleep(0.001)
        took.append((time.monotonic() - begin) * 1000)
    took.sort()
    print(f"asleep to first commit: {statistics.median(took):.0f} ms ({took[0]:.0f} to {took[-1]:.0f})")
    end(up)


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


PARTS = ("count-views", "nats-server", "redis-server")


def applied(monitor):
    """Events that the function is done with."""
    page = json.load(urllib.request.urlopen(f"http://127.0.0.1:{monitor}/jsz?accounts=1&streams=1&consumers=1"))
    streams = [stream for account in page["account_details"] for stream in account.get("stream_detail", [])]
    consumers = [one for stream in streams for one in stream.get("consumer_detail") or []]
    return max((one["ack_floor"]["stream_seq"] for one in consumers if "count-views" in one["name"]), default=0)


def locked(flag, events):
    """Events a second, and CPU for each in microseconds, in all and of each of `PARTS`, on servers that `oncue up FLAG` starts."""
    home = pathlib.Path(tempfile.mkdtemp(dir=work))
    nats, monitor, redis, gateway, console = (free_port() for _ in range(5))
    (home / "oncue.toml").write_text('[app]\nname = "measure"\n[functions.count-views]\nmin = 1\nmax = 1\n')
    env = os.environ | {
        "ONCUE_NATS_URL": f"nats://127.0.0.1:{nats}",
        "ONCUE_NATS_MONITOR": f"127.0.0.1:{monitor}",
        "ONCUE_REDIS_URL": f"redis://127.0.0.1:{redis}",
        "ONCUE_GATEWAY_LISTEN": f"127.0.0.1:{gateway}",
        "ONCUE_CONSOLE_LISTEN": f"127.0.0.1:{console}",
        "ONCUE_CONFIG": str(home / "oncue.toml"),
        "OTEL_SDK_DISABLED": "true",
    }
    log = f"{home.name}.log"
    up = start(str(binaries / "oncue"), "up", "--data", str(home / ".oncue"), *flag, env=env, log=log)
    for _ in range(6000):
        if "ready in" in (work / log).read_text():
            break
        if up.poll() is not None:
            sys.exit("oncue up did not get ready:\n" + (work / log).read_text()[-3000:])
        time.sleep(0.02)
    family = subprocess.run(["pgrep", "-P", str(up.pid)], capture_output=True, text=True, check=True).stdout.split()
    parts = {pid: pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0].rsplit("/", 1)[-1].split()[0] for pid in family}
    measured = [pid for pid, name in parts.items() if name in PARTS]
    if len(measured) != 3:
        sys.exit(f"not all are there: {parts}")
    views = []
    for n in range(events):
        payload = f'{{"page":"/{n % 100}","visitor":"{n}"}}'
        views.append(f"PUB web.page.viewed {len(payload)}\r\n{payload}\r\n")
    before, began = [cpu_seconds(pid) for pid in measured], time.monotonic()
    talk(nats, 'CONNECT {"verbose":false}\r\n' + "".join(views) + "PING\r\n", b"PONG")
    while applied(monitor) < events:
        time.sleep(0.05)
    took = time.monotonic() - began
    cpu = {parts[pid]: (cpu_seconds(pid) - was) / events * 1e6 for pid, was in zip(measured, before)}
    end(up)
    return [events / took, sum(cpu.values()), *(cpu[name] for name in PARTS)]


def locks(rounds=5, events=60_000):
    found = {"--unlocked": [], "": []}
    for n in range(rounds):
        for flag in sorted(found, reverse=n % 2 == 1):
            found[flag].append(locked([flag] if flag else [], events))
    pairs = list(zip(found[""], found["--unlocked"]))
    for at, name in enumerate(("events/s", "us of CPU an event", *(f"us of {name}" for name in PARTS))):
        ratios = sorted(locked[at] / unlocked[at] for locked, unlocked in pairs)
        middle = [statistics.median(one[at] for one in found[flag]) for flag in ("", "--unlocked")]
        print(
            f"locks: {middle[0]:.0f} of {middle[1]:.0f} {name}, "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) of open servers"
        )


try:
    if "locks" in sys.argv[1:] or len(sys.argv) == 1:
        locks()
    if "up" in sys.argv[1:] or len(sys.argv) == 1:
        up()
    if "workers" in sys.argv[1:] or len(sys.argv) == 1:
        workers()
    if "asleep" in sys.argv[1:] or len(sys.argv) == 1:
        wake()
        asleep()
finally:
    for child in reversed(children):
        end(child)
    shutil.rmtree(work, ignore_errors=True)
