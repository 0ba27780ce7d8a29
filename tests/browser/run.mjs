// Clicks through every page of the console in a real browser: two hundred functions, ten thousand events a second. A picture
// of each page stays in target/screenshots. Fails for whatever a page complains of, and for whatever is asked elsewhere.

import assert from "node:assert/strict";
import { join } from "node:path";
import { accessTests } from "./access.mjs";
import { addressTests } from "./address.mjs";
import { FUNCTIONS, at, browserPath, folder, login, mapIsThere, openBrowser, openPage, pause, root, start, stopAll, target, until } from "./lib.mjs";
import { tabTests } from "./tabs.mjs";

const shots = folder(join(root, "target/screenshots"));
const tests = [];
const test = (name, run) => tests.push([name, run]);

async function startCrowd() {
  const crowd = start(join(target, "debug/crowd"), [`${FUNCTIONS}`, "10000"], { cwd: root });
  const line = await until("the crowd", () => {
    if (crowd.exitCode !== null) throw new Error(crowd.said);
    return crowd.said.split("\n").find((text) => text.startsWith("{"));
  });
  return JSON.parse(line);
}

const shoot = (page, name) => page.screenshot({ path: join(shots, `${name}.png`) });
const said = async (page, selector) => (await page.textContent(selector)).trim();

test("nobody gets in without the token", async ({ page, crowd }) => {
  await page.goto(crowd.url);
  await page.waitForSelector("#login[open]");
  await page.fill("#login-token", "not the token at all");
  await page.click("#login-form button");
  await page.waitForFunction(() => document.getElementById("login-why").textContent.includes("ONCUE_CONSOLE_TOKEN"));
  assert.equal(await page.locator(".node").count(), 0);
  await shoot(page, "login");
});

test("the map has every function, and moves", async ({ page, crowd }) => {
  await login(page, crowd);
  await mapIsThere(page);
  assert.equal(await page.locator(".node.function").count(), FUNCTIONS);
  const tick = () => page.getAttribute("#canvas", "data-tick");
  const seen = new Set();
  await until("three more ticks", async () => seen.add(await tick()).size > 3);
  await page.waitForFunction(() => document.querySelectorAll(".edge.flows").length > 20);
  await page.waitForFunction(() => document.querySelectorAll(".node.failing, .node.stuck, .node.behind").length > 3);
  // The page still answers: what it draws is not what passes.
  const frames = await page.evaluate(() => new Promise((done) => {
    let count = 0;
    const end = performance.now() + 1000;
    const next = (now) => (now < end ? requestAnimationFrame(next, (count += 1)) : done(count));
    requestAnimationFrame(next);
  }));
  assert.ok(frames > 0, "the page stands still");
  const moved = await page.evaluate(() => {
    const canvas = document.getElementById("dots");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value) => value > 0);
  });
  assert.ok(moved, "no dot moves");
  console.log(`    ${frames} frames in a second`);
  await shoot(page, "map-200");
});

test("everything on the map can be reached with the keyboard", async ({ page }) => {
  await page.focus("#canvas");
  await page.keyboard.press("Tab");
  const first = await page.evaluate(() => document.activeElement.getAttribute("aria-description"));
  assert.match(first, /per second/);
  await page.focus(".node.function");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#panel:not([hidden]) .figures");
  await page.keyboard.press("Escape");
  await page.waitForSelector("#panel", { state: "hidden" });
  const before = await page.getAttribute("#view", "transform");
  await page.focus("#canvas");
  for (const key of ["+", "+", "ArrowLeft", "ArrowUp"]) await page.keyboard.press(key);
  assert.notEqual(await page.getAttribute("#view", "transform"), before);
  await shoot(page, "map-near");
  await page.keyboard.press("0");
});

