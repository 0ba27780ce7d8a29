/**
 * The child's end of the function protocol: frames come from a socket, each run is a task of its own with its events in turn,
 * and answers go out together with whatever else is done in the same turn of the event loop.
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { Socket } from "node:net";
// Of the module and not the global ones, which a test may replace by others.
import { clearTimeout, setImmediate, setTimeout } from "node:timers";
import { format, inspect } from "node:util";

import type { Operation } from "./context.ts";
import { Context } from "./context.ts";
import type { FileAct, FileReply } from "./files.ts";
import { FileError } from "./files.ts";
import type { Func, Manifest, Output } from "./func.ts";
import { Reject } from "./func.ts";
import { place } from "./place.ts";
import { RowError } from "./rows.ts";
import { within } from "./trace.ts";
import type { Fields, Incoming, Run, WireEvent } from "./wire.ts";
import { Writer, decode, fileRequest, frame } from "./wire.ts";

const VERSION = 1;
const SDK_VERSION = "0.1.0";

/** Run, and place of the event in it, to which what is logged belongs. */
const current = new AsyncLocalStorage<{ run: number; event: number }>();

/** Whether this is within a handler. */
export function isInHandler(): boolean {
  return current.getStore() !== undefined;
}

/** Milliseconds for which handlers that do not wait may keep the event loop before what is done is sent. */
const HELD_MS = 10;

/** Bytes of a frame for what stands around its contents. */
const FRAMING = 1024;

/** Characters of a line that are logged, and of a failure's text that are sent. */
const MAX_LINE = 16 << 10;
const MAX_TEXT = 4 << 10;

/** Severities of `Log`. */
const severity = { info: 0, debug: 1, warn: 2, error: 3 } as const;

/** Frames on the socket that this process has inherited. */
export class Connection {
  private readonly socket: Socket;
  private rest: Buffer = Buffer.alloc(0);
  private take: (incoming: Incoming) => void = () => {};

  constructor(fd: number) {
    this.socket = new Socket({ fd, readable: true, writable: true });
    // Without a host there is nobody to work for.
    this.socket.on("close", () => process.exit(0));
    this.socket.on("error", () => process.exit(0));
    this.socket.on("data", (bytes) => this.receive(bytes));
  }

  /** Has each frame that comes taken. */
  onFrame(take: (incoming: Incoming) => void): void {
    this.take = take;
  }

  send(bytes: Buffer): void {
    this.socket.write(bytes);
  }

  /** Sends the last frame, and ends the process once it is written. */
  end(bytes: Buffer, code: number): void {
    this.socket.write(bytes, () => process.exit(code));
  }

  private receive(bytes: Buffer): void {
    let all = this.rest.length === 0 ? bytes : Buffer.concat([this.rest, bytes]);
    while (all.length >= 4) {
      const length = all.readUInt32LE(0);
      if (all.length < 4 + length) break;
      this.take(decode(all.subarray(4, 4 + length)));
      all = all.subarray(4 + length);
    }
    this.rest = all;
  }
}

/** What this child is, for the host. */
export function hello(manifest: Manifest, contract: Uint8Array): Buffer {
  const writer = new Writer(1024 + contract.length);
  writer.message(frame.hello, (hello) => {
    hello.number(1, VERSION).number(2, VERSION).text(3, "oncue-typescript").text(4, SDK_VERSION);
    hello.message(6, (of) => {
      of.text(1, manifest.name).text(2, manifest.version);
      for (const type of manifest.triggers) of.text(3, type);
      for (const type of manifest.emits) of.text(4, type);
      of.text(5, manifest.key).text(6, manifest.table).number(7, manifest.rowVersion);
      of.number(8, manifest.concurrency).number(9, manifest.timeoutMs).number(10, manifest.attempts);
      for (const table of manifest.changes) of.text(11, table);
      of.flag(12, true).number(13, manifest.files).flag(14, manifest.atMostOnce);
      // Whatever waits leaves the event loop to the others, also in a handler that only returns a promise.
      of.flag(15, true);
    });
    hello.data(7, contract);
  });
  return writer.finish();
}

