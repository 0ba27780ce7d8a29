// The demo on ports and data of its own, with traffic of every kind: `oncue up`, a trace viewer, visitors, uploads, and
// messages that nobody can read.

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync, crc32 } from "node:zlib";
import { freePort, isThere, pause, root, start, target, until } from "./lib.mjs";

const TOKEN = "the-token-of-the-demo";

export async function startDemo(profile = "release") {
  const dir = mkdtempSync(join(tmpdir(), "oncue-demo-"));
  const [nats, redis, gateway, console_, ui, grpc, http, health] = await Promise.all(Array.from({ length: 8 }, freePort));
  const bin = join(target, profile);
  const config = readFileSync(join(root, "oncue.toml"), "utf8").replace("write = false", "write = true").replace('track = "asked"', 'track = "all"')
    .replace('site = "', `site = "${root}/`);
  writeFileSync(join(dir, "oncue.toml"), config);
  const viewer = start(join(bin, "oncue-trace-viewer"), ["--ui-port", ui, "--otlp-grpc-port", grpc, "--otlp-http-port", http, "--health-port", health].map(String));
  await until("the trace viewer", () => isThere(`http://127.0.0.1:${ui}/`) || (viewer.exitCode !== null && Promise.reject(new Error(viewer.said))));
  const env = {
    ...process.env,
    ONCUE_CONFIG: join(dir, "oncue.toml"),
    ONCUE_NATS_URL: `nats://127.0.0.1:${nats}`,
    ONCUE_REDIS_URL: `redis://127.0.0.1:${redis}`,
    ONCUE_GATEWAY_LISTEN: `127.0.0.1:${gateway}`,
    ONCUE_CONSOLE_LISTEN: `127.0.0.1:${console_}`,
    ONCUE_CONSOLE_TOKEN: TOKEN,
    ONCUE_TRACE_UI: `http://127.0.0.1:${ui}`,
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${http}`,
    WEBHOOK_URL: "",
    WEBHOOK_SECRET: "",
  };
  const up = start(join(bin, "oncue"), ["up", "--data", join(dir, "data")], { env, cwd: dir });
  const urls = { gateway: `http://127.0.0.1:${gateway}`, console: `http://127.0.0.1:${console_}`, traces: `http://127.0.0.1:${ui}` };
  await until("the demo", async () => {
    if (up.exitCode !== null) throw new Error(up.said);
    return (await isThere(`${urls.gateway}/readyz`)) && (await isThere(`${urls.console}/readyz`)) && up.said.includes("ready in");
  });
  return { ...urls, nats, token: TOKEN, dir, up };
}

// A picture with something on it, so that its thumbnails differ.
function png(size, seed) {
  const rows = [];
  for (let y = 0; y < size; y += 1) {
    const row = Buffer.alloc(1 + size * 3);
    for (let x = 0; x < size; x += 1) {
      const hill = Math.sin((x + seed * 40) / 60) * 40 + Math.sin(x / 23 + seed) * 14 + size * 0.6;
      const sky = y < hill;
      row[1 + x * 3] = sky ? 250 - (y * 90) / size : 29 + seed * 9;
      row[2 + x * 3] = sky ? 210 - (y * 60) / size : 77 + ((x * y) % 23);
      row[3 + x * 3] = sky ? 140 + (y * 80) / size : 79;
    }
    rows.push(row);
  }
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, sum]);
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(size, 0);
  head.writeUInt32BE(size, 4);
  head.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", head), chunk("IDAT", deflateSync(Buffer.concat(rows))), chunk("IEND", Buffer.alloc(0))]);
}

export async function upload(demo, name, body) {
  const headers = { "oncue-owner": "ann" };
  const answer = await fetch(`${demo.gateway}/v1/files/${name}`, { method: "PUT", headers, body });
  if (answer.status !== 202) throw new Error(`${name}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

export const picture = (seed, size = 900) => png(size, seed);

// Until it is told to stop: visitors now and then, an upload now and then.
export function traffic(demo, perSecond = 40) {
  const pages = ["/home", "/docs", "/pricing", "/blog", "/about"];
  let going = true;
  const visit = async () => {
    for (let number = 0; going; number += 1) {
      const page = pages[Math.floor(pages.length * Math.random() ** 2)];
      const body = JSON.stringify({ page, visitor: `v-${Math.floor(Math.random() * 400)}`, at: new Date().toISOString() });
      await fetch(`${demo.gateway}/v1/events/web.page.viewed`, { method: "POST", headers: { "content-type": "application/json" }, body }).catch(() => {});
      await pause((1000 / perSecond) * (0.4 + 1.2 * Math.random()));
    }
  };
  const send = async () => {
    for (let number = 0; going; number += 1) {
      await upload(demo, `picture-${number}.png`, picture(number % 12, 420)).catch(() => {});
      await pause(3000);
    }
  };
  const done = Promise.all([visit(), send()]);
  return async () => {
    going = false;
    await done;
  };
}

// As any NATS client would: nobody checks what it sends.
export function publishRaw(demo, messages) {
  return new Promise((done, failed) => {
    const socket = connect(demo.nats, "127.0.0.1");
    socket.on("error", failed);
    socket.once("data", () => {
      const lines = messages.map(([subject, body]) => `PUB ${subject} ${Buffer.byteLength(body)}\r\n${body}\r\n`);
      socket.write(`CONNECT {"verbose":false}\r\n${lines.join("")}PING\r\n`);
      socket.on("data", (text) => `${text}`.includes("PONG") && socket.end(done));
    });
  });
}