test("a function tells its last hour and what failed", async ({ page }) => {
  await page.locator('[data-name="invoice-step-8-01"]').dispatchEvent("click");
  await page.waitForSelector("#panel .figures");
  assert.equal(await said(page, "#panel h2"), "invoice-step-8-01");
  await page.waitForFunction(() => document.getElementById("panel").textContent.includes("the tax office does not answer"));
  assert.equal(await page.locator("#panel .chart").count(), 4);
  await page.waitForFunction(() => document.querySelectorAll("#panel .bars .bar").length > 2);
  assert.match(await said(page, "#panel .waits"), /attempts failed|wait/);
  await page.locator("#panel .chart svg").first().hover();
  await page.waitForFunction(() => /^\d\d:\d\d:\d\d/.test(document.querySelector("#panel .chart .legend-row span:last-child").textContent));
  await page.mouse.move(0, 0);
  await shoot(page, "function");
  await page.click("#panel >> text=Set other bounds");
  await page.locator("#panel .finding input").nth(1).fill("4");
  await page.click("#panel .finding button");
  await page.waitForSelector("#ask[open]");
  await page.fill("#ask-why", "a sale");
  await page.click("#ask-yes");
  await page.waitForFunction(() => /1 to 4 workers on each machine, by ann@.*: a sale/.test(document.getElementById("panel").textContent));
  await shoot(page, "bounds");
  await page.click("#panel >> text=As oncue.toml says");
  await page.waitForSelector("#ask[open]");
  await page.click("#ask-yes");
  await page.waitForFunction(() => !document.getElementById("panel").textContent.includes("a sale"));
  // The crowd has no oncue up that could do it.
  await page.click('#panel .actions >> text=Restart');
  await page.waitForSelector("#ask[open]");
  await page.click("#ask-yes");
  await page.waitForFunction(() => document.querySelector("#panel .outcome")?.textContent.includes("no `oncue up` of this app runs"));
  await page.click('#panel .actions >> text=Pause');
  await page.waitForSelector("#ask[open]");
  await page.click("#ask-yes");
  await page.waitForFunction(() => document.querySelector("#panel .state")?.textContent.startsWith("paused"));
  await shoot(page, "paused");
  await page.click('#panel .actions >> text=Resume');
  await page.waitForFunction(() => !document.querySelector("#panel .state")?.textContent.startsWith("paused"));
});

test("an edge shows its last events, decoded", async ({ page }) => {
  await page.locator('[aria-label^="order-step-0-00 acts on"] .edge-hit').dispatchEvent("click");
  await page.waitForSelector("#panel details");
  assert.match(await said(page, "#panel h2"), /^shop00\.order\.step0$/);
  await page.locator("#panel details summary").first().click();
  assert.match(await page.locator("#panel pre.json").first().textContent(), /"number": \d+/);
  await shoot(page, "edge");
  await page.click('#panel button[aria-label="Close"]');
});

test("flows are listed, and one of them is a tree", async ({ page, crowd }) => {
  await page.keyboard.press("2");
  await page.waitForSelector("#page-flows table");
  await shoot(page, "flows");
  await page.goto(at(crowd, `flows/${crowd.ids.flow}`));
  await page.waitForSelector("#page-flows .flow");
  assert.equal(await page.locator("#page-flows .event").count(), 3);
  assert.match(await page.getAttribute("#page-flows a.trace", "href"), /:16686\/trace\/0{30}11$/);
  await page.locator("#page-flows .event .more").first().click();
  await page.waitForSelector("#page-flows .content pre.json");
  assert.match(await said(page, "#page-flows .content pre.json"), /"visitor": "\(sensitive\)"/);
  await shoot(page, "flow");
  // What is hidden cannot be published again; an event without it can.
  assert.equal(await page.locator("#page-flows .content >> text=Publish one like it").count(), 0);
  await page.locator("#page-flows .event .more").nth(1).click();
  await page.click("#page-flows .content >> text=Publish one like it");
  await page.waitForSelector("#page-publish textarea");
  assert.match(await page.inputValue("#page-publish textarea"), /"page": "front-door"/);
});