/** Last words. */
export function fatal(sentence: string): Buffer {
  return new Writer().message(frame.fatal, (fatal) => fatal.text(1, cut(sentence))).finish();
}

/** Way to the host, as far as an answer needs it. */
interface Answers {
  send(bytes: Buffer): void;
  end(bytes: Buffer, code: number): void;
}

/** Works for the host until it says that nothing more will come. */
export class Server {
  private begun = 0;
  private isDraining = false;
  private readonly tasks = new Map<number, Work>();
  private readonly results: Work[] = [];
  private isFlushing = false;
  private isBeginning = false;
  /** Runs that have not begun. */
  private readonly runs: Run[] = [];
  /** Bytes of answers that fit a frame. */
  private roomInFrame = Infinity;
  /** Whether the host replies to requests for files. */
  private hasFiles = false;
  private requests = 0;
  /** Who waits for a reply, by the number of the request. */
  private readonly waiting = new Map<number, (reply: FileReply) => void>();

  constructor(
    private readonly func: Func,
    private readonly connection: Answers,
  ) {}

  take(incoming: Incoming): void {
    switch (incoming.kind) {
      case "invoke":
        this.runs.push(...incoming.runs);
        this.beginAll();
        break;
      case "welcome":
        this.hasFiles = incoming.features.includes("files");
        if (incoming.maxFrame > 0) this.roomInFrame = incoming.maxFrame - FRAMING;
        break;
      case "fileReply":
        this.waiting.get(incoming.reply.number)?.(incoming.reply);
        this.waiting.delete(incoming.reply.number);
        break;
      case "cancel":
        this.tasks.get(incoming.run)?.cancel();
        break;
      case "ping":
        this.connection.send(this.pong(incoming.number));
        break;
      case "drain":
        this.isDraining = true;
        this.drained();
        break;
      case "fatal":
        process.exitCode = 1;
        console.error(`oncue-host: ${incoming.sentence}`);
        break;
    }
  }

  /** Begins runs, with the answers to those before them sent now and then: the host would take one for as long at work. */
  private beginAll(): void {
    if (this.isBeginning) return;
    const began = performance.now();
    for (let run = this.runs.shift(); run; run = this.runs.shift()) {
      this.begin(run);
      if (this.runs.length > 0 && performance.now() - began > HELD_MS) {
        this.isBeginning = true;
        setImmediate(() => {
          this.isBeginning = false;
          this.flush();
          this.beginAll();
        });
        return;
      }
    }
    this.drained();
  }

  private begin(run: Run): void {
    const begins = (): void => {
      this.begun += 1;
    };
    const ask = (act: FileAct): Promise<FileReply> => this.askForFile(run.number, act);
    const work = new Work(this.func, run, begins, ask, this.roomInFrame - FRAMING);
    this.tasks.set(run.number, work);
    void work.all().then(() => {
      this.tasks.delete(run.number);
      this.results.push(work);
      if (!this.isFlushing) {
        this.isFlushing = true;
        setImmediate(() => this.flush());
      }
    });
  }

  private askForFile(run: number, act: FileAct): Promise<FileReply> {
    if (!this.hasFiles) {
      return Promise.reject(new FileError("this oncue-host knows nothing of files: bring both to one release"));
    }
    this.requests += 1;
    const number = this.requests;
    return new Promise((resolve) => {
      this.waiting.set(number, resolve);
      this.connection.send(fileRequest(number, run, act));
    });
  }

  private flush(): void {
    this.isFlushing = false;
    const results = this.takeResults();
    let next = results.next();
    while (!next.done) {
      const writer = new Writer(4096);
      writer.message(frame.answer, (answer) => {
        do {
          answer.data(1, next.value as Buffer);
          next = results.next();
        } while (!next.done && writer.size + next.value.length < this.roomInFrame);
      });
      this.connection.send(writer.finish());
    }
    this.drained();
  }

  private *takeResults(): Generator<Buffer> {
    for (let work = this.results.shift(); work; work = this.results.shift()) yield* work.results(this.roomInFrame);
  }

