/** A function: a name, a handler, and everything that stands beside it. */

import type { DescMessage, Message, MessageShape } from "@bufbuild/protobuf";
import { ScalarType, fromBinary, isMessage, toBinary } from "@bufbuild/protobuf";

import type { Context } from "./context.ts";
import { descriptors, eventType } from "./contract.ts";
import type { FileUse } from "./files.ts";
import { uses } from "./files.ts";
import type { RowOf, RowType } from "./rows.ts";
import type { WireEvent } from "./wire.ts";

/** The event can never be handled: it is dead-lettered now, its row unchanged. */
export class Reject extends Error {
  override name = "Reject";
}

/** Why an event can never be handled: `throw reject("no such page")`. */
export function reject(why: string): Reject {
  return new Reject(why);
}

/** Longest delay, ten years: beyond it every worker rejects the event whose handler asks for it. */
const LONGEST_DELAY = 3650 * 86_400_000;

/** An event that is to happen later: kept by the bus until it is due. */
export class Delayed<E extends Message> {
  readonly event: E;
  readonly ms: number;

  constructor(event: E, ms: number) {
    if (!(ms >= 0 && ms <= LONGEST_DELAY)) throw new RangeError(`a delay of ${ms} ms: it is from 0 to ${LONGEST_DELAY}`);
    this.event = event;
    this.ms = ms;
  }
}

/** An event that is to happen so many milliseconds after the run of the function. */
export function delayed<E extends Message>(event: E, ms: number): Delayed<E> {
  return new Delayed(event, ms);
}

/** Events that one of these schemas, or a schema alone, describes. */
export type EventOf<S> = S extends readonly (infer D extends DescMessage)[]
  ? MessageShape<D>
  : S extends DescMessage
    ? MessageShape<S>
    : undefined;

type Emitted<S> = S extends undefined ? never : Extract<EventOf<S>, Message>;

/** Events that follow: none, one, several, now or later. */
export type Result<E extends Message> = void | undefined | null | E | Delayed<E> | readonly Result<E>[];

/** A handler: `(event, row, context) => events that follow`, at once or as a promise. */
export type Handler<On, R, Emits> = (
  event: EventOf<On>,
  row: RowOf<R>,
  context: Context,
) => Result<Emitted<Emits>> | Promise<Result<Emitted<Emits>>>;

type Schemas = DescMessage | readonly DescMessage[] | undefined;

/** Everything that a function says of itself. */
export interface FuncOptions<On extends Schemas, R extends RowType<any> | undefined, Emits extends Schemas> {
  /** Event that it acts on, or one of several; none for a function that its schedule starts. */
  on?: On;
  /** Row of the event's key. */
  row?: R;
  /** Events that may follow. */
  emits?: Emits;
  /** Version of the function. */
  version?: string;
  /** Field of its events whose text is the key, where that is not the contract's. */
  key?: string;
  /** Longest run on one event, milliseconds. */
  timeout?: number;
  /** Attempts until an event is dead-lettered. */
  attempts?: number;
  /** Events that one worker holds at a time. */
  concurrency?: number;
  /** Tables that the handler changes without a row, by `context.add` and the like; an operation on another one is rejected. */
  changes?: readonly string[];
  /** Use of the app's files: `"read"` or `"write"`. */
  files?: "read" | "write";
  /**
   * At most one run on an event, for calls to the outside that must not be repeated: that a run begins is written down first, any
   * failure is a dead letter at once, and an interrupted run one with the reason `outcome_unknown`. Only for a function without a row.
   */
  atMostOnce?: boolean;
}

/** Handlers of this process, by the functions' names. */
export const functions = new Map<string, Func>();
const made = new WeakMap<object, Func>();

/**
 * Makes a handler the function `name`, as oncue.toml calls it. Returns the handler, which stays what it was: a test calls it.
 */
export function func<
  const On extends Schemas = undefined,
  R extends RowType<any> | undefined = undefined,
  const Emits extends Schemas = undefined,
>(name: string, options: FuncOptions<On, R, Emits>, handler: Handler<On, R, Emits>): Handler<On, R, Emits> {
  const func = new Func(name, options, handler as AnyHandler);
  functions.set(name, func);
  made.set(handler, func);
  return handler;
}

/** The function that a handler was made. */
export function funcOf(handler: object): Func {
  const found = made.get(handler);
  if (!found) throw new TypeError("this handler was not given to func()");
  return found;
}

type AnyHandler = (event: unknown, row: unknown, context: Context) => unknown;

/** An event that follows, as it is sent. */
export interface Output {
  type: string;
  payload: Uint8Array;
  delayMs: number;
}

/** The function as data. */
export interface Manifest {
  name: string;
  version: string;
  triggers: string[];
  emits: string[];
  key: string;
  table: string;
  rowVersion: number;
  concurrency: number;
  timeoutMs: number;
  attempts: number;
  changes: string[];
  /** 0 for none, 1 for reading, 2 for writing. */
  files: number;
  atMostOnce: boolean;
}