test("an event is tried and published by hand, and mistakes are told", async ({ page, crowd }) => {
  await page.keyboard.press("Escape");
  await page.goto(at(crowd, "publish"));
  await page.waitForSelector("#page-publish textarea");
  await page.fill("#page-publish textarea", "{");
  await page.waitForFunction(() => document.querySelector("#page-publish .bad").textContent.startsWith("Not JSON"));
  assert.ok(await page.isDisabled("#page-publish button.strong"));
  await page.fill("#page-publish textarea", '{"page":"p","no":1}');
  await page.click("#page-publish button.strong");
  await page.waitForFunction(() => document.querySelector("#page-publish .problem")?.textContent.includes('no field "no"'));
  await page.locator("#page-publish .types button", { hasText: "empty" }).click();
  const written = JSON.parse(await page.inputValue("#page-publish textarea"));
  for (const [name, value] of Object.entries(written)) if (value === "") written[name] = "by-hand";
  await page.fill("#page-publish textarea", JSON.stringify(written, null, 2));
  await page.waitForFunction(() => document.querySelector("#page-publish").textContent.includes("oncue pub "));
  await page.click("#page-publish button.strong");
  await page.waitForSelector("#page-publish .outcome a");
  await shoot(page, "publish");
});

test("events are found by what they have in common, and the search is a link", async ({ page, crowd }) => {
  await page.goto(at(crowd, "find"));
  await page.waitForSelector("#page-find .list li");
  await page.fill('#page-find input[name="type"]', "web.page.milestone");
  await page.fill('#page-find input[name="text"]', "front-door");
  await page.click("#page-find button.strong");
  await page.waitForFunction(() => document.querySelector("#page-find .hint[role]").textContent.startsWith("2 events found"));
  assert.match(page.url(), /#\/find\/type%3Dweb\.page\.milestone/);
  await shoot(page, "find");
  await page.reload();
  await page.waitForFunction(() => document.querySelectorAll("#page-find .list li").length === 2);
});

test("a schedule is fired by hand, paused and resumed", async ({ page, crowd }) => {
  await page.goto(at(crowd, "schedules"));
  await page.waitForSelector("#page-schedules table");
  assert.match(await said(page, "#page-schedules table"), /month-end.*left over/);
  await page.click('#page-schedules [data-focus="schedule tick"]');
  await page.waitForSelector("#page-schedules .two .list a");
  await shoot(page, "schedules");
  const act = async (what, seen) => {
    await page.click(`#page-schedules .actions >> text=${what}`);
    await page.waitForSelector("#ask[open]");
    await page.click("#ask-yes");
    await page.waitForFunction((text) => document.getElementById("page-schedules").textContent.includes(text), seen);
  };
  await act("Fire now", "tick is fired");
  await act("Pause", "Paused by ann@");
  await shoot(page, "schedule-paused");
  await act("Resume", "tick fires again");
  await page.waitForFunction(() => !document.getElementById("page-schedules").textContent.includes("Paused by"));
});

test("a row is changed for a reason, and not over what somebody else wrote", async ({ page, browser, crowd }) => {
  await page.goto(at(crowd, "rows/orders/order-11"));
  await page.waitForSelector("#page-rows .fields");
  assert.ok(await page.isDisabled("#page-rows button.strong"), "nothing is changed yet");
  assert.doesNotMatch(await page.innerHTML("#page-rows"), /somebody/, "what is sensitive is hidden");
  const other = await openPage(browser, crowd.url);
  await login(other, crowd);
  await other.goto(at(crowd, "rows/orders/order-11"));
  await other.waitForSelector("#page-rows .fields");
  const change = async (where, field, value) => {
    await where.fill(`#page-rows [aria-label="Value of ${field}"]`, value);
    await where.click("#page-rows button.strong");
    await where.waitForSelector("#ask[open]");
    await where.fill("#ask-why", "asked by the customer");
    await where.click("#ask-yes");
  };
  await change(page, "state", "open");
  await page.waitForFunction(() => document.getElementById("page-rows").textContent.includes("The row is changed: state"));
  assert.match(await said(page, "#page-rows .list"), /asked by the customer.*state: paid → open.*ann@/);
  await shoot(page, "row");
  await change(other, "state", "void");
  await other.waitForFunction(() => document.querySelector("#page-rows .outcome .bad")?.textContent.includes("has changed since"));
  assert.equal(await other.inputValue('#page-rows [aria-label="Value of state"]'), "void", "what was written stays");
  await shoot(other, "row-changed");
  await other.click("text=Show it as it is now");
  await other.waitForFunction(() => document.querySelector('#page-rows [aria-label="Value of state"]')?.value === "open");
  await change(page, "items", "many");
  await page.waitForFunction(() => document.querySelector("#page-rows .outcome .bad")?.textContent.includes("of another kind"));
  assert.deepEqual(other.complaints, []);
  await other.context().close();
});

test("a stream is read backwards", async ({ page, crowd }) => {
  await page.goto(at(crowd, "streams"));
  await page.waitForSelector("#page-streams table");
  await shoot(page, "streams");
  await page.goto(at(crowd, "streams/shop00"));
  await page.waitForFunction(() => document.querySelectorAll("#page-streams .messages li").length === 25);
  const last = async () => Number(await page.locator("#page-streams .messages .top-line .hint").last().textContent());
  const before = await last();
  await page.click("#page-streams >> text=Older");
  await page.waitForFunction((end) => Number(document.querySelector("#page-streams .messages .top-line .hint")?.textContent) === end - 1, before);
  await page.locator("#page-streams .messages summary").first().click();
  assert.match(await page.locator("#page-streams pre.json").first().textContent(), /"number": \d+/);
  await shoot(page, "stream");
  await page.click("#page-streams >> text=Newest");
  await page.waitForFunction((end) => Number(document.querySelector("#page-streams .messages .top-line .hint")?.textContent) > end, before);
});

test("what is wrong is listed, and kept silent for a while", async ({ page, crowd }) => {
  await page.goto(at(crowd, "letters"));
  await page.waitForSelector("#notices:not([hidden])", { timeout: 60_000 });
  await page.click("#notices");
  await page.waitForSelector("#panel .why");
  await shoot(page, "notices");
  const before = await page.locator("#panel .why").count();
  assert.ok(before > 0);
  await page.locator("#panel button", { hasText: "Silent for 4 h" }).first().click();
  await page.waitForFunction(() => document.getElementById("panel").textContent.includes("silent until"));
  await page.locator("#panel button", { hasText: "Tell again" }).first().click();
  await page.waitForFunction(() => !document.getElementById("panel").textContent.includes("silent until"));
  await page.click('#panel button[aria-label="Close"]');
});

test("an id and a key are found, and what is not says where it was looked for", async ({ page, crowd }) => {
  await page.keyboard.press("/");
  await page.keyboard.type(crowd.ids.flow);
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("page-search").textContent.includes("The event"));
  await shoot(page, "search-id");
  await page.goto(at(crowd, `search/${crowd.ids.key}`));
  await page.waitForFunction(() => document.querySelectorAll("#page-search .list li").length === 3);
  await shoot(page, "search-key");
  await page.goto(at(crowd, "search/nobody-has-this"));
  await page.waitForFunction(() => document.getElementById("page-search").textContent.includes("Nothing found"));
  assert.match(await said(page, "#page-search"), /Looked in:.*were searched/);
});