  private drained(): void {
    if (this.isDraining && this.tasks.size === 0 && this.runs.length === 0 && !this.isFlushing) {
      this.isDraining = false;
      endLines();
      this.connection.end(new Writer().message(frame.drained, () => {}).finish(), 0);
    }
  }

  private pong(number: number): Buffer {
    return new Writer().message(frame.pong, (pong) => pong.number(1, number).number(2, this.begun)).finish();
  }
}

/** Why the time of a handler is over. */
class TimedOut extends Error {}

/** An event whose payload is no message of its type. */
class Undecodable extends Error {}

interface Failure {
  rejected: boolean;
  class: string;
  text: string;
  place: string;
}

interface Outcome {
  outputs: Output[];
  operations: Operation[];
  failure: Failure | undefined;
  micros: number;
}

/** A run that is being worked off: its row, and what came of its events. */
export class Work {
  readonly outcomes: Outcome[] = [];
  /** Why the row cannot be read. */
  rowFailure: string | undefined;
  private row: object | undefined;
  /** The row as the last event that succeeded has left it, as it is stored. */
  private kept: Fields | undefined;
  private stop: () => void = () => {};

  constructor(
    private readonly func: Func,
    private readonly run: Run,
    private readonly begins: () => void,
    private readonly askForFile: (act: FileAct) => Promise<FileReply>,
    /** Bytes that an event may answer. */
    private readonly largest = Infinity,
  ) {
    try {
      this.row = func.row?.open(run.fields, run.rowVersion);
      if (run.check && this.row) func.row?.fields(this.row);
    } catch (e) {
      this.rowFailure = e instanceof Error ? e.message : String(e);
    }
  }

  /** Works off all events in turn. */
  async all(): Promise<void> {
    if (this.rowFailure !== undefined) return;
    for (const [at, event] of this.run.events.entries()) {
      if (this.run.check) this.check(event);
      else await current.run({ run: this.run.number, event: at }, () => this.one(event));
    }
  }

  /** Ends the event that is at work. */
  cancel(): void {
    this.stop();
  }

  private check(event: WireEvent): void {
    const began = performance.now();
    try {
      this.decode(event);
      this.succeeded([], [], began);
    } catch (e) {
      this.failed(e, began);
    }
  }

  private async one(event: WireEvent): Promise<void> {
    this.begins();
    const began = performance.now();
    const controller = new AbortController();
    const { key, dryRun } = this.run;
    const rejection = (why: string): Reject => new Reject(why);
    const { signal } = controller;
    // Whoever goes on after its time is over changes no file any more.
    const ask = (act: FileAct): Promise<FileReply> => (signal.aborted ? Promise.reject(signal.reason) : this.askForFile(act));
    const context = new Context(event, key, this.func, dryRun, rejection, signal, ask);
    try {
      const message = this.decode(event);
      let result = within(event, () => this.func.handler(message, this.row, context));
      if (result instanceof Promise) result = await this.inTime(result, event.timeoutMs, controller);
      const outputs = this.func.outputs(result);
      // What cannot be stored or sent is found out here, so that only this event fails by it.
      this.checkSize("the events that follow have", sizeOfEffects(outputs, context.operations));
      if (this.func.row && this.row) {
        const fields = this.func.row.fields(this.row);
        this.checkSize("the row has", sizeOfFields(fields));
        this.kept = fields;
      }
      this.succeeded(outputs, context.operations, began);
    } catch (e) {
      this.failed(e, began);
      // A handler whose time was over may still be at work on its row, so the next one gets another.
      this.row = this.func.row?.open(this.kept ?? this.run.fields, this.kept ? this.func.row.version : this.run.rowVersion);
    }
    endLines();
    for (const opened of context.files.openNumbers) void this.askForFile({ kind: "close", opened });
  }

  private checkSize(what: string, size: number): void {
    if (size > this.largest) {
      throw new Reject(`${what} ${size} bytes, and an answer to the host at most ${this.largest}; what is large goes into a file`);
    }
  }

  private decode(event: WireEvent): unknown {
    try {
      return this.func.decode(event);
    } catch (e) {
      throw new Undecodable(`${event.type} is not readable as protobuf: ${e instanceof Error ? e.message : e}`);
    }
  }

