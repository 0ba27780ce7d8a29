/**
 * Frames of the function protocol (`oncue/v1/function.proto`), read and written by hand: half of what a general library
 * costs, and nothing in it but what a child needs. Numbers are doubles: all of them are counts and times.
 */

import type { FileAct, FileReply, StoredFile } from "./files.ts";

/** Reader of one message. */
export class Reader {
  private at = 0;
  private readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  /** Number of the next field and its wire type as `number << 3 | type`; 0 at the end. */
  tag(): number {
    return this.at < this.bytes.length ? this.varint() : 0;
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let count = 0; count < 10; count++) {
      const byte = this.bytes[this.at++];
      if (byte === undefined) throw new RangeError("a number is cut off");
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 128;
    }
    throw new RangeError("a number is longer than ten bytes");
  }

  data(): Buffer {
    const length = this.varint();
    const begin = this.at;
    this.at += length;
    if (this.at > this.bytes.length) throw new RangeError("a field is cut off");
    return this.bytes.subarray(begin, this.at);
  }

  text(): string {
    return this.data().toString("utf8");
  }

  message(): Reader {
    return new Reader(this.data());
  }

  /** Passes over a field that is not known. */
  skip(tag: number): void {
    const type = tag & 7;
    if (type === 0) this.varint();
    else if (type === 1) this.at += 8;
    else if (type === 2) this.data();
    else if (type === 5) this.at += 4;
    else throw new RangeError(`a field of wire type ${type}`);
  }
}

/** Writer of one frame, nested messages included. */
export class Writer {
  private bytes: Buffer;
  private at = 4;

  constructor(size = 512) {
    this.bytes = Buffer.allocUnsafe(size);
  }

  private room(size: number): void {
    const needed = this.at + size;
    if (needed <= this.bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(needed, this.bytes.length * 2));
    this.bytes.copy(grown, 0, 0, this.at);
    this.bytes = grown;
  }

  /** Bytes written so far. */
  get size(): number {
    return this.at;
  }

  private raw(value: number): void {
    if (!(value >= 0 && value <= Number.MAX_SAFE_INTEGER)) throw new RangeError(`${value} is no count that can be sent`);
    this.room(10);
    while (value > 0x7f) {
      this.bytes[this.at++] = (value % 128) | 0x80;
      value = Math.floor(value / 128);
    }
    this.bytes[this.at++] = value;
  }

  /** A number; none for 0, as proto3 has it. */
  number(field: number, value: number): this {
    if (value !== 0) {
      this.raw(field << 3);
      this.raw(value);
    }
    return this;
  }

  flag(field: number, value: boolean): this {
    return this.number(field, value ? 1 : 0);
  }

  /** A `sint64`. */
  signed(field: number, value: bigint): this {
    let rest = BigInt.asUintN(64, (value << 1n) ^ (value >> 63n));
    this.raw(field << 3);
    this.room(10);
    while (rest > 0x7fn) {
      this.bytes[this.at++] = Number(rest & 0x7fn) | 0x80;
      rest >>= 7n;
    }
    this.bytes[this.at++] = Number(rest);
    return this;
  }

  /** Text; none where it is empty, unless it is one of several and must be there. */
  text(field: number, value: string, always = false): this {
    if (value === "" && !always) return this;
    const length = Buffer.byteLength(value);
    this.raw((field << 3) | 2);
    this.raw(length);
    this.room(length);
    this.at += this.bytes.write(value, this.at, "utf8");
    return this;
  }

  data(field: number, value: Uint8Array): this {
    if (value.length === 0) return this;
    this.raw((field << 3) | 2);
    this.raw(value.length);
    this.room(value.length);
    this.bytes.set(value, this.at);
    this.at += value.length;
    return this;
  }

  /** A nested message. Its length gets four bytes before it is known: a varint may be longer than it has to be. */
  message(field: number, fill: (writer: this) => void): this {
    this.raw((field << 3) | 2);
    this.room(4);
    const begin = this.at;
    this.at += 4;
    fill(this);
    let length = this.at - begin - 4;
    for (let byte = 0; byte < 4; byte++) {
      this.bytes[begin + byte] = (length & 0x7f) | (byte < 3 ? 0x80 : 0);
      length >>>= 7;
    }
    return this;
  }

