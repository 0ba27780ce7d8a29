// What the browser tests and the screenshots share: programs as children, a browser, and patience.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
export const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
// Generous: a limit against hanging, not an expectation.
export const LONG = 60_000;

const children = [];

// Ends with this program, whatever happens to it.
export function start(program, args = [], options = {}) {
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"], ...options });
  child.said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text) => (child.said = (child.said + text).slice(-200_000)));
  }
  child.on("error", (error) => (child.said += error.message));
  children.push(child);
  return child;
}

export async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((done) => child.once("exit", done));
  child.stdin?.end();
  child.kill("SIGTERM");
  await Promise.race([gone, pause(40_000).then(() => child.kill("SIGKILL"))]);
}

export async function stopAll() {
  for (const child of children.reverse()) await stop(child);
}

process.on("exit", () => children.forEach((child) => child.exitCode === null && child.kill("SIGKILL")));

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export async function until(what, ask, patience = LONG) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await pause(100);
  }
}

export function freePort() {
  return new Promise((done, failed) => {
    const server = createServer();
    server.on("error", failed);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

export const isThere = async (url) => {
  try {
    return (await fetch(url)).ok;
  } catch {
    return false;
  }
};

export function browserPath() {
  const named = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  return named.find((path) => path && existsSync(path));
}

export function openBrowser() {
  return chromium.launch({
    executablePath: browserPath(),
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
}

// A page that fails the run for what nobody would see: an error, a refused script, a request to somewhere else.
export async function openPage(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(LONG);
  page.complaints = [];
  const own = new URL(url).origin;
  page.on("pageerror", (error) => page.complaints.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // What the server refuses, or has no time for, is said by the page itself.
    if (message.type() === "error" && !/status of (4|503)/.test(message.text())) page.complaints.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const to = new URL(request.url());
    if (to.origin !== own && !["data:", "blob:"].includes(to.protocol)) page.complaints.push(`asked elsewhere: ${to}`);
  });
  return page;
}

// The crowd's console, with somebody who is logged in.
export const FUNCTIONS = 200;
export const at = (crowd, page) => `${crowd.url}#/${page}`;
export const mapIsThere = (page) => page.waitForSelector(`#canvas[data-ready="${FUNCTIONS}"]`);

export async function login(page, crowd) {
  await page.goto(crowd.url);
  await page.waitForSelector("#login[open]");
  await page.fill("#login-name", "ann");
  await page.fill("#login-token", crowd.token);
  await page.click("#login-form button");
  await page.waitForSelector("#login:not([open])", { state: "attached" });
}

export function folder(path) {
  mkdirSync(path, { recursive: true });
  return path;
}
