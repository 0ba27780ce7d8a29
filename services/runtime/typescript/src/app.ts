/**
 * An app in process, for tests: functions act on each other's events, over a store in memory and with a time of its own.
 *
 * `oncue-host --testing` plays the part of the servers and of the workers, by the code of the test kit in Rust; handlers run in
 * the test itself, so that breakpoints, coverage and mocks are there. What is said between the two is a JSON object for each line:
 * acts of the test and their results, and frames of the function protocol in base64.
 */

import type { DescMessage, Message, MessageShape } from "@bufbuild/protobuf";
import { fromBinary, isMessage, toBinary } from "@bufbuild/protobuf";
import { AssertionError } from "node:assert";
import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import type { Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { inspect } from "node:util";

import { eventType } from "./contract.ts";
import type { Func } from "./func.ts";
import { funcOf } from "./func.ts";
import { hostProgram } from "./generate.ts";
import type { RowType } from "./rows.ts";
import { Server, hello, isInHandler } from "./serve.ts";
import { decode } from "./wire.ts";

/** An event that a function has given up. */
export interface DeadLetter {
  function: string;
  /** One of few: rejected, attempts, decode, bounds, loop. */
  reason: string;
  message: string;
  /** `file:line` of the handler, or nothing. */
  place: string;
  attempts: number;
  eventId: string;
  eventType: string;
  key: string;
}

/** The app cannot do what the test asks for. */
export class AppError extends Error {
  override name = "AppError";
}

type Line =
  | { number: number; result?: unknown; error?: string }
  | { function: string; frame: string }
  | { play: true };

/** Faults and turns that luck brought, in all runs together. */
export interface Tally {
  runs: number;
  /** Workers that died with events in hand. */
  crashes: number;
  /** Events that were delivered again while a worker had them, or after an ack that got lost. */
  redeliveries: number;
  /** Messages that were published again under their id. */
  copies: number;
  /** Commits that another worker was ahead of. */
  conflicts: number;
  /** Steps at which one key overtook another. */
  switches: number;
}

/** How `luck` is tried. */
export interface LuckOptions {
  /** From the first seed to the one behind the last, `[0, 200]`; a seed brings the same luck each time. */
  seeds?: readonly [number, number];
  /** Workers of each function, 2; with 1 and without faults the order of one key's events holds. */
  workers?: number;
  /** Whether workers crash, deliveries are repeated, and messages published twice; yes. */
  faults?: boolean;
}

/**
 * Plays a scenario under many lucks: order of steps, crashes between any two of them, second deliveries and copies, several workers
 * at one key. Rows, events, dead letters, files and what was observed must come out as in the plain run; otherwise it fails with the
 * smallest schedule it finds under which they do not.
 *
 *     const tally = await luck([billOrder, countSales], async (app) => {
 *       await app.publish(create(OrderPlacedSchema, { order: "o1", customer: "ann", cents: 1000n }));
 *       await app.settle();
 *     });
 *     assert.ok(tally.crashes > 0);
 *
 * The order of one key's events holds only within one worker and while nothing fails, so a function whose result hangs on that order
 * is found as well.
 */
export async function luck(
  handlers: readonly object[],
  scenario: (app: App) => Promise<void>,
  options: LuckOptions = {},
): Promise<Tally> {
  if (!Array.isArray(handlers) || typeof scenario !== "function") {
    throw new TypeError("luck has a list of handlers, then a scenario: luck([billOrder, countSales], async (app) => { ... })");
  }
  const [from, to] = options.seeds ?? [0, 200];
  if (!(from < to)) throw new TypeError(`seeds: [${from}, ${to}] plays nothing; the second is the one behind the last`);
  const app = await App.of(...handlers);
  try {
    return await app.luck(scenario, options);
  } finally {
    await app.close();
  }
}

/** Who waits for the result of an act. */
interface Waiting {
  resolve: (result: unknown) => void;
  reject: (error: Error) => void;
  failure: AppError;
}

/** Bytes in front of each frame, which a line has no use for. */
const HEAD = 4;

/**
 * An app in process: functions over a store in memory, with a time of its own that begins with the year 2026 and passes in
 * `advance` alone.
 *
 *     const app = await App.of(billOrder, countSales);
 *     await app.publish(create(OrderPlacedSchema, { order: "o1", customer: "ann", cents: 1000n }));
 *     await app.settle();
 *     assert.deepEqual(await app.row(customers, "ann"), { orders: 1, cents: 1190n });
 *     assert.deepEqual(await app.deadLetters(), []);
 *     await app.close();
 *
 * Keys, rows with their versions, ids of outputs, bounds, attempts, dead letters and the rules of the commit are those of a worker,
 * by the same code. Not modelled: delays between attempts (a retry comes when nothing else is left to do), limits of the servers
 * and their failures, cron lines, `oncue.toml`, redrives.
 */
export class App {
  private readonly servers = new Map<string, Server>();
  private readonly schemas = new Map<string, DescMessage>();
  private readonly waiting = new Map<number, Waiting>();
  private readonly host: ChildProcess;
  private readonly input: Writable;
  private number = 0;
  /** Parts of a line that is still to come to its end. */
  private rest: string[] = [];
  /** The scenario of `luck`, how often it was played, and what it failed by where luck had no part in it. */
  private scenario: (app: App) => Promise<void> = async () => {};
  private plays = 0;
  private failure: { error: unknown } | undefined;
  private ended: Error | undefined;
  private isClosed = false;

  private constructor() {
    const program = hostProgram();
    this.host = spawn(program, ["--testing"], { stdio: ["pipe", "pipe", "inherit"] });
    this.input = this.host.stdin as Writable;
    // It may be gone before it has read everything: its end says so.
    this.input.on("error", () => {});
    const output = this.host.stdout as Readable;
    output.setEncoding("utf8");
    output.on("data", (text: string) => this.receive(text));
    this.host.on("error", (e: NodeJS.ErrnoException) => {
      const advice = "install Oncue (its package brings oncue-host), put it on PATH, or name the folder of its programs in ONCUE_BIN_DIR";
      this.end(new AppError(e.code === "ENOENT" ? `${program} is not there: ${advice}` : `${program} cannot be run: ${e.message}`));
    });
    this.host.on("close", (code, signal) => {
      const how = signal ? `signal ${signal}` : `exit code ${code}`;
      this.end(new AppError(this.isClosed ? "the app is closed" : `oncue-host has ended with ${how}; what it wrote says why`));
    });
    this.keepAlive(false);
  }

  /** An app of these functions. */
  static async of(...handlers: (object | readonly object[])[]): Promise<App> {
    const all = handlers.flat();
    if (all.length === 0) throw new TypeError("an app has functions: App.of(billOrder, countSales)");
    const app = new App();
    try {
      for (const handler of all) await app.add(funcOf(handler));
    } catch (e) {
      await app.close();
      throw e;
    }
    return app;
  }

  private async add(func: Func): Promise<void> {
    // Events beside its own as well, so that a test can publish what nobody acts on.
    for (const { file } of func.schemas()) {
      for (const schema of file.messages) this.schemas.set(schema.typeName, schema);
    }
    const send = (bytes: Buffer): void => {
      this.write({ function: func.name, frame: bytes.subarray(HEAD).toString("base64") });
    };
    this.servers.set(func.name, new Server(func, { send, end: send }));
    const frame = hello(func.manifest(), func.contract()).subarray(HEAD).toString("base64");
    await this.act({ with: frame });
  }

  /** Publishes an event, as a client would, and returns its id. Nothing acts on it before `settle`. */
  async publish(event: Message): Promise<string> {
    return (await this.act({ publish: this.encoded(event) })) as string;
  }

  /**
   * Fires an event again and again, first when the interval has passed: a `[[schedule]]` of `oncue.toml`. For a function that takes
   * no event it is the function itself. Whole seconds, at least one.
   */
  async every(ms: number, what: Message | object): Promise<void> {
    const fired = isMessage(what) ? this.encoded(what) : { function: funcOf(what).name };
    await this.act({ every: { seconds: ms / 1000, ...fired } });
  }

  /** Goes on until nothing is left to do at this time: every event is handled or set aside, and so is what followed. */
  async settle(): Promise<void> {
    await this.act("settle");
  }

  /** Lets time pass: schedules and delayed events happen at their times, one after the other, and all that follows. */
  async advance(ms: number): Promise<void> {
    await this.act({ advance: Math.round(ms) });
  }

  /** Time in the app. */
  async time(): Promise<Date> {
    return new Date((await this.act("time")) as number);
  }

  /** Row of a key; `undefined` where none was written. */
  async row<T extends object>(of: RowType<T>, key: string): Promise<T | undefined> {
    const act = { row: { table: of.table, key } };
    const found = (await this.act(act)) as { version: number; fields: Record<string, string> } | null;
    if (!found) return undefined;
    const fields = Object.entries(found.fields).map(([name, text]) => [name, Buffer.from(text)] as const);
    return of.open(new Map(fields), found.version);
  }

  /** Value under a key of a table, as the gateway shows it: the fields of a row, `members` of a set, a `ranking`, or a `count`. */
  async state(table: string, key: string): Promise<unknown> {
    return this.act({ state: { table, key } });
  }

  /** Events of one type, the oldest first, those that were published and those that followed. */
  async events<S extends DescMessage>(schema: S): Promise<MessageShape<S>[]> {
    const type = eventType(schema);
    if (!type) throw new TypeError(`${schema.typeName} is no event of the contract`);
    const found = (await this.act({ events: { type } })) as string[];
    return found.map((event) => fromBinary(schema, Buffer.from(event, "base64")));
  }

  /** Dead letters, by function and event. */
  async deadLetters(): Promise<DeadLetter[]> {
    const found = (await this.act("dead_letters")) as Record<string, string | number>[];
    return found.map(({ event_id, event_type, ...letter }) => {
      return { ...letter, eventId: event_id, eventType: event_type } as unknown as DeadLetter;
    });
  }

  /** Steps of the app so far, a line each: what was published, run, committed, set aside. */
  async journal(): Promise<string[]> {
    return (await this.act("journal")) as string[];
  }

  /** A file of the app, for functions that read it. */
  async putFile(name: string, content: Uint8Array, metadata: Record<string, string> = {}): Promise<void> {
    await this.act({ put_file: { name, content: Buffer.from(content).toString("base64"), metadata } });
  }

  /** Content of a file of the app; `undefined` where there is none. */
  async file(name: string): Promise<Buffer | undefined> {
    const found = (await this.act({ file: { name } })) as string | null;
    return found === null ? undefined : Buffer.from(found, "base64");
  }

  /**
   * Notes something that the app has done outside of its rows and events, such as the mails that a double of the mail server has
   * been given: `luck` compares it as well. The last value under a name counts. Handlers may observe; they do nothing else with an app.
   */
  async observe(name: string, value: unknown): Promise<void> {
    const whole = { depth: null, maxArrayLength: null, maxStringLength: null, sorted: true, breakLength: Infinity };
    const observed = this.send({ observe: { name, value: inspect(value, whole) } });
    // It is seen to once the handler is done, who must not wait for it.
    if (isInHandler()) observed.catch(() => {});
    else await observed;
  }

  /** As the function `luck`, of an app that is of no other use. @internal */
  async luck(scenario: (app: App) => Promise<void>, options: LuckOptions): Promise<Tally> {
    this.scenario = scenario;
    const { seeds = [0, 200], workers = 2, faults = true } = options;
    try {
      const tally = (await this.act({ luck: { seeds, workers, faults } })) as Tally;
      if (!this.failure) return tally;
    } catch (e) {
      // What the scenario comes to is for the test to fail by; all else is a mistake in using the kit.
      if (!this.failure && this.plays > 0 && e instanceof AppError) throw new AssertionError({ message: e.message });
      if (!this.failure) throw e;
    }
    throw this.failure.error;
  }

  /** Plays the scenario once. Where it fails by itself, luck has no part in it. */
  private async play(): Promise<void> {
    let failed: string | null = null;
    this.plays += 1;
    try {
      if (this.failure) throw this.failure.error;
      await this.scenario(this);
    } catch (error) {
      failed = error instanceof Error ? `${error.name}: ${error.message}` : inspect(error);
      if (this.plays === 1) this.failure = { error };
      if (this.plays === 2 && !this.failure) {
        const message = `played once more by itself, the scenario fails: it keeps state from run to run\n${failed}`;
        this.failure = { error: new AssertionError({ message }) };
      }
    }
    await this.act({ played: { failed } });
  }

  /** Ends the app; all that was in it is gone. */
  async close(): Promise<void> {
    this.isClosed = true;
    if (this.host.exitCode !== null || this.host.signalCode !== null || this.host.pid === undefined) return;
    this.keepAlive(true);
    const closed = new Promise<void>((done) => this.host.once("close", () => done()));
    this.input.end();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private encoded(event: Message): { type: string; payload: string } {
    const schema = this.schemas.get(event.$typeName);
    const type = schema && eventType(schema);
    if (!type) throw new AppError(`no function of this app acts on or emits ${event.$typeName}`);
    return { type, payload: Buffer.from(toBinary(schema, event)).toString("base64") };
  }

  private act(act: unknown): Promise<unknown> {
    if (isInHandler()) {
      return Promise.reject(new AppError("the app is at work: a handler cannot use it, but for `observe`"));
    }
    return this.send(act);
  }

  private send(act: unknown): Promise<unknown> {
    if (this.isClosed) return Promise.reject(new AppError("the app is closed"));
    if (this.ended) return Promise.reject(this.ended);
    this.number += 1;
    const number = this.number;
    // Made here, so that it shows the line of the test.
    const failure = new AppError();
    return new Promise((resolve, reject) => {
      this.waiting.set(number, { resolve, reject, failure });
      this.keepAlive(true);
      this.write({ number, act });
    });
  }

  private write(line: object): void {
    this.input.write(`${JSON.stringify(line)}\n`);
  }

  private receive(text: string): void {
    const lines = text.split("\n");
    this.rest.push(lines.shift() ?? "");
    for (const next of lines) {
      this.take(JSON.parse(this.rest.join("")) as Line);
      this.rest = [next];
    }
  }

  private take(line: Line): void {
    if ("function" in line) {
      this.servers.get(line.function)?.take(decode(Buffer.from(line.frame, "base64")));
      return;
    }
    if ("play" in line) {
      // An app that ends under way says so itself.
      this.play().catch(() => {});
      return;
    }
    if (line.number === 0) {
      this.end(new AppError(line.error ?? "oncue-host has lost its place"));
      return;
    }
    const waiting = this.waiting.get(line.number);
    this.waiting.delete(line.number);
    if (this.waiting.size === 0) this.keepAlive(false);
    if (line.error === undefined) waiting?.resolve(line.result);
    else waiting?.reject(said(waiting.failure, line.error));
  }

  private end(error: Error): void {
    this.ended ??= error;
    for (const { reject } of this.waiting.values()) reject(this.ended);
    this.waiting.clear();
    // Nothing more can be done with it, and nobody is held up by it.
    this.input.end();
    this.keepAlive(false);
  }

  /** A test that forgets `close` is not held up by it; one that waits for a result is not ended before it. */
  private keepAlive(isAlive: boolean): void {
    const of = isAlive ? "ref" : "unref";
    this.host[of]();
    (this.host.stdin as unknown as Socket)[of]();
    (this.host.stdout as unknown as Socket)[of]();
  }
}

/** An error with what it says, and the stack that it was made with. */
function said(error: AppError, message: string): AppError {
  const { stack } = error;
  error.message = message;
  error.stack = `${error.name}: ${message}\n${stack?.slice(stack.indexOf("\n") + 1)}`;
  return error;
}
