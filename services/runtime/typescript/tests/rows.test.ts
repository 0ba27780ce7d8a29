/** Rows as they are stored: the form that every language shares. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { RowError, maybe, row } from "oncue";

const all = row("all", {
  text: "",
  count: 0,
  large: 0n,
  is: false,
  last: maybe(""),
  list: [] as number[],
  nested: { a: 0 } as Record<string, number>,
  bytes: new Uint8Array(),
});

function fields(texts: Record<string, string>): Map<string, Buffer> {
  return new Map(Object.entries(texts).map(([name, text]) => [name, Buffer.from(text)]));
}

function texts(fields: Map<string, Buffer>): Record<string, string> {
  return Object.fromEntries([...fields].map(([name, value]) => [name, value.toString()]));
}

test("a row is written as it was read", () => {
  const stored = {
    text: "ü\n\"7\"",
    count: "-1.5",
    large: "9223372036854775807",
    is: "true",
    last: "",
    list: "[1,2,1e21]",
    nested: '{"b":1,"a":null}',
    bytes: "[0,255]",
  };
  const read = all.open(fields(stored), 1);
  assert.equal(read.large, 2n ** 63n - 1n);
  assert.deepEqual([...read.bytes], [0, 255]);
  assert.deepEqual(texts(all.fields(read)), stored);
});

test("what is absent begins, and null is absent", () => {
  const read = all.open(new Map(), 1);
  assert.deepEqual([read.text, read.count, read.large, read.is, read.last], ["", 0, 0n, false, null]);
  read.list.push(1);
  assert.deepEqual(all.begin().list, [], "a row has a list of its own");
  const now = all.fields({ ...read, last: null });
  assert.ok(!now.has("last"));
  const { set, deleted } = all.changes(now, fields({ last: "x", foreign: "y", count: "0" }), 1);
  assert.deepEqual(deleted, ["last"], "a field of somebody else's stays");
  assert.ok(!set.has("count"), "unchanged");
});

test("what cannot be read or written says its field", () => {
  for (const [name, text, words] of [
    ["count", "9007199254740993", "begin the field as a bigint"],
    ["count", "", "is no number"],
    ["count", "0x10", "is no number"],
    ["large", "1.5", "is no whole number"],
    ["is", "1", "neither true nor false"],
    ["list", "{}", "is no list"],
    ["nested", "[]", "is no object"],
    ["nested", "{", "JSON"],
  ] as const) {
    assert.throws(
      () => all.open(fields({ [name]: text }), 1),
      (e) => e instanceof RowError && e.message.startsWith(`field ${name}: `) && e.message.includes(words),
      `${name} ${text}`,
    );
  }
  for (const [name, value] of [
    ["count", Number.NaN],
    ["count", 2 ** 60],
    ["count", 1n],
    ["text", 7],
    ["other", 7],
    ["nested", { a: 1n }],
  ] as const) {
    const odd = { ...all.begin(), [name]: value } as never;
    assert.throws(() => all.fields(odd), (e) => e instanceof RowError && e.message.startsWith(`field ${name}: `));
  }
});

test("a number may be infinite, as the least is of what has not come yet", () => {
  for (const value of [Infinity, -Infinity]) {
    const stored = all.fields({ ...all.begin(), count: value });
    assert.equal(new TextDecoder().decode(stored.get("count")), String(value));
    assert.equal(all.open(stored, 1).count, value);
  }
});

test("an older row is upgraded, and what that took away is deleted", () => {
  const pages = row("pages", { views: 0n }, {
    version: 2,
    upgrade(version, fields) {
      assert.equal(version, 1);
      fields["views"] = fields["hits"] ?? "0";
      delete fields["hits"];
    },
  });
  const read = fields({ hits: "7", foreign: "x" });
  const page = pages.open(read, 1);
  assert.equal(page.views, 7n);
  const { set, deleted } = pages.changes(pages.fields(page), read, 1);
  assert.deepEqual([texts(set), deleted], [{ views: "7" }, ["hits"]]);
});

test("defaults that say nothing are refused", () => {
  assert.throws(() => row("t", { a: null }), /maybe/);
  assert.throws(() => row("T", {}), /no name of a table/);
  assert.throws(() => row("t", {}, { version: 2 }), /upgrade/);
});

test("what would come back as something else is refused", () => {
  assert.throws(() => row("t", { seen: { ids: new Set<string>() } }), /a field of their own/);
  assert.throws(() => row("t", { seen: maybe([new Map<string, number>()]) }), /a field of their own/);
  const hours = row("t", { hours: new Map<unknown, number>() });
  const now = hours.open(new Map(), 1);
  now.hours.set(9, 1);
  assert.throws(() => hours.fields(now), /use text for keys/);
});

test("fields of somebody else's stay, whatever they are called", () => {
  const read = fields({ constructor: "x", toString: "y", count: "1" });
  const { deleted } = all.changes(all.fields(all.open(read, 1)), read, 1);
  assert.deepEqual(deleted, []);
});