  private async inTime(result: Promise<unknown>, ms: number, controller: AbortController): Promise<unknown> {
    let timer: NodeJS.Timeout | undefined;
    const over = new Promise<never>((_, fail) => {
      this.stop = () => fail(new TimedOut(`still running after ${ms} ms`));
      timer = setTimeout(this.stop, ms);
    });
    try {
      return await Promise.race([result, over]);
    } catch (e) {
      if (e instanceof TimedOut) controller.abort(e);
      throw e;
    } finally {
      clearTimeout(timer);
      this.stop = () => {};
    }
  }

  private succeeded(outputs: Output[], operations: Operation[], began: number): void {
    this.outcomes.push({ outputs, operations, failure: undefined, micros: micros(began) });
  }

  private failed(error: unknown, began: number): void {
    this.outcomes.push({ outputs: [], operations: [], failure: describe(error), micros: micros(began) });
  }

  /** Fields to set, and names of those to delete. */
  changes(): { set: Fields; deleted: string[] } {
    if (!this.func.row || !this.kept) return { set: new Map(), deleted: [] };
    return this.func.row.changes(this.kept, this.run.fields, this.run.rowVersion);
  }

  /** The `RunResult`, in as many of at most `room` bytes as it takes: its events in turn, its row with the last of them. */
  *results(room: number): Generator<Buffer> {
    let result = this.result();
    const empty = result.size;
    if (this.rowFailure !== undefined) {
      const text = cut(this.rowFailure);
      result.message(5, (failure) => failure.text(1, "row").text(2, text));
      yield result.body();
      return;
    }
    const { set, deleted } = this.changes();
    const parts = this.outcomes.map((outcome) => ({
      size: sizeOf(outcome),
      write: () => result.message(4, (event) => writeOutcome(event, outcome)),
    }));
    parts.push({ size: sizeOfFields(set), write: () => writeChanges(result, set, deleted) });
    for (const part of parts) {
      if (result.size > empty && result.size + part.size > room) {
        yield result.flag(6, true).body();
        result = this.result();
      }
      part.write();
    }
    yield result.body();
  }

  private result(): Writer {
    return new Writer().number(1, this.run.number);
  }
}

function micros(began: number): number {
  return Math.max(0, Math.round((performance.now() - began) * 1000));
}

function writeChanges(result: Writer, set: Fields, deleted: string[]): Writer {
  for (const [name, value] of set) result.message(2, (field) => field.text(1, name).data(2, value));
  for (const name of deleted) result.text(3, name, true);
  return result;
}

/** Room for the numbers of a message, and the lengths within it. */
const NUMBERS = 64;

/** Bytes of an outcome as it is sent, at most. */
function sizeOf({ outputs, operations, failure }: Outcome): number {
  const size = sizeOfEffects(outputs, operations);
  return failure ? size + 3 * (failure.class.length + failure.text.length + failure.place.length) : size;
}

function sizeOfEffects(outputs: readonly Output[], operations: readonly Operation[]): number {
  let size = NUMBERS;
  for (const { type, payload } of outputs) size += NUMBERS + Buffer.byteLength(type) + payload.length;
  for (const operation of operations) {
    size += NUMBERS;
    for (const value of Object.values(operation)) if (typeof value === "string") size += Buffer.byteLength(value);
  }
  return size;
}

function sizeOfFields(fields: Fields): number {
  let size = NUMBERS;
  for (const [name, value] of fields) size += NUMBERS + Buffer.byteLength(name) + value.length;
  return size;
}

function writeOutcome(event: Writer, outcome: Outcome): void {
  const { failure } = outcome;
  if (failure) {
    event.message(failure.rejected ? 3 : 2, (of) => of.text(1, failure.class).text(2, failure.text).text(3, failure.place));
  } else {
    event.message(1, (done) => {
      for (const output of outcome.outputs) {
        done.message(1, (of) => of.text(1, output.type).data(2, output.payload).number(4, output.delayMs));
      }
      for (const operation of outcome.operations) done.message(2, (of) => writeOperation(of, operation));
    });
  }
  event.number(4, outcome.micros);
}

