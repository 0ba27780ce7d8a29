/** Apps in process: functions on each other's events, over `oncue-host --testing`. */

import { create } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import assert from "node:assert/strict";
import { test } from "node:test";
import { delayed, func, reject, row } from "oncue";
import { App, AppError, luck } from "oncue/testing";

import type { OrderPlaced } from "../gen/app_pb.js";
import { OrderBilledSchema, OrderPlacedSchema } from "../gen/app_pb.js";

const HOUR = 3_600_000;

const sales = row("sales", { orders: 0, cents: 0n });

const tax = func("tax", { on: OrderPlacedSchema, emits: OrderBilledSchema }, (order, _, context) => {
  if (order.order === "bad") throw reject("no such order");
  if (order.order === "flaky" && context.attempt < 3) throw new TypeError("not yet");
  const billed = create(OrderBilledSchema, { order: order.order, cents: order.cents * 2n });
  return order.order === "later" ? delayed(billed, HOUR) : billed;
});

const count = func("count", { on: OrderBilledSchema, row: sales, changes: ["totals"] }, async (billed, row, context) => {
  await new Promise((done) => setImmediate(done));
  row.orders += 1;
  row.cents += billed.cents;
  context.add("totals", "cents", billed.cents);
});

const tick = func("tick", { changes: ["ticks"] }, (_, __, context) => {
  context.setAdd("ticks", context.time.toISOString());
});

const shorten = func("shorten", { on: OrderPlacedSchema, emits: OrderBilledSchema, files: "write" }, async (order, _, { files }) => {
  const text = (await files.read(order.order, 16)) ?? Buffer.alloc(0);
  await files.put(`${order.order}-short`, [text.subarray(0, 2), text.subarray(2, 4)]);
  return create(OrderBilledSchema, { order: order.order, cents: BigInt(text.length) });
});

/** What a process keeps between events, which nobody promises it may. */
let seen = 0n;
const remember = func("remember", { on: OrderPlacedSchema, emits: OrderBilledSchema }, (order) => {
  seen += 1n;
  return create(OrderBilledSchema, { order: order.order, cents: seen });
});

function placed(order: string, cents = 5n): OrderPlaced {
  return create(OrderPlacedSchema, { order, cents });
}

test("events go from function to function", async () => {
  const app = await App.of(tax, count);
  await app.publish(placed("o1"));
  await app.publish(placed("o1", 1n));
  assert.equal(await app.row(sales, "o1"), undefined, "nothing happens by publishing");
  await app.settle();
  assert.deepEqual(await app.row(sales, "o1"), { orders: 2, cents: 12n });
  assert.deepEqual(await app.state("totals", "o1"), { cents: 12 });
  assert.deepEqual((await app.events(OrderBilledSchema)).map((billed) => billed.cents), [10n, 2n]);
  assert.deepEqual(await app.deadLetters(), []);
  assert.ok((await app.journal()).some((line) => line.includes("tax")));
  await app.close();
});

test("failures are tried again, and rejections are dead letters", async () => {
  const app = await App.of(tax, count);
  await app.publish(placed("flaky"));
  await app.publish(placed("bad"));
  await app.settle();
  assert.deepEqual(await app.row(sales, "flaky"), { orders: 1, cents: 10n });
  const [letter, ...others] = await app.deadLetters();
  assert.deepEqual(others, []);
  assert.deepEqual([letter?.function, letter?.reason, letter?.key, letter?.eventType], ["tax", "rejected", "bad", "shop.order.placed"]);
  assert.match(letter?.place ?? "", /tests\/app\.test\.ts:\d+/);
  await app.close();
});

test("time passes when it is told to", async () => {
  const app = await App.of(tax, count, tick);
  const begin = await app.time();
  await app.every(HOUR / 3, tick);
  await app.publish(placed("later"));
  await app.advance(HOUR - 1000);
  assert.equal(await app.row(sales, "later"), undefined);
  const ticks = (await app.state("ticks", "")) as { members: string[] };
  assert.equal(ticks.members.length, 2);
  await app.advance(1000);
  assert.deepEqual(await app.row(sales, "later"), { orders: 1, cents: 10n });
  assert.equal((await app.time()).getTime() - begin.getTime(), HOUR);
  await app.close();
});

test("files are those of the app", async () => {
  const app = await App.of(shorten);
  await app.putFile("o1", Buffer.from("abcdef"));
  await app.publish(placed("o1"));
  await app.settle();
  assert.equal((await app.file("o1-short"))?.toString(), "abcd");
  assert.equal((await app.events(OrderBilledSchema))[0]?.cents, 6n);
  assert.equal(await app.file("none"), undefined);
  await app.close();
});

