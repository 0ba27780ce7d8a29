// Client of an Oncue gateway for browsers: events, routes, flows, rows, streams. A module without dependencies and without a
// build step, served at /v1/client.js; its types are in comments, as TypeScript reads them.

/**
 * Problem document of the gateway [RFC 9457], as an error.
 */
export class Problem extends Error {
  /**
   * @param {number} status
   * @param {{type?: string, title?: string, detail?: string, trace_id?: string}} document
   */
  constructor(status, document) {
    super(document.detail ?? document.title ?? `status ${status}`);
    this.name = "Problem";
    /** Status of the answer; 0 where there was none. */
    this.status = status;
    /** Class for programs, such as `not-found`. */
    this.code = (document.type ?? "").replace("urn:oncue:problem:", "");
    /** Id of the trace, for Jaeger. */
    this.traceId = document.trace_id;
  }
}

/**
 * @typedef {object} Accepted An event that was taken.
 * @property {string} id
 * @property {string} flow Id of the flow that begins with it.
 * @property {string} traceparent
 * @property {boolean} duplicate It was taken before, and counts once.
 */

/**
 * @typedef {object} Flow
 * @property {string} id
 * @property {"complete" | "running" | "failed" | "lost"} status
 * @property {number} open Steps that are still to be taken.
 * @property {{id: string, type: string, key: string, steps: object[]}[]} events
 */

/**
 * @template T
 * @typedef {object} CloudEvent
 * @property {string} id
 * @property {string} source
 * @property {string} type
 * @property {string} time
 * @property {string} [subject] Key of the event.
 * @property {T} data
 */

/**
 * @typedef {object} SendOptions
 * @property {string} [id] Key of the event: sent again under it by the same client, it counts once. Default: a new one.
 * @property {number} [wait] Seconds to wait for the whole flow. Default: none.
 * @property {number} [attempts] Tries where the gateway is away or too busy. Default 3.
 */

/**
 * @typedef {object} OncueOptions
 * @property {string | (() => string | Promise<string>)} [token] Token or API key, sent with every request; a function is asked
 * each time, so that it can give a new one. Default: none.
 */

/**
 * New id. Not every place a page is served from is a secure context, which `randomUUID` wants.
 * @returns {string}
 */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** A gateway. */
export class Oncue {
  /**
   * @param {string} [base] Address of the gateway. Default: where the page is from.
   * @param {OncueOptions} [options]
   */
  constructor(base = "", { token } = {}) {
    this.base = base.replace(/\/$/, "");
    this.token = token;
  }

