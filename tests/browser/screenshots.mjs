// The pictures of the README, made from the running demo: the page, the map, a flow, dead letters, and the same flow in
// Jaeger's UI.

import { join } from "node:path";
import { picture, publishRaw, startDemo, traffic, upload } from "./demo.mjs";
import { browserPath, folder, openBrowser, openPage, pause, root, stopAll, until } from "./lib.mjs";

const SHARP = 1.25; // larger ones would weigh too much
const pictures = folder(join(root, "deploy/pictures"));
const shoot = (page, name) => page.screenshot({ path: join(pictures, `${name}.png`) });

async function login(page, demo) {
  await page.goto(demo.console);
  await page.fill("#login-name", "ann");
  await page.fill("#login-token", demo.token);
  await page.click("#login-form button");
  await page.waitForSelector("#canvas[data-ready]");
}

// What nobody can read, and what leads nowhere: two causes, several letters each.
async function spoil(demo) {
  const broken = Array.from({ length: 9 }, (_, at) => ["web.page.viewed", `{"page": /about-${at}`]);
  const lost = Array.from({ length: 4 }, (_, at) => ["files.file.uploaded", JSON.stringify({ file: `gone-${at}`, name: `gone-${at}.png`, owner: "ann" })]);
  await publishRaw(demo, [...broken, ...lost]);
}

async function complete(demo, cookie, flow) {
  return until("the flow to be complete", async () => {
    const answer = await fetch(`${demo.console}/api/flows/${flow}`, { headers: { cookie } });
    if (!answer.ok) return false;
    const said = await answer.json();
    return said.flow.open === 0 && said.flow.events.length >= 4;
  });
}

// What a visitor sees who has sent three pictures, and a text that says it is one.
async function visit(browser, demo) {
  const site = await openPage(browser, demo.gateway, { viewport: { width: 1100, height: 1130 } });
  await site.goto(demo.gateway);
  const files = [3, 7, 11].map((seed) => ({ name: `harbour-${seed}.png`, mimeType: "image/png", buffer: picture(seed) }));
  await site.setInputFiles("#pick", [...files, { name: "letter.jpg", mimeType: "image/jpeg", buffer: Buffer.from("Dear harbour, this is no picture.") }]);
  await until("thumbnails", async () => (await site.locator("#files img").count()) >= 3 && (await site.getByText("removed").count()) > 0);
  await pause(1500);
  await shoot(site, "page");
}

if (!browserPath()) {
  console.log("no pictures: there is no Chromium here; install it (apt-get install chromium) or name it in CHROMIUM");
  process.exit(1);
}
const demo = await startDemo(process.argv[2] ?? "release");
const stopTraffic = traffic(demo);
const browser = await openBrowser();
const page = await openPage(browser, demo.console, { deviceScaleFactor: SHARP, viewport: { width: 1360, height: 760 } });
await login(page, demo);
const cookie = (await page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");
await spoil(demo);
await until("letters", async () => (await (await fetch(`${demo.console}/api/letters`, { headers: { cookie } })).json()).letters >= 13);
// Long enough for an hour that shows something, and for the failures to be a minute old.
await page.mouse.move(700, 20);
await pause(65_000);
await shoot(page, "map");
await stopTraffic();
await until("thumbnails to be made", async () => (await (await fetch(`${demo.console}/api/functions/make-thumbnails`, { headers: { cookie } })).json()).lag === 0, 180_000);
const { flow, traceparent } = await upload(demo, "harbour.png", picture(3));
await complete(demo, cookie, flow);
await page.goto(`${demo.console}/#/flows/${flow}`);
await page.waitForSelector("#page-flows .flow");
await pause(1000);
await shoot(page, "flow");
await page.goto(`${demo.console}/#/letters`);
await page.waitForSelector(".bench tbody button");
await page.click('.groups button:has-text("inspect-file")');
await page.locator(".bench tbody button").first().click();
await page.waitForSelector(".bench pre.json");
await page.locator('.bench tbody input[type="checkbox"]').first().check();
await page.click("text=Try 1 chosen");
await page.waitForSelector(".outcome .state");
await page.waitForSelector(".bench pre.json");
await shoot(page, "dead-letters");
const jaeger = await openPage(browser, demo.traces, { deviceScaleFactor: SHARP, viewport: { width: 1360, height: 900 } });
await pause(2000);
await jaeger.goto(`${demo.traces}/trace/${traceparent.split("-")[1]}`);
await jaeger.waitForSelector(".span-row", { timeout: 30_000 });
await pause(1000);
await shoot(jaeger, "trace");
await visit(browser, demo);
if (page.complaints.length > 0) throw new Error(page.complaints.join("\n"));
await browser.close();
await stopAll();
console.log(`pictures are in ${pictures}`);
process.exit(0);
