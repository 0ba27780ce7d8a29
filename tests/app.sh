#!/bin/sh
# Makes an app with `oncue new` in an empty folder, builds it, runs its tests, checks it, and sends an event through it.
# Argument: folder with the platform's programs. The app's own target folder stays in target/app, for the next run.
set -eu

programs=$(cd "$1" && pwd)
checkout=$(cd "$(dirname "$0")/.." && pwd)
oncue=$programs/oncue
folder=$(mktemp -d)
trap 'status=$?; if [ -n "${up:-}" ]; then kill -INT "$up" 2>/dev/null && wait "$up" 2>/dev/null; fi; rm -rf "$folder"; exit $status' EXIT INT TERM

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

cd "$folder"
"$oncue" new shop --oncue-path "$checkout"
cd shop
# The versions that are tested here.
cp "$checkout/Cargo.lock" .
export CARGO_TARGET_DIR="$checkout/target/app"
cargo test --quiet
cargo build --quiet --bins
ln -s "$CARGO_TARGET_DIR" target
"$oncue" check --static --save contract.binpb
"$oncue" test

export ONCUE_NATS_URL="nats://127.0.0.1:$(free_port)" ONCUE_REDIS_URL="redis://127.0.0.1:$(free_port)"
gateway=127.0.0.1:$(free_port)
ONCUE_GATEWAY_LISTEN=$gateway ONCUE_CONSOLE_LISTEN=127.0.0.1:$(free_port) "$oncue" up >up.log 2>&1 &
up=$!
tries=0
until curl -sf "http://$gateway/readyz" >/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { cat up.log; echo "the app does not become ready"; exit 1; }
    sleep 0.2
done
"$oncue" pub shop.order.placed '{"order":"o1","customer":"ann","cents":1000}' --wait
tries=0
until [ "$(curl -s "http://$gateway/v1/state/customers/ann")" = '{"cents":1190,"orders":1}' ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { cat up.log; echo "the order is not counted"; exit 1; }
    sleep 0.1
done
"$oncue" check
"$oncue" backup backup
kill -INT "$up" && wait "$up" 2>/dev/null || true
up=

# The same in Python, installed as its README says.
cd "$folder"
unset ONCUE_NATS_URL ONCUE_REDIS_URL
"$oncue" new pyshop --lang python --oncue-path "$checkout"
cd pyshop
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
PATH="$programs:$PATH" "$oncue" test
# And by pytest, from another folder; the plugin is found by itself.
.venv/bin/pip install --quiet --disable-pip-version-check pytest
(cd / && ONCUE_BIN_DIR="$programs" "$folder/pyshop/.venv/bin/pytest" -q "$folder/pyshop/tests")
"$oncue" test -- "$oncue" pub pyshop.order.placed '{"order":"o1","customer":"ann","cents":1000}' --wait

# And in TypeScript.
cd "$folder"
"$oncue" new tsshop --lang typescript --oncue-path "$checkout"
cd tsshop
npm install --no-audit --no-fund --loglevel=error
"$oncue" test
"$oncue" test -- "$oncue" pub tsshop.order.placed '{"order":"o1","customer":"ann","cents":1000}' --wait
# And by vitest.
npm install --no-audit --no-fund --loglevel=error --save-dev "vitest@^3.2"
mkdir -p spec
cp "$checkout/tests/vitest/shop.test.ts" spec/
ONCUE_BIN_DIR="$programs" node_modules/.bin/vitest run --dir spec
echo "apps made by oncue new run"