/** A handler with everything that was said of it. */
export class Func {
  readonly row: RowType<object> | undefined;
  /** Tables that it changes without a row. */
  readonly changes: ReadonlySet<string>;
  /** Field of its events that is the key, as their `.proto` file has it; empty for the contract's. */
  private readonly key: string;
  /** Use of files that it declares. */
  readonly files: FileUse;
  /** Schemas by event types. */
  private readonly events = new Map<string, DescMessage>();
  /** Types by the full names of their messages, and their schemas. */
  private readonly emitted = new Map<string, { type: string; schema: DescMessage }>();

  constructor(
    readonly name: string,
    private readonly options: FuncOptions<Schemas, RowType<any> | undefined, Schemas>,
    readonly handler: AnyHandler,
  ) {
    this.row = options.row;
    this.changes = new Set(options.changes);
    if (!/^[a-z0-9-]{1,64}$/.test(name)) {
      throw new TypeError(`${JSON.stringify(name)} is no name of a function: 1 to 64 of a-z, 0-9 and '-'`);
    }
    this.files = options.files ?? "";
    if (!uses.includes(this.files)) throw new TypeError(`${name}: files is "read" or "write", and not "${this.files}"`);
    for (const schema of list(options.on)) this.events.set(this.type(schema, "on"), schema);
    this.key = options.key ? this.keyField(options.key) : "";
    for (const schema of list(options.emits)) {
      this.emitted.set(schema.typeName, { type: this.type(schema, "emits"), schema });
    }
  }

  /** Name in the contract of a field of text that all events have. */
  private keyField(key: string): string {
    for (const schema of this.events.values()) {
      const fields = schema.fields.filter((field) => field.scalar === ScalarType.STRING && field.fieldKind === "scalar");
      const found = fields.find((field) => field.name === key || field.localName === key);
      if (!found) {
        const names = fields.map((field) => field.name).join(", ") || "none";
        throw new TypeError(`${this.name}: ${schema.typeName} has no field of text ${JSON.stringify(key)} that could be the key; it has ${names}`);
      }
      key = found.name;
    }
    return key;
  }

  private type(schema: DescMessage, place: string): string {
    const found = schema && eventType(schema);
    if (!found) {
      throw new TypeError(`${this.name}: ${place} names ${schema?.typeName ?? schema}, which is no event of the contract`);
    }
    return found;
  }

  manifest(): Manifest {
    return {
      name: this.name,
      version: this.options.version ?? "0.0.0",
      triggers: [...this.events.keys()].sort(),
      emits: [...this.emitted.values()].map((emitted) => emitted.type).sort(),
      key: this.key,
      table: this.row?.table ?? "",
      rowVersion: this.row?.version ?? 1,
      concurrency: this.options.concurrency ?? 0,
      timeoutMs: this.options.timeout ?? 0,
      attempts: this.options.attempts ?? 0,
      changes: [...this.changes].sort(),
      files: uses.indexOf(this.files),
      atMostOnce: this.options.atMostOnce ?? false,
    };
  }

  /** Descriptor set of all events that it names. */
  contract(): Uint8Array {
    return descriptors(this.schemas());
  }

  /** Schemas of all events that it names. */
  schemas(): DescMessage[] {
    return [...this.events.values(), ...[...this.emitted.values()].map((emitted) => emitted.schema)];
  }

  /** Type of the events that it acts on, where there is one. */
  trigger(): string {
    return this.events.keys().next().value ?? "";
  }

  /** The event's payload as its message; none for a function without an event. */
  decode(event: WireEvent): Message | undefined {
    const schema = this.events.get(event.type);
    return schema && fromBinary(schema, event.payload);
  }

  /** Events in a result, as they are sent. */
  outputs(result: unknown): Output[] {
    const found: Output[] = [];
    for (const { event, ms } of flat(result, 0)) {
      const emitted = isMessage(event) ? this.emitted.get(event.$typeName) : undefined;
      if (!emitted) {
        const what = isMessage(event) ? event.$typeName : String(event);
        throw reject(`${this.name} returned ${what}, which its \`emits\` does not name`);
      }
      const payload = toBinary(emitted.schema, event as Message);
      found.push({ type: emitted.type, payload, delayMs: Math.round(ms) });
    }
    return found;
  }
}

function list(schemas: Schemas): readonly DescMessage[] {
  return schemas === undefined ? [] : "typeName" in schemas ? [schemas] : schemas;
}

/** Events in a result at every depth, each with its delay. */
export function* flat(result: unknown, ms: number): Generator<{ event: unknown; ms: number }> {
  if (result === undefined || result === null) return;
  if (Array.isArray(result)) {
    for (const part of result) yield* flat(part, ms);
  } else if (result instanceof Delayed) {
    yield* flat(result.event, ms + result.ms);
  } else {
    yield { event: result, ms };
  }
}