  /** Headers with the credential. */
  async credential() {
    const token = typeof this.token === "function" ? await this.token() : this.token;
    return token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  /** Server-sent events of a path. `EventSource` sends no headers, so with a credential they are read by hand. */
  source(path) {
    return this.token === undefined ? new EventSource(this.base + path) : new Source(this, path);
  }

  /**
   * Sends an event of a public type.
   * @template {object} T
   * @param {string} type Such as `web.page.viewed`.
   * @param {T} data Fields of the event.
   * @param {SendOptions} [options]
   * @returns {Promise<Accepted | Flow>} The flow, where it was waited for and came in time.
   */
  send(type, data, options = {}) {
    return this.call("POST", `/v1/events/${encodeURIComponent(type)}`, data, options);
  }

  /**
   * Calls a route of `oncue.toml`. It is safe to send again what makes an event: every try has the same id.
   * @param {string} method
   * @param {string} path
   * @param {unknown} [body] As JSON. Default: none.
   * @param {SendOptions} [options]
   * @returns {Promise<any>} JSON of the answer; `undefined` where it has none.
   */
  async call(method, path, body, { id = newId(), wait, attempts = 3 } = {}) {
    const headers = { "idempotency-key": id };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (wait !== undefined) headers.prefer = `wait=${wait}`;
    const request = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
    let problem = new Problem(0, { detail: "the gateway does not answer" });
    for (let attempt = 1; attempt <= attempts; attempt += 1) {
      const credential = await this.credential();
      let answer;
      try {
        answer = await fetch(this.base + path, { ...request, headers: { ...headers, ...credential } });
      } catch {
        // Away: the same again.
      }
      if (answer) {
        const text = await answer.text();
        if (answer.ok) return text === "" ? undefined : JSON.parse(text);
        problem = new Problem(answer.status, parsed(text));
        if (answer.status !== 503 && answer.status !== 429) break;
      }
      if (attempt < attempts) await pause(1000 * attempt);
    }
    throw problem;
  }

  /**
   * How a flow stands.
   * @param {string} id
   * @returns {Promise<Flow>}
   */
  flow(id) {
    return this.call("GET", `/v1/flows/${encodeURIComponent(id)}`);
  }

  /**
   * Row of a table that the gateway exposes.
   * @param {string} table
   * @param {string} key
   * @returns {Promise<any | undefined>} `undefined` where there is none.
   */
  async row(table, key) {
    try {
      return await this.call("GET", rowPath(table, key));
    } catch (problem) {
      if (problem instanceof Problem && problem.code === "not-found") return undefined;
      throw problem;
    }
  }

  /**
   * Follows a row: hears its value now, and each time it has changed.
   * @param {string} table
   * @param {string} key
   * @param {(row: any | undefined) => void} heard `undefined` where there is none.
   * @param {(connected: boolean) => void} [connection] Whether the line stands; it comes back by itself.
   * @returns {() => void} Ends it.
   */
  follow(table, key, heard, connection) {
    const source = this.source(rowPath(table, key));
    source.addEventListener("row", (event) => heard(JSON.parse(event.data)));
    source.addEventListener("gone", () => heard(undefined));
    return watched(source, connection);
  }

  /**
   * Hears events as they happen. After a break it goes on where it stopped; where that cannot be, `reset` is called: read anew
   * what you keep.
   * @template T
   * @param {string} type
   * @param {(event: CloudEvent<T>) => void} heard
   * @param {{key?: string, reset?: (reason: string) => void, connection?: (connected: boolean) => void}} [options]
   * @returns {() => void} Ends it.
   */
  listen(type, heard, { key, reset, connection } = {}) {
    const query = new URLSearchParams({ type });
    if (key !== undefined) query.set("key", key);
    const source = this.source(`/v1/stream?${query}`);
    source.addEventListener(type, (event) => heard(JSON.parse(event.data)));
    source.addEventListener("reset", (event) => reset?.(JSON.parse(event.data).reason));
    return watched(source, connection);
  }
}

// As much of EventSource as is used here, with a credential: it comes again after a break, and not after a refusal.
class Source extends EventTarget {
  constructor(oncue, path) {
    super();
    this.stopped = new AbortController();
    this.last = "";
    this.run(oncue, path);
  }

  close() {
    this.stopped.abort();
  }

  async run(oncue, path) {
    const { signal } = this.stopped;
    while (!signal.aborted) {
      try {
        const headers = { accept: "text/event-stream", ...(await oncue.credential()) };
        if (this.last !== "") headers["last-event-id"] = this.last;
        const answer = await fetch(oncue.base + path, { headers, signal, cache: "no-store" });
        if (answer.ok) {
          this.dispatchEvent(new Event("open"));
          await this.read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
        } else if (answer.status !== 503 && answer.status !== 429) {
          this.close();
          this.dispatchEvent(new Event("error"));
        }
      } catch {
        // Away, or closed.
      }
      if (signal.aborted) return;
      this.dispatchEvent(new Event("error"));
      await pause(2000);
    }
  }

  async read(reader) {
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      blocks.forEach((block) => this.hear(block));
    }
  }

  hear(block) {
    const data = [];
    let name = "message";
    for (const line of block.split("\n")) {
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (field === "event") name = value;
      if (field === "data") data.push(value);
      if (field === "id") this.last = value;
    }
    if (data.length > 0) this.dispatchEvent(new MessageEvent(name, { data: data.join("\n") }));
  }
}

const rowPath = (table, key) => `/v1/state/${encodeURIComponent(table)}/${encodeURIComponent(key)}`;

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

// A browser connects again by itself after a break, but not after a refusal.
function watched(source, connection = () => {}) {
  source.addEventListener("open", () => connection(true));
  source.addEventListener("error", () => connection(false));
  return () => source.close();
}
