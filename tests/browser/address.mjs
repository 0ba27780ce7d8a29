// Whether the address of the page says what is seen: a reload shows it again, Back what was before, and a wall only what
// is read from afar.

import assert from "node:assert/strict";
import { at, login, mapIsThere, openPage, until } from "./lib.mjs";

const hash = (page) => new URL(page.url()).hash;
const saysText = (page, selector, text) => page.waitForFunction(([where, wanted]) => document.querySelector(where)?.textContent.includes(wanted), [selector, text]);
const isGone = (page, selector) => page.waitForSelector(selector, { state: "hidden" });

// After what is done the page shows `seen` under an address of its own: after a reload too, and not after Back. Leaves the
// page as it was done.
async function keeps(page, act, seen, unseen) {
  const before = hash(page);
  await act();
  await seen();
  const address = hash(page);
  assert.notEqual(address, before);
  await page.reload();
  await seen();
  assert.equal(hash(page), address);
  await page.goBack();
  await unseen();
  assert.equal(hash(page), before);
  await page.goForward();
  await seen();
  assert.equal(hash(page), address);
}

export function addressTests(test, shoot) {
  test("what is chosen on the map is a link", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    await login(page, crowd);
    await page.goto(at(crowd, "map"));
    await mapIsThere(page);
    const closed = () => isGone(page, "#panel");
    await keeps(page, () => page.locator('[data-name="invoice-step-8-01"]').dispatchEvent("click"), () => saysText(page, "#panel h2", "invoice-step-8-01"), closed);
    const pressed = (name) => page.waitForSelector(`#panel .types [aria-pressed="true"] >> text=${name}`);
    await page.waitForSelector("#panel .chart");
    await keeps(page, () => page.click("#panel .types >> text=day"), () => pressed("day"), () => pressed("hour"));
    const now = Date.now();
    const whole = "#panel .types >> text=all of it";
    await keeps(page, () => page.goto(at(crowd, `map/invoice-step-8-01?from=${now - 60_000}&to=${now}`)), () => page.waitForSelector(whole), () => pressed("day"));
    await keeps(page, () => page.click("#panel .types >> text=earlier"), () => page.waitForFunction((from) => Number(new URLSearchParams(location.hash.split("?")[1]).get("from")) < from, now - 61_000), () => page.waitForSelector(whole));
    await page.click(whole);
    await isGone(page, whole);
    assert.equal(hash(page), "#/map/invoice-step-8-01");
    await keeps(page, () => page.locator('[aria-label="order-step-0-00 emits shop00.order.step1"] .edge-hit').dispatchEvent("click"), () => saysText(page, "#panel", "The last events order-step-0-00 sent"), () => saysText(page, "#panel h2", "invoice-step-8-01"));
    await page.keyboard.press("Escape");
    await closed();
    assert.equal(hash(page), "#/map");
    await keeps(page, () => page.click("#doctor"), () => saysText(page, "#panel h2", "Doctor"), closed);
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("a letter is a link, with how letters are shown", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    await login(page, crowd);
    await page.goto(at(crowd, "letters"));
    await page.waitForSelector(".bench tbody button");
    const first = await page.textContent('.groups button[aria-pressed="true"] b');
    const chosen = (name) => page.waitForSelector(`.groups button[aria-pressed="true"] >> text=${name}`);
    const other = await page.textContent('.groups button[aria-pressed="false"] b');
    await keeps(page, () => page.click('.groups button[aria-pressed="false"]'), () => chosen(other), () => chosen(first));
    await page.waitForSelector(".bench tbody button");
    await keeps(page, () => page.click('.bench [data-focus="sort attempts"]'), () => page.waitForSelector('.bench th[aria-sort="descending"] >> text=Attempts'), () => page.waitForSelector('.bench th[aria-sort="descending"] >> text=Letter'));
    await keeps(page, () => page.locator(".bench tbody button").first().click(), () => page.waitForSelector(".bench pre.json"), () => isGone(page, ".bench pre.json"));
    // While somebody types, nothing is left behind for Back.
    const shown = await page.locator(".bench tbody tr").count();
    const one = (await page.textContent(".bench tbody tr td:nth-child(3)")).trim();
    await page.locator(".bench .card input[type=search]").pressSequentially(one, { delay: 400 });
    await page.waitForFunction((text) => new URLSearchParams(location.hash.split("?")[1]).get("q") === text, one);
    await page.waitForFunction((before) => document.querySelectorAll(".bench tbody tr").length < before, shown);
    await page.reload();
    await page.waitForFunction((before) => document.querySelectorAll(".bench tbody tr").length < before && document.querySelector(".bench tbody tr"), shown);
    assert.equal(await page.inputValue(".bench .card input[type=search]"), one);
    await page.goBack();
    await isGone(page, ".bench pre.json");
    assert.equal(new URLSearchParams(hash(page).split("?")[1]).has("q"), false);
    await page.goto(at(crowd, "letters?causes=tax"));
    await page.waitForFunction(() => document.querySelectorAll(".groups button").length === 1);
    assert.equal(await page.inputValue(".groups input"), "tax");
    await keeps(page, () => page.click("#doctor"), () => saysText(page, "#panel h2", "Doctor"), () => isGone(page, "#panel"));
    await page.keyboard.press("Escape");
    await page.evaluate(() => (document.querySelector(".bench").dataset.same = "yes"));
    await page.click("#doctor");
    await page.keyboard.press("Escape");
    await isGone(page, "#panel");
    assert.equal(await page.getAttribute(".bench", "data-same"), "yes", "the page under the panel was made anew");
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("a flow is a link, with what is looked for in it", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    await login(page, crowd);
    await page.goto(at(crowd, `flows/${crowd.ids.flow}`));
    await page.waitForSelector("#page-flows .event");
    await keeps(page, () => page.locator("#page-flows .more").first().click(), () => page.waitForSelector("#page-flows .content pre.json"), () => isGone(page, "#page-flows .content"));
    await page.goto(at(crowd, `flows/${crowd.ids.flow}?find=milestone`));
    const events = (count) => page.waitForFunction((wanted) => document.querySelectorAll("#page-flows .event").length === wanted, count);
    await events(2);
    await keeps(page, () => page.check("#page-flows .finder input[type=checkbox]"), () => events(0), () => events(2));
    await page.uncheck("#page-flows .finder input[type=checkbox]");
    await page.fill("#page-flows .finder input[type=search]", "viewed");
    await events(1);
    await page.reload();
    await events(1);
    // From search to search, and back.
    await page.goto(at(crowd, "find"));
    // A search of much is told in pages, of which the first may have nothing.
    const found = (wanted) => until(wanted, () => page.evaluate((text) => {
      const isFound = document.querySelector("#page-find .hint[role]")?.textContent.startsWith(text);
      if (!isFound) document.querySelector("#page-find .actions button:not([hidden], :disabled)")?.click();
      return isFound;
    }, wanted));
    const ask = async (name, value) => {
      await page.fill(`#page-find input[name="${name}"]`, value);
      await page.click("#page-find button.strong");
    };
    await page.waitForSelector("#page-find button.strong");
    await ask("type", "web.page.milestone");
    await found("2 events found");
    await keeps(page, () => ask("key", "nobody"), () => found("0 events found"), () => found("2 events found"));
    assert.equal(await page.inputValue('#page-find input[name="key"]'), "nobody");
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("schedules, rows and streams are links, with what is shown of them", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    await login(page, crowd);
    await page.goto(at(crowd, "schedules"));
    await page.waitForSelector("#page-schedules table");
    await keeps(page, () => page.click('#page-schedules [data-focus="schedule tick"]'), () => page.waitForSelector("#page-schedules .two"), () => isGone(page, "#page-schedules .two"));
    assert.equal(hash(page), "#/schedules/tick");
    await page.goto(at(crowd, "schedules/nobody"));
    await saysText(page, "#page-schedules .problem", "nobody");
    await page.goto(at(crowd, "rows"));
    await keeps(page, () => page.click('#page-rows [data-focus="table orders"]'), () => page.waitForSelector("#page-rows tbody a"), () => saysText(page, "#page-rows .nothing", "Tables of this app"));
    const first = await page.textContent("#page-rows tbody a");
    await keeps(page, () => page.click("#page-rows .more-rows"), () => page.waitForFunction((before) => ![null, before].includes(document.querySelector("#page-rows tbody a")?.textContent ?? null), first), () => saysText(page, "#page-rows tbody a", first));
    await page.fill("#page-rows .keyed input", "order-7");
    await keeps(page, () => page.click("#page-rows .keyed button"), () => saysText(page, "#page-rows h2.row-key", "order-7"), () => page.waitForSelector("#page-rows tbody a"));
    assert.equal(hash(page), "#/rows/orders/order-7");
    // A key may hold anything, slashes too.
    await page.fill("#page-rows .keyed input", "/a b/%2F?#");
    await page.click("#page-rows .keyed button");
    await saysText(page, "#page-rows .problem", "orders//a b/%2F?#");
    await page.reload();
    await saysText(page, "#page-rows .problem", "orders//a b/%2F?#");
    await page.goto(at(crowd, "streams"));
    await page.waitForSelector("#page-streams table");
    const hint = "#page-streams .messages .top-line .hint";
    const newest = (wanted) => page.waitForFunction(([where, number]) => document.querySelector(where)?.textContent.match(/\d+/)?.[0] === number, [hint, String(wanted)]);
    const openWeb = () => page.locator("#page-streams td a", { hasText: /^web$/ }).click();
    await openWeb();
    // Other tests publish as well.
    await page.waitForFunction((where) => /\d/.test(document.querySelector(where)?.textContent ?? ""), hint);
    const last = Number((await page.textContent(hint)).match(/\d+/)[0]);
    await page.goBack();
    await page.waitForSelector("#page-streams table");
    await keeps(page, openWeb, () => newest(last), () => page.waitForSelector("#page-streams table"));
    await page.fill('#page-streams input[type="number"]', "2");
    await keeps(page, () => page.click("#page-streams form button"), () => newest(2), () => newest(last));
    assert.equal(hash(page), "#/streams/web?from=2");
    await keeps(page, () => page.click('#page-streams [data-focus="subject web.page.viewed"]'), () => page.waitForFunction((where) => location.hash.includes("subject=web.page.viewed") && /\d/.test(document.querySelector(where)?.textContent ?? ""), hint), () => newest(2));
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("a wall shows the map and its head line alone", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url, { viewport: { width: 1920, height: 1080 } });
    await login(page, crowd);
    await page.goto(at(crowd, "flows"));
    await page.waitForSelector("#page-flows table");
    await page.keyboard.press("w");
    await mapIsThere(page);
    await page.waitForSelector("body.wall #totals b");
    assert.equal(hash(page), "#/map?wall");
    assert.equal(await page.locator("button:visible, input:visible, nav:visible").count(), 0, "there is nothing to press");
    // Letters of 15 mm are read from three metres; a point of a screen of 1 m is half a millimetre wide.
    const size = await page.evaluate(() => Number.parseFloat(getComputedStyle(document.querySelector("#totals b")).fontSize));
    assert.ok(size * 0.7 * (1000 / 1920) >= 15, `${size} px are too small`);
    const under = await page.evaluate(() => document.getElementById("nodes").getBoundingClientRect().top - document.getElementById("totals").getBoundingClientRect().bottom);
    assert.ok(under >= 0, "the map lies under its head line");
    const seen = new Set();
    await until("ticks", async () => seen.add(await page.getAttribute("#canvas", "data-tick")).size > 3);
    await shoot(page, "wall");
    await page.reload();
    await page.waitForSelector("body.wall #totals b");
    await page.keyboard.press("w");
    await page.waitForSelector("body:not(.wall) nav");
    await page.keyboard.press("w");
    await page.waitForSelector("body.wall");
    await page.keyboard.press("Escape");
    await page.waitForSelector("body:not(.wall) nav");
    assert.equal(hash(page), "#/map");
    await page.goBack();
    await page.waitForSelector("body.wall");
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });
}
