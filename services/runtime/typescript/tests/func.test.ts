/** Functions and runs: what is said of a function, and what an answer holds. */

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Context } from "oncue";
import { Reject, delayed, func, reject, row } from "oncue";
import { call, context } from "oncue/testing";

import type { OrderPlaced } from "../gen/app_pb.js";
import { OrderBilledSchema, OrderPlacedSchema } from "../gen/app_pb.js";
import { funcOf } from "../node_modules/oncue/dist/func.js";
import { Work } from "../node_modules/oncue/dist/serve.js";
import type { Run } from "../node_modules/oncue/dist/wire.js";
import { emptyEvent } from "../node_modules/oncue/dist/wire.js";

/** As the host's own tests have it. */
const IDEMPOTENCY_KEY = "zb1yNyDiQ4aLcfR7Jg8xTQ";

const orders = row("orders", { count: 0, seen: [] as string[] });

const bill = func(
  "bill",
  { on: OrderPlacedSchema, row: orders, emits: OrderBilledSchema, version: "1.2.3", timeout: 50, changes: ["totals"] },
  (order, row, context) => {
    row.count += 1;
    row.seen.push(order.order);
    context.add("totals", "cents", order.cents);
    switch (order.order) {
      case "bad":
        throw reject("no such order");
      case "fails":
        throw new TypeError("later");
      case "slow":
        return new Promise<void>((done) => setTimeout(done, 5000).unref()).then(() => {
          row.count = 99;
        });
      case "later":
        return delayed(create(OrderBilledSchema, { order: order.order }), 1500);
      default:
        return order.cents > 0n ? [create(OrderBilledSchema, { order: order.order, cents: order.cents })] : undefined;
    }
  },
);

const shorten = func(
  "shorten",
  { on: OrderPlacedSchema, emits: OrderBilledSchema, files: "write" },
  async (order, _, { files }) => {
    const text = (await files.read(order.order, 16)) ?? Buffer.alloc(0);
    const stored = await files.put(`${order.order}-short`, [text.subarray(0, 2), text.subarray(2, 4)], { of: order.order });
    assert.deepEqual(await files.stat(stored.name), stored);
    assert.equal(await files.open("none"), undefined);
    await files.delete("old");
    return create(OrderBilledSchema, { order: stored.metadata["of"] ?? "", cents: BigInt(stored.size) });
  },
);

function placed(order: string, cents = 0n): OrderPlaced {
  return create(OrderPlacedSchema, { order, cents });
}

/** Works off a run as the child does. */
async function run(events: (OrderPlaced | Buffer)[], fields: Record<string, string> = {}, check = false): Promise<Work> {
  const made: Run = {
    number: 7,
    key: "k",
    rowVersion: 1,
    fields: new Map(Object.entries(fields).map(([name, value]) => [name, Buffer.from(value)])),
    events: events.map((event, at) => ({
      ...emptyEvent(),
      id: `e${at}`,
      type: "shop.order.placed",
      payload: Buffer.isBuffer(event) ? event : Buffer.from(toBinary(OrderPlacedSchema, event)),
      attempt: 1,
      timeoutMs: 50,
    })),
    check,
    dryRun: false,
  };
  const work = new Work(funcOf(bill), made, () => {}, () => Promise.reject(new Error("no files")));
  await work.all();
  return work;
}

function set(work: Work): Record<string, string> {
  return Object.fromEntries([...work.changes().set].map(([name, value]) => [name, value.toString()]));
}

test("files are used as declared", async () => {
  const outcome = await call(shorten, placed("a"), undefined, { files: { a: Buffer.from("0123456789"), old: Buffer.alloc(0) } });
  assert.deepEqual([...outcome.files.keys()], ["a", "a-short"]);
  assert.equal(Buffer.from(outcome.files.get("a-short")!).toString(), "0123");
  assert.deepEqual(outcome.events, [create(OrderBilledSchema, { order: "a", cents: 4n })]);
  await assert.rejects(call(shorten, placed("a"), undefined, { files: { a: Buffer.alloc(20) } }), /more than the 16 allowed/);
  const undeclared = context(bill).files.stat("a");
  await assert.rejects(undeclared, /bill does not declare that it reads files: add files: "read"/);
  assert.equal(funcOf(shorten).manifest().files, 2);
});