test("what cannot be is said", async () => {
  const app = await App.of(count);
  await assert.rejects(app.publish(create(FileDescriptorSetSchema, {})), /FileDescriptorSet/);
  await assert.rejects(app.publish(create(OrderBilledSchema, {})), /key/);
  await assert.rejects(app.every(1500, create(OrderBilledSchema, { order: "o1" })), /whole seconds/);
  await assert.rejects(app.state("nosuch", "o1"), (e: Error) => /no function of this app has a table nosuch/.test(e.message) && /app\.test\.ts/.test(e.stack ?? ""));
  await app.close();
  await assert.rejects(app.settle(), (e: Error) => e instanceof AppError && e.message === "the app is closed");
  await assert.rejects(App.of(count, count), /two functions count/);
  await assert.rejects(App.of(() => {}), /func\(\)/);
  await assert.rejects(App.of(), /an app has functions/);
  await assert.rejects(luck(tax as unknown as object[], async () => {}), /a list of handlers/);
  await assert.rejects(luck([tax], async () => {}, { seeds: [5, 5] }), /plays nothing/);
  assert.throws(() => func("wrong-key", { on: OrderPlacedSchema, key: "custmer" }, () => {}), /no field of text "custmer".*it has order/);
  assert.throws(() => func("Wrong Name", { on: OrderPlacedSchema }, () => {}), /no name of a function/);
});

test("an act that nobody understands is said to be one", async () => {
  const app = await App.of(tax, count);
  await assert.rejects(app.advance(-1), /advance/);
  await assert.rejects(app.row(sales, 5 as unknown as string), /row/);
  await assert.rejects(app.every(HOUR, count), /no function without an event/);
  await app.publish(placed("o1"));
  await app.settle();
  assert.equal((await app.events(OrderBilledSchema)).length, 1);
  await app.close();
});

test("timers of a test do not stop the app", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setImmediate", "Date"] });
  const app = await App.of(tax);
  await app.publish(placed("o1"));
  await app.settle();
  assert.equal((await app.events(OrderBilledSchema)).length, 1);
  await app.close();
});

test("whatever is thrown is a failed attempt", async () => {
  const thrown: unknown[] = ["text", Object.create(null), { toString: () => { throw new Error("no text"); } }, Object.assign(new Error("numbered"), { name: 5 })];
  for (const what of thrown) {
    const odd = func("odd", { on: OrderPlacedSchema, attempts: 2 }, () => { throw what; });
    const app = await App.of(odd);
    await app.publish(placed("o1"));
    await app.settle();
    const [letter] = await app.deadLetters();
    assert.equal(letter?.reason, "attempts");
    await app.close();
  }
});

test("a handler observes, and uses nothing else of its app", async () => {
  let app: App;
  const inside = func("inside", { on: OrderPlacedSchema, attempts: 2 }, async (order) => {
    await app.observe("called", order.order);
    if (order.order === "more") await app.publish(placed("o9"));
  });
  app = await App.of(inside);
  await app.publish(placed("o1"));
  await app.settle();
  assert.deepEqual(await app.deadLetters(), []);
  await app.publish(placed("more"));
  await app.settle();
  assert.match((await app.deadLetters())[0]?.message ?? "", /the app is at work/);
  await app.close();
});

test("at most once is that of a worker", async () => {
  const once = func("once", { on: OrderPlacedSchema, atMostOnce: true }, () => { throw new Error("card refused"); });
  const app = await App.of(once);
  await app.publish(placed("o1"));
  await app.settle();
  const [letter] = await app.deadLetters();
  assert.deepEqual([letter?.reason, letter?.message], ["attempts", "Error: card refused"]);
  await app.close();
});

test("files of many megabytes come and go", async () => {
  const app = await App.of(shorten);
  const content = Buffer.alloc(8 << 20, 7);
  await app.putFile("large", content);
  assert.ok((await app.file("large"))?.equals(content));
  await app.close();
});

test("rows and events are the same whatever the luck", async () => {
  const tally = await luck(
    [tax, count],
    async (app) => {
      for (const order of ["o1", "o2", "o1", "bad"]) await app.publish(placed(order));
      await app.settle();
    },
    { seeds: [0, 60] },
  );
  assert.equal(tally.runs, 60);
  for (const brought of [tally.crashes, tally.redeliveries, tally.copies, tally.switches]) assert.ok(brought > 0);
});

test("what a process remembers is found", async () => {
  const play = luck([remember], async (app) => {
    seen = 0n;
    for (const order of ["o1", "o2", "o3"]) await app.publish(placed(order));
    await app.settle();
  });
  await assert.rejects(play, (e: Error) => e instanceof assert.AssertionError && /seed/.test(e.message) && /remember, worker/.test(e.message));
});

test("a scenario that fails fails as it is", async () => {
  const play = luck([tax], async (app) => {
    await app.publish(placed("o1"));
    await app.settle();
    assert.deepEqual(await app.events(OrderBilledSchema), []);
  });
  await assert.rejects(play, assert.AssertionError);
});

test("what the scenario itself keeps, and a long list that differs at its end, are told", async () => {
  let plays = 0;
  const keeps = luck([tax], async (app) => {
    await app.publish(placed("o1"));
    await app.settle();
    assert.equal((plays += 1), 1);
  });
  await assert.rejects(keeps, /keeps state from run to run/);
  let number = 0;
  const differs = luck([tax], async (app) => {
    number += 1;
    await app.publish(placed("o1"));
    await app.settle();
    await app.observe("list", [...Array(150).fill(0), number]);
  });
  await assert.rejects(differs, /asks the clock or chance/);
});

test("an app that is not closed holds nobody up", async () => {
  await App.of(tax);
});
