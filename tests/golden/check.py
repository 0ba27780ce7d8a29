#!/usr/bin/env python3
"""Computes what ids.json holds from nothing but SHA-256, CRC-32 and base64, as a client in any language can."""

import base64
import hashlib
import json
import pathlib
import re
import sys
import zlib


def short_hash(*parts):
    """SHA-256 over the parts, each behind its length in 8 bytes; the first 16 bytes, base64url without padding."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "big") + part)
    return sha.digest()[:16]


def text(digest):
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def partition(key):
    return zlib.crc32(key.encode()) % 256


def subject(type, key):
    if key == "":
        return type
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key):
        return f"{type}.{key}"
    return f"{type}.{text(short_hash(key.encode()))}"


def percent(text):
    plain = lambda byte: 0x21 <= byte <= 0x7E and byte not in b'"%'
    return "".join(chr(byte) if plain(byte) else f"%{byte:02X}" for byte in text.encode())


def row_key(table, key):
    name = percent(key)
    if name.startswith("~"):
        name = "%7E" + name[1:]
    if len(name) > 256:
        name = "~" + short_hash(key.encode()).hex()
    return f"app:{{p{partition(key)}}}:s:{table}:{name}"


def keyed_hash(*parts):
    """The same behind a secret of 32 bytes and as many zeros; the secret here is 0, 1, 2 and so on."""
    sha = hashlib.sha256(bytes(range(32)) + bytes(32))
    for part in parts:
        sha.update(len(part).to_bytes(8, "big") + part)
    return sha.digest()[:16]


def output_id(input, function, index):
    return text(keyed_hash(b"output", input.encode(), function.encode(), index.to_bytes(8, "big")))


def dead_letter_id(input, function, redrives):
    return text(keyed_hash(b"dlq", function.encode(), input.encode(), redrives.to_bytes(4, "big")))


def idempotency_key(event, function, step):
    return text(short_hash(b"idempotency", event.encode(), function.encode(), step.encode()))


def runs_key(id, function):
    mark = short_hash(id.encode())
    return f"app:{{p{mark[0]}}}:r:{function}:{text(mark)}"


# What is computed, from which fields, to which field.
RULES = {
    "partition": (partition, ["key"], "partition"),
    "subject": (subject, ["type", "key"], "subject"),
    "percent": (percent, ["text"], "encoded"),
    "row_key": (row_key, ["table", "key"], "redis"),
    "output_id": (output_id, ["input", "function", "index"], "id"),
    "dead_letter_id": (dead_letter_id, ["input", "function", "redrives"], "id"),
    "idempotency_key": (idempotency_key, ["event", "function", "step"], "key"),
    "runs_key": (runs_key, ["id", "function"], "redis"),
}


def main():
    golden = json.loads(pathlib.Path(__file__).with_name("ids.json").read_text(encoding="utf-8"))
    wrong = [f"{name}: no rule" for name in golden.keys() ^ RULES.keys()]
    checked = 0
    for name, (rule, fields, result) in RULES.items():
        for case in golden[name]:
            computed = rule(*(case[field] for field in fields))
            checked += 1
            if computed != case[result]:
                wrong.append(f"{name} {case}: here it is {computed!r}")
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{checked} values agree")


if __name__ == "__main__":
    main()
