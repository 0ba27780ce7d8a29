// Measures the console at the sizes at which it must still be quick: 200 functions with 10,000 events a second, 100,000 dead letters,
// a flow of 10,000 events, a stream of a million. Says what was found beside what is wanted; a machine is no reason to fail.
//
//     node tests/browser/sizes.mjs [release]

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { FUNCTIONS, at, browserPath, login, mapIsThere, openBrowser, openPage, pause, root, start, stop, stopAll, target, until } from "./lib.mjs";

const LETTERS = 100_000;
const FLOW = 10_000;
const STREAM = 1_000_000;
const ROUNDS = 5;
const TICK_MS = 10;

const folder = join(target, process.argv[2] ?? "debug");
const lines = [];
const tell = (figure, found, wanted, holds) => {
  lines.push([figure, found, wanted, holds ? "" : "missed"]);
  console.log(`${holds ? "ok    " : "MISSED"} ${figure}: ${found}, wanted ${wanted}`);
};
const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];

async function crowd(...sizes) {
  const program = start(join(folder, "crowd"), sizes.map(String), { cwd: root });
  const line = await until("the crowd", () => {
    if (program.exitCode !== null) throw new Error(program.said);
    return program.said.split("\n").find((text) => text.startsWith("{"));
  }, 600_000);
  return { ...JSON.parse(line), program };
}

// Resident megabytes of a process, and milliseconds that it has computed.
const memory = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) / 1024;
const computed = (pid) => {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
};

// Frames of a second, and the longest time between two of them.
const frames = (page, seconds) => page.evaluate((ms) => new Promise((done) => {
  let [count, longest, last] = [0, 0, performance.now()];
  const end = last + ms;
  const next = (now) => {
    longest = Math.max(longest, now - last);
    last = now;
    count += 1;
    if (now < end) requestAnimationFrame(next);
    else done({ rate: (count * 1000) / ms, longest });
  };
  requestAnimationFrame(next);
}), seconds * 1000);

// Milliseconds from the click on a link until what it leads to is there, in a page that has just been loaded.
async function opened(page, url, selector, count) {
  const times = [];
  for (let round = 0; round < ROUNDS; round++) {
    // A page that was never there keeps nothing of an earlier visit.
    await page.evaluate(() => (location.hash = "#/schedules"));
    await page.reload();
    await page.waitForSelector("#page-schedules table");
    times.push(await page.evaluate(([to, wanted, many]) => new Promise((done) => {
      const began = performance.now();
      location.hash = new URL(to).hash;
      const look = () => (document.querySelectorAll(wanted).length >= many ? done(performance.now() - began) : requestAnimationFrame(look));
      look();
    }), [url, selector, count]));
  }
  return times;
}

if (!browserPath()) {
  console.log("sizes: skipped, there is no Chromium here; install it (apt-get install chromium) or name it in CHROMIUM");
  process.exit(0);
}
const browser = await openBrowser();

// Nothing happens in this app, so what the bus does is for the console and its page.
const quiet = await crowd(FUNCTIONS, 0);
const watching = await openPage(browser, quiet.url);
await login(watching, quiet);
await mapIsThere(watching);
await pause(5000);
const before = computed(quiet.nats);
await pause(30_000);
const share = (computed(quiet.nats) - before) / 30_000;
tell("nats-server for the console and one page, of a core", `${(share * 100).toFixed(1)} %`, "under 2 %", share < 0.02);
await watching.context().close();
await stop(quiet.program);

const full = await crowd(FUNCTIONS, 10_000, LETTERS, FLOW, STREAM);
const page = await openPage(browser, full.url);
await login(page, full);
await mapIsThere(page);
await page.waitForFunction(() => document.querySelectorAll(".edge.flows").length > 20);
const { large } = full.ids;
const pages = [
  ["the map", at(full, "map"), ".node.function", FUNCTIONS],
  ["100,000 dead letters, by cause", at(full, "letters"), ".groups button", 40],
  ["a page of letters", at(full, "letters"), ".bench tbody tr", 25],
  ["a flow of 10,000 events", at(full, `flows/${large.flow}`), "#page-flows .event", 20],
  ["flows", at(full, "flows"), "#page-flows tbody tr", 1],
  ["a stream of a million", at(full, `streams/${large.stream}`), "#page-streams .messages li", 25],
  ["all streams", at(full, "streams"), "#page-streams tbody tr", 20],
  ["rows of a table", at(full, "rows/orders"), "#page-rows li, #page-rows tbody tr", 20],
  ["an id, searched", at(full, `search/${full.ids.flow}`), "#page-search .card", 1],
];
for (const [name, url, selector, count] of pages) {
  const times = await opened(page, url, selector, count);
  tell(name, `${Math.round(median(times))} ms (${Math.round(Math.min(...times))} to ${Math.round(Math.max(...times))})`, "under 1000 ms", Math.max(...times) < 1000);
}
await page.goto(at(full, "map"));
await mapIsThere(page);
await pause(3000);
const drawn = [];
for (let round = 0; round < ROUNDS; round++) drawn.push(await frames(page, 3));
const rate = median(drawn.map((one) => one.rate));
const idle = await openPage(browser, full.url);
await idle.goto("about:blank");
await page.context().close();
// What this browser draws at most on this machine under this load, with an empty page.
const most = (await frames(idle, 3)).rate;
tell("frames a second on the map", `${rate.toFixed(0)}, longest ${Math.max(...drawn.map((one) => one.longest)).toFixed(0)} ms (an empty page: ${most.toFixed(0)})`, "60", rate >= 59);
tell("memory of the console", `${memory(full.console).toFixed(0)} MB`, "under 150 MB", memory(full.console) < 150);
await browser.close();
await stopAll();
console.log(`\n| figure | found | wanted | |\n|---|---|---|---|\n${lines.map((line) => `| ${line.join(" | ")} |`).join("\n")}`);
