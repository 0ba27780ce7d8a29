/** Place in the author's source. */

import { relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** `file:line` of the nearest frame in the app's own files, as seen from its folder. */
export function place(error: unknown): string {
  const stack = error instanceof Error ? (error.stack ?? "") : "";
  const root = process.cwd() + sep;
  for (const line of stack.split("\n")) {
    const found = /\(?((?:file:\/\/)?\/[^()]*?):(\d+):\d+\)?$/.exec(line.trim());
    if (!found?.[1]) continue;
    const path = found[1].startsWith("file:") ? fileURLToPath(found[1]) : found[1];
    if (path.startsWith(root) && !path.includes(`${sep}node_modules${sep}`)) return `${relative(root, path)}:${found[2]}`;
  }
  return "";
}
