/** The conformance functions in TypeScript. */

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Context, Files, RowOf } from "oncue";
import { delayed, func, maybe, reject, row } from "oncue";

import type { Answered, Asked } from "../gen/conform_pb.js";
import { AnsweredSchema, AskedSchema, UnnamedSchema } from "../gen/conform_pb.js";

const cases = row("cases", {
  count: 0,
  large: 0n,
  ratio: 0,
  flag: false,
  last: "",
  note: maybe(""),
  names: [] as string[],
});

const changes = ["members", "sums"];
/** Keys of events whose run was told that its time is over. */
const told = new Set<string>();

func("conform", { on: AskedSchema, row: cases, emits: AnsweredSchema, changes, files: "write" }, async (asked, row, context) => {
  if (["file", "large", "half", "stat", "keep"].includes(asked.what)) return ofFiles(asked, row, context.files);
  if (asked.what === "stall") write(asked, row);
  if (asked.what === "slow" || asked.what === "stall") await new Promise((done) => setTimeout(done, 60_000));
  if (asked.what === "told" && context.attempt === 1) {
    await new Promise((done) => context.signal.addEventListener("abort", done));
    told.add(asked.key);
  }
  return answer(asked, row, context);
});

function answer(asked: Asked, row: RowOf<typeof cases>, context: Context) {
  const { key, text, number } = asked;
  switch (asked.what) {
    case "echo":
      return fromBinary(AnsweredSchema, toBinary(AskedSchema, asked));
    case "many":
      return ["1", "2", "3"].map((text) => create(AnsweredSchema, { key, text }));
    case "later":
      return delayed(create(AnsweredSchema, { key, text }), 500);
    case "row":
    case "after":
    case "fail-once":
      if (asked.what === "after" && row.count === 0) throw reject("told to reject");
      if (asked.what === "fail-once" && context.attempt === 1) throw new Error("not yet");
      write(asked, row);
      return;
    case "operate":
      context.add("sums", "sum", number);
      context.setAdd("members", String(number));
      return;
    case "undeclared":
      context.add("others", "sum", number);
      return;
    case "reject":
      throw reject("told to reject");
    case "fail":
      throw new Error("told to fail");
    case "spoil":
      write(asked, row);
      throw new Error("told to fail");
    case "crash":
      return process.abort();
    case "told":
      return create(AnsweredSchema, { key, note: told.has(key) ? "told" : "not told" });
    case "unnamed":
      return create(UnnamedSchema, { key }) as unknown as Answered;
    default:
      return;
  }
}

async function ofFiles(asked: Asked, row: RowOf<typeof cases>, files: Files) {
  const { key } = asked;
  const name = `${key}/file`;
  const text = Buffer.from(asked.text);
  const third = text.length / 3;
  if (asked.what === "large") await files.read(name, 1000);
  if (asked.what === "half") await files.put(`${key}/half`, half());
  if (asked.what === "keep") {
    if (row.count > 0) await files.put(`${key}/kept`, text);
    throw reject("told to reject");
  }
  if (asked.what === "stat") {
    return create(AnsweredSchema, { key, note: (await files.stat(`${key}/half`)) ? "there" : "absent" });
  }
  const parts = [text.subarray(0, third), text.subarray(third, 2 * third), text.subarray(2 * third)];
  const stored = await files.put(name, parts, { of: "conform" });
  const read = await files.read(name, text.length);
  const opened: Uint8Array[] = [];
  for await (const part of (await files.open(name)) ?? []) opened.push(part);
  await files.put(`${name}-2`, text);
  await files.delete(`${name}-2`);
  const described = await files.stat(name);
  const isWhole = read?.equals(text) && Buffer.concat(opened).equals(text) && described?.sha256 === stored.sha256;
  const isGone = (await files.stat(`${name}-2`)) === undefined;
  const note = `${stored.size} bytes ${stored.sha256} of ${described?.metadata["of"]}, ${isWhole ? "read as stored" : "read otherwise"}, the other ${isGone ? "gone" : "there"}`;
  return create(AnsweredSchema, { key, note });
}

function* half(): Generator<Uint8Array> {
  yield Buffer.alloc(300_000);
  throw new Error("told to fail");
}

function write(asked: Asked, row: RowOf<typeof cases>): void {
  row.count += 1;
  row.large = asked.number;
  row.ratio = asked.ratio;
  row.flag = asked.flag;
  row.last = asked.text;
  row.note = asked.note ?? null;
  row.names = asked.names;
}

func("owned", { on: AskedSchema, row: row("owned", { count: 0 }), key: "owner" }, (asked, row) => {
  if (asked.owner) row.count += 1;
});

const aged = row("aged", { views: 0 }, {
  version: 2,
  upgrade(_, fields) {
    fields["views"] = fields["hits"] ?? "0";
    delete fields["hits"];
  },
});

func("aged", { on: AskedSchema, row: aged }, (_, row) => {
  row.views += 1;
});

// Heeds its own words alone: it hears those of the others as well.
func("once", { on: AskedSchema, emits: AnsweredSchema, atMostOnce: true }, ({ key, what }) => {
  if (what === "once-fail") throw new Error("told to fail");
  if (what === "once-crash") process.abort();
  return what === "once" ? create(AnsweredSchema, { key, note: "called" }) : undefined;
});
