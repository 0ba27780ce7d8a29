/**
 * Rows: a plain object on one side, a plain Redis hash on the other, one field per field. Text stays text, numbers are decimal,
 * `null` is an absent field, anything nested is JSON: the form that functions in every language write.
 */

import type { Fields } from "./wire.ts";

/** A row that cannot be read or written, with its field. */
export class RowError extends Error {
  override name = "RowError";
}

/** Makes the fields of a row of one version, as texts, those of the next. */
export type Upgrade = (version: number, fields: Record<string, string>) => void;

/** Rows of a table: how they begin, and how they are read and written. */
export class RowType<T extends object> {
  private readonly names: string[];

  constructor(
    readonly table: string,
    private readonly defaults: Record<string, unknown>,
    readonly version: number,
    private readonly upgrade: Upgrade | undefined,
  ) {
    this.names = Object.keys(defaults);
  }

  /** A row of a key that has none. */
  begin(): T {
    const row: Record<string, unknown> = {};
    for (const name of this.names) {
      const value = this.defaults[name];
      row[name] = value instanceof Maybe ? null : copy(value);
    }
    return row as T;
  }

  /** A row as read; fields that are absent have their defaults, those that it does not know are left alone. */
  open(fields: Fields, version: number): T {
    const current = version < this.version ? this.upgraded(fields, version) : fields;
    const row = this.begin() as Record<string, unknown>;
    for (const name of this.names) {
      const text = current.get(name);
      if (text === undefined) continue;
      try {
        row[name] = read(text.toString("utf8"), this.kind(name));
      } catch (e) {
        throw new RowError(`field ${name}: ${(e as Error).message}`);
      }
    }
    return row as T;
  }

  /** All fields of a row, as they are stored. */
  fields(row: T): Fields {
    const found: Fields = new Map();
    const values = row as Record<string, unknown>;
    for (const name in values) {
      if (!Object.hasOwn(this.defaults, name)) {
        throw new RowError(`field ${name}: the rows of ${this.table} have none of this name`);
      }
      const value = values[name];
      if (value === null || value === undefined) continue;
      try {
        found.set(name, Buffer.from(write(value, this.kind(name))));
      } catch (e) {
        throw new RowError(`field ${name}: ${(e as Error).message}`);
      }
    }
    return found;
  }

  /** Fields to set and names of fields to delete, against what was read. */
  changes(now: Fields, read: Fields, version: number): { set: Fields; deleted: string[] } {
    const set: Fields = new Map();
    for (const [name, text] of now) {
      if (!read.get(name)?.equals(text)) set.set(name, text);
    }
    // After an upgrade whatever it took away is gone; otherwise foreign fields stay.
    const left = version < this.version ? this.upgraded(read, version) : undefined;
    const isGone = (name: string): boolean =>
      !now.has(name) && (Object.hasOwn(this.defaults, name) || (left !== undefined && !left.has(name)));
    return { set, deleted: [...read.keys()].filter(isGone) };
  }

  private kind(name: string): unknown {
    const value = this.defaults[name];
    return value instanceof Maybe ? value.of : value;
  }

  private upgraded(fields: Fields, version: number): Fields {
    const texts = Object.create(null) as Record<string, string>;
    for (const [name, value] of fields) texts[name] = value.toString("utf8");
    try {
      for (let step = version; step < this.version; step++) this.upgrade?.(step, texts);
    } catch (e) {
      throw new RowError(`upgrade from version ${version}: ${(e as Error).message}`);
    }
    return new Map(Object.entries(texts).map(([name, text]) => [name, Buffer.from(text)]));
  }
}

/** Rows of `T`, as a handler has them. */
export type RowOf<R> = R extends RowType<infer T> ? T : undefined;

/** Default of a field that may be `null`, with an example of what it holds otherwise. */
export class Maybe<T> {
  constructor(readonly of: T) {}
}

/** A field that begins as `null`, and holds what this is an example of: `maybe("")` for text, `maybe(0n)` for an int64. */
export function maybe<T>(of: T): Maybe<T> {
  return new Maybe(of);
}

type Value<T> = T extends Maybe<infer V> ? V | null : T;

/**
 * Rows of a table, by the values with which one begins: `row("pages", { views: 0, last: maybe("") })`.
 *
 * A `number` holds whole numbers up to 2^53 and fractions, a `bigint` any whole number. A field that is renamed or gets another
 * type makes a new `version`; `upgrade(version, fields)` makes the fields of a row of that version those of the next.
 */