test("dead letters are read, tried, redriven and dropped", async ({ page, crowd }) => {
  await page.goto(at(crowd, "letters"));
  await page.waitForSelector(".groups button");
  assert.equal(await page.locator(".groups button").count(), 2);
  await page.locator(".bench tbody button").first().click();
  await page.waitForSelector(".bench pre.json");
  assert.match(await said(page, ".bench pre.json"), /"page": "door-\d+"/);
  await shoot(page, "letters");
  await page.click("text=Edit and send again");
  await page.locator(".bench details.desk textarea").fill('{"page":""}');
  await page.locator(".bench details.desk input").fill("sent by a test");
  await pause(4000);
  assert.equal(await page.locator(".bench details.desk input").inputValue(), "sent by a test", "news do not take away what is written");
  await page.click("text=Send it like this");
  await page.waitForFunction(() => document.querySelector(".bench .whole .problem")?.textContent.includes("must not be empty"));
  await shoot(page, "letter-edited");
  await page.click("text=Edit and send again");
  await page.click("text=Try all 8");
  await page.waitForFunction(() => document.querySelector(".outcome")?.textContent.includes("0 of 8 would be applied"));
  await page.click("text=Compare payloads");
  await page.waitForFunction(() => document.querySelector(".bench").textContent.includes("They differ in"));
  await shoot(page, "letters-compared");
  await page.locator('.bench tbody input[type="checkbox"]').first().focus();
  await page.keyboard.press("Space");
  await page.waitForSelector("text=Redrive 1 chosen");
  await pause(4000);
  assert.equal(await page.evaluate(() => document.activeElement.type), "checkbox", "the focus stays where it was");
  await page.click("text=Redrive 1 chosen");
  await page.waitForFunction(() => /web|consumer/.test(document.querySelector(".outcome .bad")?.textContent ?? ""));
  await shoot(page, "redrive");
  // Nothing is ticked any more, and the buttons say so: what they say is what they do.
  await page.waitForSelector("text=Drop all 8");
  assert.equal(await page.locator('.bench tbody input:checked').count(), 0);
  // Somebody sees to it, which the others see, and lets it go.
  await page.click('.bench .owner >> text=See to it');
  await page.waitForSelector("#ask[open]");
  await page.fill("#ask-why", "the tax office is told");
  await page.click("#ask-yes");
  await page.waitForFunction(() => /ann@.* sees to it since .*: the tax office is told/.test(document.querySelector(".bench .owner").textContent));
  await page.waitForFunction(() => document.querySelector(".groups button[aria-pressed=true]").textContent.includes("sees to it"));
  await shoot(page, "letters-owner");
  // And nobody has to hear of it for a while.
  await page.click('.bench .owner >> text=Snooze for 4 h');
  await page.waitForFunction(() => document.querySelector(".bench .owner").textContent.includes("snoozed until"));
  await page.waitForFunction(() => [...document.querySelectorAll(".groups button")].at(-1).textContent.includes("snoozed until"), null, { timeout: 10_000 });
  await page.click('.bench .owner >> text=Wake');
  await page.waitForFunction(() => !document.querySelector(".bench .owner").textContent.includes("snoozed until"));
  await page.click('.bench .owner >> text=Let it go');
  await page.waitForFunction(() => document.querySelector(".bench .owner").textContent.includes("nobody sees to it"));
  await page.locator('.bench tbody input[type="checkbox"]').first().check();
  await page.click("text=Drop 1 chosen");
  await page.waitForSelector("#ask[open]");
  await page.fill("#ask-why", "sent by a test");
  await shoot(page, "drop");
  assert.match(await said(page, "#ask"), /Drop 1 letter for good/);
  await page.click("#ask-yes");
  await page.waitForFunction(() => document.querySelector(".groups .badge").textContent === "7");
});

