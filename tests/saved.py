#!/usr/bin/env python3
"""Measures how soon a saved line runs while events go on: `make saved`.

Makes an app with `oncue new`, runs `oncue dev`, publishes RATE (500) events a second, and changes a constant of a function
SAVES (10) times. For each: seconds from the write until the new program has begun, and until the old one has finished what
it had in hand. Afterwards every order must have counted once. The build command of the app is what its own oncue.toml says.
"""
import json, os, pathlib, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time, urllib.request

root = pathlib.Path(__file__).resolve().parent.parent
target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
oncue = target / os.environ.get("BUILD", "release") / "oncue"
rate = int(os.environ.get("RATE", "500"))
saves = int(os.environ.get("SAVES", "10"))
CUSTOMERS = 100
LIMIT = 600


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_app(folder):
    subprocess.run([oncue, "new", "shop", "--oncue-path", root], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    app = folder / "shop"
    shutil.copy(root / "Cargo.lock", app)  # the versions that are tested here
    # Built by the second time on: what the app needs stays there, as for `make app`.
    (target / "app").mkdir(exist_ok=True)
    os.symlink(target / "app", app / "target")
    return app


class Orders(threading.Thread):
    """Publishes plain messages at an even rate until it is told to end."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.sent, self.ending = 0, threading.Event()
        self.nats = socket.create_connection(("127.0.0.1", port))
        self.nats.recv(65536)
        self.nats.sendall(b'CONNECT {"verbose":false}\r\n')
        threading.Thread(target=self.pong, daemon=True).start()

    def pong(self):
        while b := self.nats.recv(65536):
            if b"PING" in b:
                self.nats.sendall(b"PONG\r\n")

    def run(self):
        began = time.monotonic()
        while not self.ending.wait(0.02):
            due, batch = int((time.monotonic() - began) * rate), b""
            while self.sent < due:
                order = {"order": f"o{self.sent}", "customer": f"c{self.sent % CUSTOMERS}", "cents": 100}
                order = json.dumps(order).encode()
                batch += b"PUB shop.order.placed %d\r\n%s\r\n" % (len(order), order)
                self.sent += 1
            self.nats.sendall(batch)


class Log:
    """What `oncue dev` says, and when it said it."""

    def __init__(self, process):
        self.lines, self.process = [], process
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    def wait(self, pattern, since=0):
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and self.process.poll() is None:
            for at, line in self.lines[since:]:
                if re.search(pattern, line):
                    return at
                if "not built" in line:
                    end = 0
            time.sleep(0.005)
        sys.exit("\n".join(line for _, line in self.lines[-40:]) + f"\n{pattern!r} was not said")


def counted(gateway):
    """Orders that the rows of all customers count."""
    orders = 0
    for n in range(CUSTOMERS):
        with urllib.request.urlopen(f"http://{gateway}/v1/state/customers/c{n}") as row:
            orders += int(json.load(row)["orders"])
    return orders


def main():
    work = pathlib.Path(tempfile.mkdtemp(prefix="oncue-saved-"))
    nats, gateway = free_port(), f"127.0.0.1:{free_port()}"
    env = os.environ | {
        "ONCUE_NATS_URL": f"nats://127.0.0.1:{nats}",
        "ONCUE_REDIS_URL": f"redis://127.0.0.1:{free_port()}",
        "ONCUE_GATEWAY_LISTEN": gateway,
        "ONCUE_CONSOLE_LISTEN": f"127.0.0.1:{free_port()}",
    }
    app = make_app(work)
    source = app / "src" / "bin" / "bill-order.rs"
    text = source.read_text()
    dev = subprocess.Popen([oncue, "dev"], cwd=app, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        log = Log(dev)
        print("building the app for the first time ...", flush=True)
        log.wait("[Rr]eady")
        orders = Orders(nats)
        orders.start()
        time.sleep(3)
        begun, finished = [], []
        for n in range(saves):
            since, saved = len(log.lines), time.monotonic()
            source.write_text(text.replace("TAX: u64 = 19", f"TAX: u64 = {20 + n}"))
            begun.append(log.wait("bill-order.* ready ", since) - saved)
            finished.append(log.wait("runs? anew", since) - saved)
            print(f"save {n + 1}: runs after {begun[-1]:.2f} s, the one before has finished after {finished[-1]:.2f} s", flush=True)
            time.sleep(3)
        orders.ending.set()
        orders.join()
        end = time.monotonic() + 60
        while (count := counted(gateway)) < orders.sent and time.monotonic() < end:
            time.sleep(0.5)
        print(f"median of {saves} beside {rate} events/s: runs after {statistics.median(begun):.2f} s, "
              f"the one before has finished after {statistics.median(finished):.2f} s")
        print(f"{orders.sent} orders sent, {count} counted")
        if count != orders.sent or orders.sent < rate * saves:
            sys.exit("an order was lost or counted twice, or too few were sent")
    finally:
        if dev.poll() is None:
            os.killpg(dev.pid, signal.SIGINT)
            dev.wait(60)
        shutil.rmtree(work)


main()