function writeOperation(of: Writer, operation: Operation): void {
  of.text(1, operation.table);
  switch (operation.kind) {
    case "add":
    case "max":
      of.message(operation.kind === "add" ? 2 : 3, (amount) => amount.text(1, operation.field).signed(2, operation.by));
      break;
    case "setAdd":
      of.text(4, operation.member, true);
      break;
    case "topN":
      of.message(5, (score) => score.text(1, operation.member).signed(2, operation.score).number(3, operation.limit));
      break;
    case "distinct":
      of.text(6, operation.member, true);
  }
}

/** Text of whatever was thrown, which may have none. */
function textOf(thrown: unknown): string {
  try {
    return String(thrown);
  } catch {
    return inspect(thrown);
  }
}

function cut(text: string, most = MAX_TEXT): string {
  return text.length <= most ? text : `${text.slice(0, most)}...`;
}

function describe(error: unknown): Failure {
  const failure = describeWhole(error);
  return { ...failure, class: cut(failure.class), text: cut(failure.text) };
}

function describeWhole(error: unknown): Failure {
  const at = place(error);
  if (error instanceof Reject) return { rejected: true, class: "rejected", text: textOf(error.message), place: at };
  if (error instanceof Undecodable) return { rejected: true, class: "decode", text: error.message, place: "" };
  if (error instanceof TimedOut) return { rejected: false, class: "timeout", text: error.message, place: at };
  if (error instanceof RowError) return { rejected: false, class: "RowError", text: `RowError: ${textOf(error.message)}`, place: at };
  const name = error instanceof Error ? textOf(error.name) : typeof error;
  const text = textOf(error instanceof Error ? error.message : error);
  return { rejected: false, class: name, text: text ? `${name}: ${text}` : name, place: at };
}

/** Printed text, line by line; what an event leaves without an end is a line at its end. */
export class Lines {
  /** Begun lines, by the events that have begun them. */
  private readonly begun = new WeakMap<object, string>();

  constructor(private readonly log: (line: string) => void) {}

  write(text: string): void {
    const at = current.getStore() ?? this;
    // A bar that shows progress begins its line anew.
    const [first = "", ...others] = text.split(/\r\n|\r|\n/);
    let line = this.begun.get(at) ?? "";
    if (first && line.length + first.length > MAX_LINE) {
      if (line) this.log(line);
      line = "";
    }
    line += first;
    for (const other of others) {
      this.log(line);
      line = other;
    }
    // One that is longer is cut where it is logged.
    this.begun.set(at, line.slice(0, MAX_LINE + 1));
  }

  /** Ends the line that the event at work has begun. */
  end(): void {
    const at = current.getStore() ?? this;
    const line = this.begun.get(at);
    if (line) this.log(line);
    this.begun.delete(at);
  }
}

const printed: Lines[] = [];

function endLines(): void {
  for (const lines of printed) lines.end();
}

/**
 * What is printed becomes log records with trace and flow. What reaches the descriptors past Node, of another process or a module
 * in C, the host reads as lines.
 */
export function speakThrough(connection: Connection): void {
  const log = (of: number, text: string): void => {
    const at = current.getStore();
    const line = cut(text, MAX_LINE);
    const writer = new Writer(64 + line.length);
    writer.message(frame.log, (log) => {
      log.number(1, of).text(2, line);
      if (at) log.number(3, at.run).number(4, at.event);
    });
    connection.send(writer.finish());
  };
  for (const name of ["debug", "info", "log", "warn", "error"] as const) {
    const of = severity[name === "log" ? "info" : name];
    console[name] = (...values: unknown[]) => log(of, format(...values));
  }
  for (const [stream, of] of [
    [process.stdout, severity.info],
    [process.stderr, severity.warn],
  ] as const) {
    const lines = new Lines((line) => log(of, line));
    printed.push(lines);
    stream.write = ((chunk: string | Uint8Array, ...more: unknown[]): boolean => {
      lines.write(typeof chunk === "string" ? chunk : Buffer.from(chunk).toString());
      const done = more.find((one) => typeof one === "function") as (() => void) | undefined;
      if (done) queueMicrotask(done);
      return true;
    }) as typeof stream.write;
  }
}