test("versions at work side by side are compared", async ({ page, crowd }) => {
  await page.goto(at(crowd, "map/order-step-0-00"));
  // The first whole minute may still be under way.
  await page.waitForFunction(() => document.getElementById("panel").textContent.includes("Versions compared"), null, { timeout: 150_000 });
  const rows = page.locator('#panel [aria-label="Versions compared"] tbody tr');
  const versions = await rows.evaluateAll((all) => all.map((row) => row.querySelector("th").textContent));
  assert.deepEqual(versions.toSorted(), ["1.0.0", "1.1.0"]);
  assert.match(await rows.first().textContent(), /\d\/s.*%/);
  await shoot(page, "versions");
  await page.click('#panel button[aria-label="Close"]');
});

test("light, dark and a phone", async ({ page, browser, crowd }) => {
  await page.goto(at(crowd, "map"));
  await mapIsThere(page);
  await page.click("#theme");
  await page.click("#theme");
  assert.equal(await page.getAttribute("html", "data-theme"), "dark");
  await pause(1500);
  await shoot(page, "map-dark");
  for (const name of ["letters", `flows/${crowd.ids.flow}`]) {
    await page.goto(at(crowd, name));
    await page.waitForSelector(name === "letters" ? ".bench table" : ".flow");
    await shoot(page, `${name.split("/")[0]}-dark`);
  }
  const phone = await openPage(browser, crowd.url, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, colorScheme: "dark" });
  await login(phone, crowd);
  await mapIsThere(phone);
  await shoot(phone, "phone-map");
  await phone.locator('[data-name="invoice-step-8-01"]').dispatchEvent("click");
  await phone.waitForSelector("#panel .figures");
  await shoot(phone, "phone-function");
  for (const name of ["letters", `flows/${crowd.ids.flow}`, `search/${crowd.ids.key}`]) {
    await phone.goto(at(crowd, name));
    await phone.waitForSelector(name === "letters" ? ".bench table" : name.startsWith("flows") ? ".flow" : "#page-search .card");
    await shoot(phone, `phone-${name.split("/")[0]}`);
  }
  assert.deepEqual(phone.complaints, []);
  await phone.context().close();
});

