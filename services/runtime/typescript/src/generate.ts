/**
 * Types of the app's events: messages of its `.proto` files as `gen/*_pb.js` and `.d.ts`, made by protoc-gen-es from the
 * descriptor set that `oncue-host --contract` prints. No protoc and no buf is needed.
 */

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  CodeGeneratorRequestSchema,
  CodeGeneratorResponseSchema,
  FileDescriptorSetSchema,
} from "@bufbuild/protobuf/wkt";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

/** Largest descriptor set or answer of the generator. */
const MAX = 64 << 20;

/** Makes the types anew where the contract has changed; says whether it has. */
export function generate(folder: string): boolean {
  const set = contract();
  const stamp = join(folder, ".contract");
  const digest = createHash("sha256").update(set).digest("hex");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === digest) return false;
  const files = fromBinary(FileDescriptorSetSchema, set).file;
  const request = create(CodeGeneratorRequestSchema, {
    // Those of Google come with the runtime.
    fileToGenerate: files.map((file) => file.name).filter((name) => !name.startsWith("google/protobuf/")),
    parameter: "target=js+dts,import_extension=js",
    protoFile: files,
  });
  const made = spawnSync(process.execPath, [generator()], {
    input: toBinary(CodeGeneratorRequestSchema, request),
    maxBuffer: MAX,
  });
  if (made.status !== 0) throw new Error(`protoc-gen-es: ${made.stderr}`);
  const response = fromBinary(CodeGeneratorResponseSchema, made.stdout);
  if (response.error) throw new Error(`protoc-gen-es: ${response.error}`);
  for (const file of response.file) {
    const path = join(folder, file.name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, file.content);
  }
  mkdirSync(folder, { recursive: true });
  writeFileSync(stamp, digest);
  return true;
}

/** Descriptor set of the app that lies here. */
function contract(): Buffer {
  const given = process.env["ONCUE_CONTRACT"];
  if (given) return readFileSync(given);
  const made = spawnSync(hostProgram(), ["--contract"], { maxBuffer: MAX });
  if (made.error) {
    throw new Error(
      `oncue-host, which compiles the .proto files, cannot be run (${made.error.message}): put it on PATH, name its folder in ` +
        "ONCUE_BIN_DIR, or a descriptor set in ONCUE_CONTRACT",
    );
  }
  if (made.status !== 0) throw new Error(made.stderr.toString().trim());
  return made.stdout;
}

/** Program of oncue-host, which knows the events and runs whole apps in tests. */
export function hostProgram(): string {
  const folder = process.env["ONCUE_BIN_DIR"];
  const named = process.env["ONCUE_HOST"] ?? (folder && join(folder, "oncue-host"));
  return named && existsSync(named) ? named : "oncue-host";
}

/** Program of protoc-gen-es, as the app has installed it. */
function generator(): string {
  for (const from of [join(process.cwd(), "package.json"), import.meta.url]) {
    try {
      return createRequire(from).resolve("@bufbuild/protoc-gen-es/bin/protoc-gen-es");
    } catch {
      // Perhaps the other has it.
    }
  }
  throw new Error("@bufbuild/protoc-gen-es is not installed: npm install --save-dev @bufbuild/protoc-gen-es");
}