test("what is said of a function is its manifest", () => {
  const of = funcOf(bill);
  const manifest = of.manifest();
  assert.deepEqual([manifest.triggers, manifest.emits], [["shop.order.placed"], ["shop.order.billed"]]);
  assert.deepEqual([manifest.table, manifest.version, manifest.timeoutMs], ["orders", "1.2.3", 50]);
  const files = fromBinary(FileDescriptorSetSchema, of.contract()).file.map((file) => file.name);
  assert.deepEqual(files, ["google/protobuf/descriptor.proto", "oncue/v1/event.proto", "app.proto"]);
});

test("a table that is not declared is not changed", () => {
  assert.deepEqual(funcOf(bill).manifest().changes, ["totals"]);
  assert.throws(() => context(bill).add("others", "cents", 1), /bill does not declare .* "others": add changes: \["others"\]/);
});

test("a run is one change of the row", async () => {
  const work = await run([placed("a", 2n ** 53n + 1n), placed("b")], { count: "5" });
  assert.deepEqual(set(work), { count: "7", seen: '["a","b"]' });
  const [first, second] = work.outcomes;
  assert.equal(fromBinary(OrderBilledSchema, first!.outputs[0]!.payload).cents, 2n ** 53n + 1n);
  assert.deepEqual(first!.operations, [{ table: "totals", kind: "add", field: "cents", by: 2n ** 53n + 1n }]);
  assert.equal(second!.outputs.length, 0);
});

test("an event that fails leaves the row as it was", async () => {
  const work = await run(["a", "fails", "b", "bad", "slow", "c"].map((name) => placed(name)));
  assert.deepEqual(set(work), { count: "3", seen: '["a","b","c"]' });
  const failures = work.outcomes.map((outcome) => outcome.failure);
  assert.deepEqual(
    failures.map((failure) => failure && [failure.rejected, failure.class, failure.text]),
    [
      undefined,
      [false, "TypeError", "TypeError: later"],
      undefined,
      [true, "rejected", "no such order"],
      [false, "timeout", "still running after 50 ms"],
      undefined,
    ],
  );
  assert.match(failures[3]!.place, /tests\/func\.test\.ts:\d+$/);
});

test("a run of failures changes nothing", async () => {
  const work = await run([placed("fails")], { count: "5" });
  assert.deepEqual(work.changes(), { set: new Map(), deleted: [] });
});

test("what cannot be decoded is rejected as that", async () => {
  const work = await run([Buffer.from([255, 255]), placed("a")]);
  assert.equal(work.outcomes[0]!.failure?.class, "decode");
  assert.equal(set(work)["count"], "1");
});

test("a row that cannot be read fails the run", async () => {
  const work = await run([placed("a")], { count: "many" });
  assert.equal(work.rowFailure, 'field count: "many" is no number');
  assert.equal(work.outcomes.length, 0);
});

test("a check runs nothing", async () => {
  const work = await run([placed("bad"), Buffer.from([255])], { count: "5" }, true);
  assert.deepEqual(
    work.outcomes.map((outcome) => outcome.failure?.class),
    [undefined, "decode"],
  );
  assert.deepEqual(set(work), {});
});

test("delays are in milliseconds", async () => {
  const work = await run([placed("later")]);
  assert.equal(work.outcomes[0]!.outputs[0]!.delayMs, 1500);
});

test("the kit runs a function", async () => {
  const outcome = await call(bill, placed("a", 3n), { count: 1, seen: [] });
  assert.deepEqual(outcome.events, [create(OrderBilledSchema, { order: "a", cents: 3n })]);
  assert.equal(outcome.row.count, 2);
  assert.deepEqual(outcome.operations, [{ table: "totals", kind: "add", field: "cents", by: 3n }]);
  await assert.rejects(call(bill, placed("bad")), Reject);
});

test("a result that `emits` does not name is rejected", async () => {
  const silent = func("silent", { on: OrderPlacedSchema }, (() => create(OrderBilledSchema)) as unknown as () => undefined);
  await assert.rejects(call(silent, placed("a")), /`emits` does not name/);
});

test("a message that is no event is refused", () => {
  assert.throws(() => func("files", { on: FileDescriptorSetSchema }, () => {}), /no event of the contract/);
});

test("idempotency keys are those of every language", () => {
  assert.equal(context(bill, { id: "e1" }).idempotencyKey("charge"), IDEMPOTENCY_KEY);
});

test("the own row is not changed behind the handler's back", () => {
  const surroundings: Context = context(bill);
  assert.throws(() => surroundings.add("orders", "count", 1), Reject);
});
