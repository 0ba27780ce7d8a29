#!/usr/bin/env node
/** `oncue-node FILE`: serves the function in a file to the host that has started this process. `oncue-node generate [FOLDER]`. */

import { writeSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { inspect } from "node:util";

import { functions } from "./func.ts";
import { generate } from "./generate.ts";
import { place } from "./place.ts";
import "./register.ts";
import { Connection, Server, fatal, hello, speakThrough } from "./serve.ts";
import { findTelemetry } from "./trace.ts";

const USAGE =
  "usage: oncue-node FILE               the function in a file, for oncue-host, which runs it\n" +
  "       oncue-node generate [FOLDER]  types of the events, from the app's .proto files; FOLDER is gen";

/** A file without the function that was asked for: nothing of the author's has failed. */
class NoFunction extends Error {}

function main(): number | undefined {
  const [first, second, ...more] = process.argv.slice(2);
  if (first === "generate" && more.length === 0) return types(second ?? "gen");
  if (!first || second || first.startsWith("-")) {
    const isAsked = first === "--help" || first === "-h";
    (isAsked ? console.log : console.error)(USAGE);
    return isAsked ? 0 : 2;
  }
  const socket = process.env["ONCUE_SOCKET"];
  delete process.env["ONCUE_SOCKET"];
  if (!socket) {
    console.error(
      "oncue-node speaks to oncue-host, which has not started it: write\n" +
        `  [functions.NAME]\n  run = ["node_modules/.bin/oncue-node", "${first}"]\n` +
        "into oncue.toml, and run `oncue up`",
    );
    return 2;
  }
  serve(new Connection(Number(socket)), first);
  return undefined;
}

function types(folder: string): number {
  try {
    if (generate(folder)) console.log(`${folder}/ is made anew`);
    return 0;
  } catch (e) {
    console.error(e instanceof Error ? e.message : e);
    return 1;
  }
}

function serve(connection: Connection, file: string): void {
  let server: Server | undefined;
  connection.onFrame((incoming) => {
    if (incoming.kind === "begin") {
      load(file, incoming.function).then(
        (func) => {
          server = new Server(func, connection);
          speakThrough(connection);
          sayLast();
          connection.send(hello(func.manifest(), func.contract()));
        },
        (e: unknown) => {
          if (!(e instanceof NoFunction)) console.error(e);
          let text = e instanceof Error ? e.message : String(e);
          if (/_pb\.js'/.test(text)) text += "; make the types of the events with `oncue-node generate gen`";
          connection.end(fatal(place(e) ? `${place(e)}: ${text}` : text), 1);
        },
      );
    } else if (incoming.kind === "fatal" && !server) {
      console.error(`oncue-host: ${incoming.sentence}`);
      process.exit(1);
    } else {
      server?.take(incoming);
    }
  });
}

/** Has a process that ends by an error nobody has awaited say which as its last line, which stands in the dead letters. */
function sayLast(): void {
  // An app that sees to them itself goes on as it likes.
  if (process.listenerCount("uncaughtException") > 0) return;
  process.on("uncaughtException", (e: unknown) => {
    const at = place(e);
    const name = e instanceof Error ? `${e.name}: ${e.message}` : inspect(e);
    // Past what is logged, since this process has no time for it any more.
    writeSync(2, `${e instanceof Error ? e.stack : ""}\n${at ? `${at}: ` : ""}${name.split("\n", 1)[0]}, which nobody has awaited\n`);
    process.exit(1);
  });
}

/** The function `name` of a file. */
async function load(file: string, name: string) {
  await findTelemetry();
  await import(pathToFileURL(resolve(file)).href);
  const found = functions.get(name);
  if (found) return found;
  const known = [...functions.keys()].join(", ") || "none";
  throw new NoFunction(`${file} has no func(${JSON.stringify(name)}, ...); it has ${known}`);
}

const code = main();
if (code !== undefined) process.exitCode = code;
