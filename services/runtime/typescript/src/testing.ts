/**
 * For tests of functions. A handler is a plain function and can be called as one; `call` runs it as Oncue would, and says what
 * came of it; an `App` runs several on each other's events, with rows, attempts and dead letters.
 *
 *     const outcome = await call(billOrder, create(OrderPlacedSchema, { order: "o1", cents: 5n }), { orders: 1 });
 *     assert.deepEqual(outcome.events, [create(OrderBilledSchema, { order: "o1", cents: 5n })]);
 *     assert.equal(outcome.row.orders, 2);
 */

import { createHash } from "node:crypto";

import type { Message } from "@bufbuild/protobuf";

import type { Operation } from "./context.ts";
import { Context } from "./context.ts";
import type { FileAct, FileReply } from "./files.ts";
import type { Delayed } from "./func.ts";
import { flat, funcOf, reject } from "./func.ts";
import { emptyEvent } from "./wire.ts";

/** Effects of one run: events that follow, the row as it is after it, changes without a row, and files. */
export interface Outcome<R> {
  events: Message[];
  /** Events that are to happen later, with their milliseconds. */
  delayed: { event: Message; ms: number }[];
  row: R;
  operations: readonly Operation[];
  /** All files, by name. */
  files: ReadonlyMap<string, Uint8Array>;
}

/** Files in memory, by name, which reply as a host does. */
class MemoryFiles {
  private number = 0;
  private readonly metadata = new Map<string, Record<string, string>>();
  private readonly reading = new Map<number, Uint8Array[]>();
  private readonly writing = new Map<number, { name: string; metadata: Record<string, string>; parts: Uint8Array[] }>();

  constructor(readonly files: Map<string, Uint8Array>) {}

  async ask(act: FileAct): Promise<FileReply> {
    this.number += 1;
    const number = this.number;
    switch (act.kind) {
      case "stat":
        return this.describe(number, act.name);
      case "open":
        this.reading.set(number, [this.files.get(act.name)].filter((part) => part !== undefined));
        return this.describe(number, act.name);
      case "next": {
        const chunk = this.reading.get(act.opened)?.pop();
        return chunk?.length ? { number, kind: "chunk", chunk } : { number, kind: "done" };
      }
      case "create":
        this.writing.set(number, { name: act.name, metadata: act.metadata, parts: [] });
        return { number, kind: "done" };
      case "append":
        this.writing.get(act.opened)?.parts.push(act.chunk);
        return { number, kind: "done" };
      case "finish": {
        const { name, metadata, parts } = this.writing.get(act.opened)!;
        this.files.set(name, Buffer.concat(parts));
        this.metadata.set(name, metadata);
        return this.describe(number, name);
      }
      case "close":
        this.reading.delete(act.opened);
        this.writing.delete(act.opened);
        return { number, kind: "done" };
      case "delete":
        this.files.delete(act.name);
        return { number, kind: "done" };
    }
  }

  private describe(number: number, name: string): FileReply {
    const content = this.files.get(name);
    if (!content) return { number, kind: "absent" };
    const sha256 = createHash("sha256").update(content).digest("hex");
    return { number, kind: "file", file: { name, size: content.length, sha256, metadata: this.metadata.get(name) ?? {} } };
  }
}

type AnyHandler = (event: any, row: any, context: Context) => unknown;

/** Context of an event, one second after 1970 began. */
export function context(
  handler: AnyHandler,
  given: { key?: string; id?: string; attempt?: number; isDryRun?: boolean; files?: Map<string, Uint8Array> } = {},
): Context {
  const of = funcOf(handler);
  const id = given.id ?? "event-1";
  const attempt = given.attempt ?? 1;
  const event = { ...emptyEvent(), id, type: of.trigger(), source: "/test", timeMs: 1000, flow: id, attempt };
  const files = new MemoryFiles(given.files ?? new Map());
  const ask = files.ask.bind(files);
  return new Context(event, given.key ?? "", of, given.isDryRun ?? false, reject, new AbortController().signal, ask);
}

/** Runs a function on an event, files and a row, by default one that begins; an exception comes through, and `Reject` is one. */
export async function call<E, R>(
  handler: (event: E, row: R, context: Context) => unknown,
  event?: NoInfer<E>,
  row?: NoInfer<R>,
  given: { key?: string; files?: Record<string, Uint8Array> } = {},
): Promise<Outcome<R>> {
  const of = funcOf(handler);
  const own = (row ?? of.row?.begin()) as R;
  const files = new Map(Object.entries(given.files ?? {}));
  const surroundings = context(handler, { ...given, files });
  const result = await handler(event as E, own, surroundings);
  // Whether it could be sent, and whether the row could be stored.
  of.outputs(result);
  if (of.row) of.row.fields(own as object);
  const all = [...flat(result, 0)] as { event: Message; ms: number }[];
  return {
    events: all.filter(({ ms }) => ms === 0).map(({ event }) => event),
    delayed: all.filter(({ ms }) => ms > 0),
    row: own,
    operations: surroundings.operations,
    files,
  };
}

export { App, AppError, luck } from "./app.ts";
export type { DeadLetter, LuckOptions, Tally } from "./app.ts";
export type { Delayed };
