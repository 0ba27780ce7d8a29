/** Module hook that blanks out the types of TypeScript, by the stripper that is in Node itself as well [swc]. */

import { createHash } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Kept between starts, beside this package: loading the stripper takes a third of a second, and a function starts often. */
const CACHE = join(dirname(fileURLToPath(import.meta.url)), "..", "..", ".cache", "oncue");

interface Loaded {
  format: string;
  shortCircuit?: boolean;
  source?: string;
}

export async function load(
  url: string,
  context: object,
  next: (url: string, context: object) => Promise<Loaded>,
): Promise<Loaded> {
  const bare = url.split("?", 1)[0] ?? url;
  if (!bare.startsWith("file:") || !(bare.endsWith(".ts") || bare.endsWith(".mts"))) return next(url, context);
  const path = fileURLToPath(bare);
  const source = await readFile(path, "utf8");
  return { format: "module", shortCircuit: true, source: await stripped(source, path) };
}

async function stripped(source: string, path: string): Promise<string> {
  const kept = join(CACHE, `${createHash("sha256").update(source).digest("hex")}.js`);
  try {
    return await readFile(kept, "utf8");
  } catch {
    // Not there yet, or not readable: made anew.
  }
  const { transformSync } = await import("@swc/wasm-typescript");
  let code: string;
  try {
    code = transformSync(source, { mode: "strip-only", filename: path }).code;
  } catch (e) {
    // What it throws is no Error of this process.
    const { message, startLine } = e as { message?: string; startLine?: number };
    throw new SyntaxError(`${path}${startLine ? `:${startLine}` : ""}: ${message ?? e}`);
  }
  try {
    await mkdir(CACHE, { recursive: true });
    const beside = `${kept}.${process.pid}`;
    await writeFile(beside, code);
    await rename(beside, kept);
  } catch {
    // A folder that cannot be written to costs the next start some time.
  }
  return code;
}