export function row<D extends object>(
  table: string,
  defaults: D,
  options: { version?: number; upgrade?: Upgrade } = {},
): RowType<{ -readonly [K in keyof D]: Value<D[K]> }> {
  const version = options.version ?? 1;
  if (!/^[a-z0-9-]+$/.test(table)) {
    throw new TypeError(`${JSON.stringify(table)} is no name of a table: a-z, 0-9 and '-'`);
  }
  if (version < 1 || (version > 1 && !options.upgrade)) {
    throw new TypeError(`rows of version ${version} need an upgrade from the versions before`);
  }
  for (const [name, value] of Object.entries(defaults)) {
    if (value === null || value === undefined) {
      throw new TypeError(`${table}.${name} begins as ${value}: say with maybe("") or the like what it holds otherwise`);
    }
    if (typeof value === "function" || typeof value === "symbol") {
      throw new TypeError(`${table}.${name}: a row cannot hold a ${typeof value}`);
    }
    const inner = value instanceof Maybe ? value.of : value;
    if (typeof inner === "object" && !isOwnKind(inner) && Object.values(inner as object).some(holdsOwnKind)) {
      throw new TypeError(`${table}.${name}: a Map, a Set or bytes within a field come back as plain values; give them a field of their own`);
    }
  }
  return new RowType(table, defaults as Record<string, unknown>, version, options.upgrade);
}

/** Whether JSON has no form for a value, which a field of its own has. */
function isOwnKind(value: unknown): boolean {
  return value instanceof Map || value instanceof Set || value instanceof Uint8Array;
}

function holdsOwnKind(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  return isOwnKind(value) || Object.values(value).some(holdsOwnKind);
}

/** Value of a field, by an example of what it holds. */
function read(text: string, kind: unknown): unknown {
  switch (typeof kind) {
    case "string":
      return text;
    case "number":
      return number(text);
    case "bigint":
      if (!/^[+-]?[0-9]+$/.test(text)) throw new TypeError(`${JSON.stringify(text)} is no whole number`);
      return BigInt(text.startsWith("+") ? text.slice(1) : text);
    case "boolean":
      if (text !== "true" && text !== "false") throw new TypeError(`${JSON.stringify(text)} is neither true nor false`);
      return text === "true";
    default:
      return revive(JSON.parse(text), kind);
  }
}

function number(text: string): number {
  const value = Number(text);
  if (/^-?Infinity$/.test(text)) return value;
  if (text.trim() !== text || text === "" || !/^[+-]?[0-9.]+(e[+-]?[0-9]+)?$/i.test(text) || Number.isNaN(value)) {
    throw new TypeError(`${JSON.stringify(text)} is no number`);
  }
  if (/^[+-]?[0-9]+$/.test(text) && !Number.isSafeInteger(value)) {
    throw new TypeError(`${text} is larger than a number holds exactly; begin the field as a bigint, 0n`);
  }
  return value;
}

/** What JSON has no form for: bytes, sets and maps. */
function revive(value: unknown, kind: unknown): unknown {
  if (kind instanceof Uint8Array) return Uint8Array.from(value as number[]);
  if (kind instanceof Set) return new Set(value as unknown[]);
  if (kind instanceof Map) return new Map(Object.entries(value as object));
  if (Array.isArray(kind) !== Array.isArray(value) || typeof value !== "object" || value === null) {
    throw new TypeError(`${JSON.stringify(value)} is no ${Array.isArray(kind) ? "list" : "object"}`);
  }
  return value;
}

function write(value: unknown, kind: unknown): string {
  const holds = typeof kind;
  if (typeof value !== holds) throw new TypeError(`${show(value)} is no ${holds}`);
  switch (typeof value) {
    case "string":
      return value;
    case "number":
      return Math.abs(value as number) === Infinity ? String(value) : json(value);
    case "bigint":
    case "boolean":
      return String(value);
    default:
      return json(value);
  }
}

function show(value: unknown): string {
  return typeof value === "bigint" ? `${value}n` : (JSON.stringify(value) ?? String(value));
}

/** JSON as other languages write it: `1e21` and not `1e+21`, whole numbers in full, bytes as a list. */
function json(value: unknown): string {
  switch (typeof value) {
    case "number": {
      if (!Number.isFinite(value)) throw new TypeError(`${value} is no number that can be stored`);
      if (Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(value) < 1e21) {
        throw new TypeError(`${value} may have lost its last digits; begin the field as a bigint, 0n`);
      }
      return String(value).replace("e+", "e");
    }
    case "string":
    case "boolean":
      return JSON.stringify(value);
    case "object":
      break;
    default:
      throw new TypeError(`a ${typeof value} cannot be stored within a field; give it a field of its own, or make it text`);
  }
  if (value === null) return "null";
  if (Array.isArray(value) || value instanceof Uint8Array || value instanceof Set) {
    return `[${[...value].map(json).join(",")}]`;
  }
  if (value instanceof Map && [...value.keys()].some((key) => typeof key !== "string")) {
    throw new TypeError("keys of a Map are stored as text, and come back as that: use text for keys");
  }
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  const present = entries.filter(([, inner]) => inner !== undefined);
  return `{${present.map(([name, inner]) => `${JSON.stringify(String(name))}:${json(inner)}`).join(",")}}`;
}

function copy(value: unknown): unknown {
  return typeof value === "object" ? structuredClone(value) : value;
}
