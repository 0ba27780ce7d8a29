#!/usr/bin/env node
/** `oncue-node FILE`: serves the function in a file to the host that has started this process. `oncue-node generate [FOLDER]`. */

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

import { functions } from "./func.ts";
import { generate } from "./generate.ts";
import { place } from "./place.ts";
import "./register.ts";
import { Connection, Server, fatal, hello, speakThrough } from "./serve.ts";

const USAGE = "usage: oncue-node FILE, run by oncue-host; or oncue-node generate [FOLDER], for the types of the events";

function main(): number | undefined {
  const [first, second, ...more] = process.argv.slice(2);
  if (first === "generate" && more.length === 0) return types(second ?? "gen");
  if (!first || second) {
    console.error(USAGE);
    return 2;
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
    console.log(generate(folder) ? `${folder}/ is made anew` : `${folder}/ is as it has to be`);
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
          connection.send(hello(func.manifest(), func.contract()));
        },
        (e: unknown) => {
          console.error(e);
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

/** The function `name` of a file. */
async function load(file: string, name: string) {
  await import(pathToFileURL(resolve(file)).href);
  const found = functions.get(name);
  if (found) return found;
  const known = [...functions.keys()].join(", ") || "none";
  throw new Error(`${file} has no func(${JSON.stringify(name)}, ...); it has ${known}`);
}

const code = main();
if (code !== undefined) process.exitCode = code;