  /** Message without a frame. */
  body(): Buffer {
    return this.bytes.subarray(4, this.at);
  }

  /** The frame, its length in front. */
  finish(): Buffer {
    this.bytes.writeUInt32LE(this.at - 4, 0);
    return this.bytes.subarray(0, this.at);
  }
}

/** Fields of a row as stored. */
export type Fields = Map<string, Buffer>;

export interface WireEvent {
  id: string;
  source: string;
  type: string;
  timeMs: number;
  payload: Buffer;
  flow: string;
  cause: string;
  hops: number;
  attempt: number;
  timeoutMs: number;
  traceparent: string;
  tracestate: string;
  baggage: string;
}

export interface Run {
  number: number;
  key: string;
  rowVersion: number;
  fields: Fields;
  events: WireEvent[];
  check: boolean;
  dryRun: boolean;
}

/** A frame of the host, as far as a child acts on it. */
export type Incoming =
  | { kind: "begin"; function: string; contract: Buffer }
  | { kind: "welcome"; features: string[]; maxFrame: number }
  | { kind: "fileReply"; reply: FileReply }
  | { kind: "invoke"; runs: Run[] }
  | { kind: "cancel"; run: number }
  | { kind: "ping"; number: number }
  | { kind: "drain" }
  | { kind: "fatal"; sentence: string }
  | { kind: "unknown" };

/** Members of `Frame`. */
export const frame = {
  begin: 1,
  hello: 2,
  welcome: 3,
  invoke: 4,
  answer: 5,
  cancel: 6,
  ping: 7,
  pong: 8,
  log: 9,
  drain: 10,
  drained: 11,
  fatal: 12,
  fileRequest: 13,
  fileReply: 14,
} as const;

/** Reads what stands behind the length of a frame. */
export function decode(bytes: Buffer): Incoming {
  const reader = new Reader(bytes);
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    switch (tag >>> 3) {
      case frame.begin:
        return begin(reader.message());
      case frame.welcome:
        return welcome(reader.message());
      case frame.fileReply:
        return { kind: "fileReply", reply: fileReply(reader.message()) };
      case frame.invoke:
        return { kind: "invoke", runs: runs(reader.message()) };
      case frame.cancel:
        return { kind: "cancel", run: first(reader.message()) };
      case frame.ping:
        return { kind: "ping", number: first(reader.message()) };
      case frame.drain:
        return { kind: "drain" };
      case frame.fatal:
        return { kind: "fatal", sentence: sentence(reader.message()) };
      default:
        reader.skip(tag);
    }
  }
  return { kind: "unknown" };
}

function begin(reader: Reader): Incoming {
  const found = { kind: "begin" as const, function: "", contract: Buffer.alloc(0) as Buffer };
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag >>> 3 === 2) found.function = reader.text();
    else if (tag >>> 3 === 3) found.contract = reader.data();
    else reader.skip(tag);
  }
  return found;
}

function welcome(reader: Reader): Incoming {
  const features: string[] = [];
  let maxFrame = 0;
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag >>> 3 === 2) features.push(reader.text());
    else if (tag >>> 3 === 3) maxFrame = reader.varint();
    else reader.skip(tag);
  }
  return { kind: "welcome", features, maxFrame };
}

function fileReply(reader: Reader): FileReply {
  let number = 0;
  let found: FileReply = { number, kind: "done" };
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    switch (tag >>> 3) {
      case 1:
        number = reader.varint();
        break;
      case 2:
        found = { number, kind: "file", file: storedFile(reader.message()) };
        break;
      case 3:
        reader.skip(tag);
        found = { number, kind: "absent" };
        break;
      case 4:
        found = { number, kind: "chunk", chunk: reader.data() };
        break;
      case 6:
        found = { number, kind: "failure", ...failure(reader.message()) };
        break;
      default:
        reader.skip(tag);
    }
  }
  return { ...found, number };
}

function storedFile(reader: Reader): StoredFile {
  const found: StoredFile = { name: "", size: 0, sha256: "", metadata: {} };
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag >>> 3 === 1) found.name = reader.text();
    else if (tag >>> 3 === 2) found.size = reader.varint();
    else if (tag >>> 3 === 3) found.sha256 = reader.text();
    else if (tag >>> 3 === 4) {
      const entry: Fields = new Map();
      field(reader.message(), entry);
      for (const [name, value] of entry) found.metadata[name] = value.toString();
    } else reader.skip(tag);
  }
  return found;
}