test("whoever wants no motion gets none", async ({ browser, crowd }) => {
  const still = await openPage(browser, crowd.url, { reducedMotion: "reduce" });
  await login(still, crowd);
  await mapIsThere(still);
  await still.waitForFunction(() => document.querySelectorAll(".edge.flows").length > 20);
  await pause(1500);
  const moves = await still.evaluate(() => {
    const canvas = document.getElementById("dots");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value) => value > 0);
  });
  assert.ok(!moves, "a dot moves");
  assert.deepEqual(still.complaints, []);
  await still.context().close();
});

accessTests(test, shoot);
addressTests(test, shoot);
tabTests(test, shoot);

test("whoever logs out sees nothing more", async ({ page, crowd }) => {
  await page.goto(at(crowd, "map"));
  await mapIsThere(page);
  await page.click("#who");
  await page.waitForSelector("#login[open]");
  for (const key of ["Escape", "Escape"]) await page.keyboard.press(key);
  // Longer than the silence after which the console is taken for away.
  await pause(9000);
  assert.ok(await page.isVisible("#login[open]"), "there is no way around it");
  assert.ok(await page.isHidden("#alarm"), "the console is there");
  assert.equal(await page.locator(".node").count(), 0, "nothing is left of what was shown");
  assert.equal(await page.textContent("#totals"), "");
  assert.equal((await page.request.get(`${crowd.url}api/letters`)).status(), 401);
});

if (!browserPath()) {
  console.log("browser tests: skipped, there is no Chromium here; install it (apt-get install chromium) or name it in CHROMIUM");
  process.exit(0);
}
let failures = 0;
const crowd = await startCrowd();
const browser = await openBrowser();
const page = await openPage(browser, crowd.url);
// Some of them alone: ONLY="part of a name|another".
const only = process.env.ONLY?.split("|") ?? [];
const chosen = only.length === 0 ? tests : tests.filter(([name]) => only.some((part) => name.includes(part)));
for (const [name, run] of chosen) {
  const began = Date.now();
  try {
    await run({ page, browser, crowd });
    assert.deepEqual(page.complaints, []);
    console.log(`ok    ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failures += 1;
    page.complaints = [];
    console.log(`FAIL  ${name}\n${error.stack}`);
    await shoot(page, `failed-${failures}`).catch(() => {});
  }
}
await browser.close();
await stopAll();
console.log(`browser tests: ${chosen.length - failures} of ${chosen.length} passed; pictures are in ${shots}`);
process.exit(failures > 0 ? 1 : 0);
