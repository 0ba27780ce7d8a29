/** Identity and time of the event, and changes that need no row. */

import { createHash } from "node:crypto";

import type { FileAct, FileReply, FileUse } from "./files.ts";
import { Files } from "./files.ts";
import type { WireEvent } from "./wire.ts";

/** Change without a row, on the event's key in another table. All commute. */
export type Operation =
  | { table: string; kind: "add" | "max"; field: string; by: bigint }
  | { table: string; kind: "setAdd" | "distinct"; member: string }
  | { table: string; kind: "topN"; member: string; score: bigint; limit: number };

/** The function that a context is of, as far as it counts here. */
interface ContextFunc {
  readonly name: string;
  readonly row: { readonly table: string } | undefined;
  readonly changes: ReadonlySet<string>;
  readonly files: FileUse;
}

export class Context {
  /** Changes without a row, in order. */
  readonly operations: Operation[] = [];
  /** Aborted when the time of the handler is over: `fetch(url, { signal: context.signal })`. */
  readonly signal: AbortSignal;
  /** The files of the app: `await context.files.read(name, 1 << 20)`. */
  readonly files: Files;

  constructor(
    private readonly event: WireEvent,
    /** Key of the function's row. */
    readonly key: string,
    private readonly func: ContextFunc,
    /** Whether an operator only wants to see what would come of the event: calls to the outside are to be left out. */
    readonly isDryRun: boolean,
    private readonly rejection: (why: string) => Error,
    signal: AbortSignal,
    askForFile: (act: FileAct) => Promise<FileReply>,
  ) {
    this.signal = signal;
    this.files = new Files(askForFile, func, rejection);
  }

  /** Id of the event: the same for every attempt and every copy. */
  get id(): string {
    return this.event.id;
  }

  /** Type of the event, `shop.order.placed`. */
  get type(): string {
    return this.event.type;
  }

  /** Source of the event: a function, the gateway, or a client's own. */
  get source(): string {
    return this.event.source;
  }

  /** Id of the root event of the flow. */
  get flow(): string {
    return this.event.flow;
  }

  /** Id of the event that caused this one; empty for a root. */
  get cause(): string {
    return this.event.cause;
  }

  /** When the event happened: the same for every attempt, unlike the clock. */
  get time(): Date {
    return new Date(this.event.timeMs);
  }

  /** 1 for the first run; one that ended with its process counts as well. */
  get attempt(): number {
    return this.event.attempt;
  }

  /** Span of the event in this function [W3C Trace Context], for spans of one's own; empty where nobody traces. */
  get traceparent(): string {
    return this.event.traceparent;
  }

  /** For calls to the outside, which can only be made at least once: the same however often this event is run. */
  idempotencyKey(step: string): string {
    const sha = createHash("sha256");
    for (const part of ["idempotency", this.id, this.func.name, step]) {
      const bytes = Buffer.from(part);
      const length = Buffer.alloc(8);
      length.writeBigUInt64BE(BigInt(bytes.length));
      sha.update(length).update(bytes);
    }
    return sha.digest().subarray(0, 16).toString("base64url");
  }

  /** Adds to an integer field of the key's row in `table`; an absent field counts as 0. */
  add(table: string, field: string, by: number | bigint): void {
    this.change({ table, kind: "add", field, by: int64(by) });
  }

  /** Raises an integer field of the key's row in `table`, or leaves it where it is as high already. */
  max(table: string, field: string, to: number | bigint): void {
    this.change({ table, kind: "max", field, by: int64(to) });
  }

  /** Adds a member to the key's set in `table`. */
  setAdd(table: string, member: string): void {
    this.change({ table, kind: "setAdd", member });
  }

  /** Gives a member a score in the key's ranking in `table`, which keeps the `limit` highest. */
  topN(table: string, member: string, score: number | bigint, limit: number): void {
    if (!Number.isInteger(limit) || limit < 0 || limit >= 2 ** 32) {
      throw new RangeError(`topN keeps a whole number of members, and not ${limit}`);
    }
    this.change({ table, kind: "topN", member, score: int64(score), limit });
  }

  /** Counts a member in the key's approximate count of distinct members in `table`. */
  distinct(table: string, member: string): void {
    this.change({ table, kind: "distinct", member });
  }

  private change(operation: Operation): void {
    const { kind, table } = operation;
    const { name, row, changes } = this.func;
    if (table === "" || table === row?.table) {
      throw this.rejection(`${kind} changes the row table "${table}" behind the handler's back; change the row itself`);
    }
    if (!changes.has(table)) {
      throw this.rejection(
        `${name} does not declare that it changes the table "${table}": add changes: ["${table}"] to its func()`,
      );
    }
    this.operations.push(operation);
  }
}

/** A whole number that 64 bits hold. */
function int64(value: number | bigint): bigint {
  const whole = BigInt(value);
  if (BigInt.asIntN(64, whole) !== whole) throw new RangeError(`${whole} is more than 64 bits hold`);
  return whole;
}