function failure(reader: Reader): { class: string; text: string } {
  const found = { class: "", text: "" };
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag >>> 3 === 1) found.class = reader.text();
    else if (tag >>> 3 === 2) found.text = reader.text();
    else reader.skip(tag);
  }
  return found;
}

/** A request for a file, of a run. */
export function fileRequest(number: number, run: number, act: FileAct): Buffer {
  const writer = new Writer(act.kind === "append" ? 256 + act.chunk.length : 256);
  writer.message(frame.fileRequest, (request) => {
    request.number(1, number).number(2, run);
    switch (act.kind) {
      case "stat":
      case "open":
      case "delete":
        request.text({ stat: 3, open: 4, delete: 9 }[act.kind], act.name, true);
        break;
      case "next":
      case "finish":
      case "close":
        request.number({ next: 5, finish: 8, close: 10 }[act.kind], act.opened);
        break;
      case "create":
        request.message(6, (create) => {
          create.text(1, act.name);
          for (const [name, value] of Object.entries(act.metadata)) {
            create.message(2, (entry) => entry.text(1, name).text(2, value));
          }
        });
        break;
      case "append":
        request.message(7, (append) => append.number(1, act.opened).data(2, act.chunk));
    }
  });
  return writer.finish();
}

/** Number in field 1. */
function first(reader: Reader): number {
  let found = 0;
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag >>> 3 === 1) found = reader.varint();
    else reader.skip(tag);
  }
  return found;
}

function sentence(reader: Reader): string {
  let found = "";
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag >>> 3 === 1) found = reader.text();
    else reader.skip(tag);
  }
  return found;
}

function runs(reader: Reader): Run[] {
  const found: Run[] = [];
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag >>> 3 === 1) found.push(run(reader.message()));
    else reader.skip(tag);
  }
  return found;
}

function run(reader: Reader): Run {
  const found: Run = {
    number: 0,
    key: "",
    rowVersion: 1,
    fields: new Map(),
    events: [],
    check: false,
    dryRun: false,
  };
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    switch (tag >>> 3) {
      case 1:
        found.number = reader.varint();
        break;
      case 2:
        found.key = reader.text();
        break;
      case 3:
        found.rowVersion = reader.varint();
        break;
      case 4:
        field(reader.message(), found.fields);
        break;
      case 5:
        found.events.push(event(reader.message()));
        break;
      case 6:
        found.check = reader.varint() !== 0;
        break;
      case 7:
        found.dryRun = reader.varint() !== 0;
        break;
      default:
        reader.skip(tag);
    }
  }
  return found;
}

function field(reader: Reader, fields: Fields): void {
  let name = "";
  let value: Buffer = Buffer.alloc(0);
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag >>> 3 === 1) name = reader.text();
    else if (tag >>> 3 === 2) value = reader.data();
    else reader.skip(tag);
  }
  fields.set(name, value);
}

/** Names of the fields of an event, by their numbers. */
const EVENT = [
  undefined,
  "id",
  "source",
  "type",
  "timeMs",
  "payload",
  "flow",
  "cause",
  "hops",
  "attempt",
  "timeoutMs",
  "traceparent",
  "tracestate",
  "baggage",
] as const;

/** An event with nothing in it. */
export function emptyEvent(): WireEvent {
  return {
    id: "",
    source: "",
    type: "",
    timeMs: 0,
    payload: Buffer.alloc(0),
    flow: "",
    cause: "",
    hops: 0,
    attempt: 0,
    timeoutMs: 0,
    traceparent: "",
    tracestate: "",
    baggage: "",
  };
}

function event(reader: Reader): WireEvent {
  const found = emptyEvent();
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    const name = EVENT[tag >>> 3];
    switch (name) {
      case undefined:
        reader.skip(tag);
        break;
      case "payload":
        found.payload = reader.data();
        break;
      case "timeMs":
      case "hops":
      case "attempt":
      case "timeoutMs":
        found[name] = reader.varint();
        break;
      default:
        found[name] = reader.text();
    }
  }
  return found;
}
