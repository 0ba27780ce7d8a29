/** The child's end of the protocol: what goes into frames, and what becomes of what is printed. */

import { create, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { test } from "node:test";
import { delayed, func, row } from "oncue";

import { OrderBilledSchema, OrderPlacedSchema } from "../gen/app_pb.js";
import { funcOf } from "../node_modules/oncue/dist/func.js";
import { Lines, Server, Work } from "../node_modules/oncue/dist/serve.js";
import type { Run } from "../node_modules/oncue/dist/wire.js";
import { Reader, Writer, emptyEvent } from "../node_modules/oncue/dist/wire.js";

const MAX_FRAME = 32 << 10;
const MAX_LINE = 16 << 10;

const kept = row("kept", { text: "" });

/** Emits, keeps or throws as much as its event says. */
const much = func("much", { on: OrderPlacedSchema, row: kept, emits: OrderBilledSchema }, (order, row) => {
  const size = Number(order.cents);
  if (order.order === "throw") throw new RangeError("x".repeat(size));
  row.text = order.order === "keep" ? "x".repeat(size) : order.order;
  return order.order === "emit" ? create(OrderBilledSchema, { order: "x".repeat(size) }) : undefined;
});

function run(...orders: [string, number][]): Run {
  const events = orders.map(([order, size]) => ({
    ...emptyEvent(),
    type: "shop.order.placed",
    payload: Buffer.from(toBinary(OrderPlacedSchema, create(OrderPlacedSchema, { order, cents: BigInt(size) }))),
    timeoutMs: 1000,
  }));
  return { number: 7, key: "k", rowVersion: 1, fields: new Map(), events, check: false, dryRun: false };
}

/** Fields of a message, with their contents where they have a length. */
function fields(message: Reader): [number, Reader | number][] {
  const found: [number, Reader | number][] = [];
  for (let tag = message.tag(); tag !== 0; tag = message.tag()) {
    found.push([tag >>> 3, (tag & 7) === 2 ? message.message() : message.varint()]);
  }
  return found;
}

/** Results in the frames of an answer: how many events, whether a row is changed, whether more follow. */
function results(frames: Buffer[]): { events: number; row: boolean; more: boolean }[] {
  const answers = frames.flatMap((frame) => fields(new Reader(frame.subarray(4))).map(([, answer]) => answer as Reader));
  const found = answers.flatMap((answer) => fields(answer).map(([, result]) => fields(result as Reader)));
  return found.map((result) => ({
    events: result.filter(([field]) => field === 4).length,
    row: result.some(([field]) => field === 2),
    more: result.some(([field]) => field === 6),
  }));
}

/** Frames with which a server answers a run. */
async function answered(run: Run): Promise<Buffer[]> {
  const frames: Buffer[] = [];
  return new Promise((done) => {
    const send = (bytes: Buffer): void => void frames.push(Buffer.from(bytes));
    const server = new Server(funcOf(much), { send, end: () => done(frames) });
    server.take({ kind: "welcome", features: [], maxFrame: MAX_FRAME });
    server.take({ kind: "invoke", runs: [run] });
    server.take({ kind: "drain" });
  });
}

test("answers of a run that fit no frame come in several", async () => {
  const orders = Array.from({ length: 24 }, (): [string, number] => ["emit", 2000]);
  for (const more of [[], [["keep", 20_000]]] as [string, number][][]) {
    const frames = await answered(run(...orders, ...more));
    assert.ok(frames.length > 1);
    for (const frame of frames) assert.ok(frame.length - 4 <= MAX_FRAME, `${frame.length}`);
    const parts = results(frames);
    assert.equal(parts.reduce((sum, part) => sum + part.events, 0), orders.length + more.length);
    assert.deepEqual(parts.map((part) => part.more), [...parts.slice(1).map(() => true), false]);
    assert.deepEqual(parts.map((part) => part.row), [...parts.slice(1).map(() => false), true]);
  }
});

test("what fits no frame is a rejection of its event", async () => {
  const work = new Work(funcOf(much), run(["first", 0], ["keep", 5000], ["emit", 5000], ["last", 0]), () => {}, () => Promise.reject(), 4000);
  await work.all();
  const [first, keep, emit, last] = work.outcomes.map((outcome) => outcome.failure);
  assert.deepEqual([first, last], [undefined, undefined]);
  assert.deepEqual([keep?.rejected, emit?.rejected], [true, true]);
  assert.match(keep?.text ?? "", /^the row has 5\d\d\d bytes, .* at most 4000/);
  assert.match(emit?.text ?? "", /^the events that follow have 5\d\d\d bytes, .* at most 4000/);
  assert.equal(work.changes().set.get("text")?.toString(), "last");
});

test("texts of failures are cut", async () => {
  const work = new Work(funcOf(much), run(["throw", 17_000_000]), () => {}, () => Promise.reject());
  await work.all();
  assert.match(work.outcomes[0]?.failure?.text ?? "", /^RangeError: x+\.\.\.$/);
  assert.equal(work.outcomes[0]?.failure?.text.length, 4096 + 3);
});

test("a line ends where a terminal begins another", () => {
  const said: string[] = [];
  const lines = new Lines((line) => said.push(line));
  lines.write("a\nb\rc\r\nd");
  assert.deepEqual(said, ["a", "b", "c"]);
  for (const percent of [0, 1, 2]) lines.write(`\r${percent}`);
  assert.deepEqual(said.slice(3), ["d", "0", "1"]);
  lines.end();
  lines.end();
  assert.deepEqual(said.slice(6), ["2"]);
});

test("text that has no end is not kept for ever", () => {
  const said: string[] = [];
  const lines = new Lines((line) => said.push(line));
  for (let n = 0; n <= MAX_LINE; n++) lines.write("x");
  assert.deepEqual(said, ["x".repeat(MAX_LINE)]);
  lines.end();
  assert.deepEqual(said.slice(1), ["x"]);
  lines.write("x".repeat(3 * MAX_LINE));
  lines.write("\n");
  // More than is logged, so that it is seen to be cut.
  assert.deepEqual(said.slice(2).map((line) => line.length), [MAX_LINE + 1]);
});

test("a delay is from now to ten years", () => {
  const billed = create(OrderBilledSchema, {});
  for (const ms of [0, 0.5, 3650 * 86_400_000]) assert.equal(delayed(billed, ms).ms, ms);
  for (const ms of [-1, NaN, Infinity, 3651 * 86_400_000]) assert.throws(() => delayed(billed, ms), RangeError);
});

test("a number that is no count is refused, and not written for ever", () => {
  for (const value of [Infinity, NaN, -1, 2 ** 64]) assert.throws(() => new Writer().number(1, value), RangeError);
});
