/**
 * Files of the app: those that clients uploaded, under their ids, and those that functions made.
 *
 * Not part of the commit, unlike rows and events: a run that is repeated writes once more. So give files names that a second
 * run gives again, such as the id of the file that they were made of.
 */

/** Description of a stored file. */
export interface StoredFile {
  name: string;
  size: number;
  sha256: string;
  metadata: Record<string, string>;
}

/** The object store could not do it now: the event is tried again. */
export class FileError extends Error {
  override name = "FileError";
}

/** One request; those about a file that is open name the request that opened it. */
export type FileAct =
  | { kind: "stat" | "open" | "delete"; name: string }
  | { kind: "create"; name: string; metadata: Record<string, string> }
  | { kind: "append"; opened: number; chunk: Uint8Array }
  | { kind: "next" | "finish" | "close"; opened: number };

/** Reply to a request. */
export type FileReply = { number: number } & (
  | { kind: "file"; file: StoredFile }
  | { kind: "chunk"; chunk: Uint8Array }
  | { kind: "absent" | "done" }
  | { kind: "failure"; class: string; text: string }
);

/** Uses of files in their order: each allows those before it. */
export const uses = ["", "read", "write"] as const;
export type FileUse = (typeof uses)[number];

/** Bytes of one part that is written. */
const PART = 128 * 1024;

export class Files {
  /** Numbers of the requests that opened what is still open. */
  readonly openNumbers = new Set<number>();

  constructor(
    private readonly send: (act: FileAct) => Promise<FileReply>,
    private readonly func: { readonly name: string; readonly files: FileUse },
    private readonly rejection: (why: string) => Error,
  ) {}

  /** Size, digest and metadata; `undefined` where there is no such file (any more). */
  async stat(name: string): Promise<StoredFile | undefined> {
    this.mustDeclare("read");
    return described(await this.ask({ kind: "stat", name }));
  }

  /** The whole content; `undefined` where there is no such file. More than `limit` bytes are a rejection of the event. */
  async read(name: string, limit: number): Promise<Buffer | undefined> {
    const file = await this.stat(name);
    if (file && file.size > limit) {
      throw this.rejection(`file ${name} has ${file.size} bytes, more than the ${limit} allowed`);
    }
    const parts = file && (await this.open(name));
    if (!parts) return undefined;
    const all: Uint8Array[] = [];
    for await (const part of parts) all.push(part);
    return Buffer.concat(all);
  }

  /** The content part by part, whatever its size; ends in an error if it is not what was stored. */
  async open(name: string): Promise<AsyncIterable<Uint8Array> | undefined> {
    this.mustDeclare("read");
    const reply = await this.ask({ kind: "open", name });
    if (!described(reply)) return undefined;
    this.openNumbers.add(reply.number);
    return this.parts(reply.number);
  }

  private async *parts(opened: number): AsyncGenerator<Uint8Array> {
    for (;;) {
      const reply = await this.ask({ kind: "next", opened });
      if (reply.kind !== "chunk") {
        this.openNumbers.delete(opened);
        return;
      }
      yield reply.chunk;
    }
  }

  /** Stores a file, in place of one of this name. In a dry run only the description is made. */
  async put(
    name: string,
    data: Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    metadata: Record<string, string> = {},
  ): Promise<StoredFile> {
    this.mustDeclare("write");
    const { number: opened } = await this.ask({ kind: "create", name, metadata });
    this.openNumbers.add(opened);
    for await (const part of data instanceof Uint8Array ? [data] : data) {
      for (let at = 0; at < part.length; at += PART) {
        const chunk = part.subarray(at, at + PART);
        const reply = await this.ask({ kind: "append", opened, chunk });
        if (reply.kind === "file") throw new FileError("the store took no more of the file");
      }
    }
    this.openNumbers.delete(opened);
    return described(await this.ask({ kind: "finish", opened })) as StoredFile;
  }

  /** Deletes a file; one that is not there is deleted already. */
  async delete(name: string): Promise<void> {
    this.mustDeclare("write");
    await this.ask({ kind: "delete", name });
  }

  private mustDeclare(wanted: "read" | "write"): void {
    const { name, files } = this.func;
    if (uses.indexOf(files) < uses.indexOf(wanted)) {
      throw this.rejection(`${name} does not declare that it ${wanted}s files: add files: "${wanted}" to its func()`);
    }
  }

  private async ask(act: FileAct): Promise<FileReply> {
    const reply = await this.send(act);
    if (reply.kind !== "failure") return reply;
    throw reply.class === "rejected" ? this.rejection(reply.text) : new FileError(reply.text);
  }
}

function described(reply: FileReply): StoredFile | undefined {
  return reply.kind === "file" ? reply.file : undefined;
}
