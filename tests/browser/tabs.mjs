// Pages that stay open for long: many at once, out of sight, refused, and with something half written in them.

import assert from "node:assert/strict";
import { at, login, mapIsThere, openPage, pause, until } from "./lib.mjs";

// More than the connections that a browser has to one host.
const TABS = 7;
const LARGE = "9007199254740993";

// The page is hidden, or seen again, for as far as it can tell.
const turn = (page, state) => page.evaluate((to) => {
  Object.defineProperty(document, "visibilityState", { configurable: true, get: () => to });
  document.dispatchEvent(new Event("visibilitychange"));
}, state);

const tick = (page) => page.getAttribute("#canvas", "data-tick");

async function moves(page) {
  const before = await tick(page);
  await until("a tick", async () => (await tick(page)) !== before);
}

export function tabTests(test, shoot) {
  test("many tabs are open, and the one that is seen works", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    await login(page, crowd);
    await mapIsThere(page);
    // A machine that stood still for a moment had a server look away.
    await until("no alarm", () => page.isHidden("#alarm"));
    await turn(page, "hidden");
    const others = [];
    for (let count = 1; count < TABS; count += 1) {
      const other = await page.context().newPage();
      await other.addInitScript(() => Object.defineProperty(document, "visibilityState", { configurable: true, get: () => "hidden" }));
      await other.goto(at(crowd, "streams"));
      await other.waitForSelector("#page-streams table");
      others.push(other);
    }
    const before = await tick(page);
    // Longer than the silence after which the console is taken for away.
    await pause(9000);
    assert.equal(await tick(page), before, "nothing comes to what nobody sees");
    assert.ok(await page.isHidden("#alarm"), "and nobody is alarmed there");
    await turn(page, "visible");
    await pause(1500);
    assert.ok(await page.isHidden("#alarm"), "nor just after it is seen again");
    assert.equal(await page.locator("body.unknown").count(), 0);
    await moves(page);
    const [last] = others.slice(-1);
    await turn(last, "visible");
    await last.waitForSelector("#pulse.live");
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("what is written stays while the console refuses", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    await login(page, crowd);
    await page.goto(at(crowd, "find"));
    await page.waitForSelector("#page-find .list li");
    await page.fill('#page-find input[name="text"]', "half a sen");
    let refused = 0;
    await page.route("**/api/live", (route) => {
      refused += 1;
      return route.fulfill({ status: 503, contentType: "application/problem+json", body: "{}" });
    });
    await turn(page, "hidden");
    await turn(page, "visible");
    await until("another try", () => refused > 1);
    assert.equal(await page.inputValue('#page-find input[name="text"]'), "half a sen");
    await page.route("**/api/about", async (route) => {
      const answer = await route.fetch();
      return route.fulfill({ response: answer, json: { ...(await answer.json()), crowded: true } });
    });
    await page.waitForFunction(() => document.getElementById("pulse").textContent === "too many watch");
    await pause(9000);
    assert.ok(await page.isHidden("#alarm"), "it does answer");
    await shoot(page, "crowded");
    await page.unrouteAll();
    await page.waitForSelector("#pulse.live");
    assert.equal(await page.inputValue('#page-find input[name="text"]'), "half a sen");
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("a large number is what was written", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    await login(page, crowd);
    await page.route("**/api/events?*", (route) => route.fulfill({ contentType: "application/json", body: `{"events":[{"key":"large","stored":1,"data":{"page":"/big","views":${LARGE}}}]}` }));
    await page.goto(at(crowd, "publish/web.page.milestone"));
    await page.click("#page-publish .types button >> text=large");
    assert.match(await page.inputValue("#page-publish textarea"), new RegExp(`"views": ${LARGE}`));
    const text = `{ "page": "/a \\"b\\" c",\n  "views": ${LARGE} }`;
    await page.fill("#page-publish textarea", text);
    const command = `oncue pub web.page.milestone '{"page":"/a \\"b\\" c","views":${LARGE}}'`;
    await page.waitForFunction((wanted) => document.querySelector("#page-publish pre").textContent === wanted, command);
    const sent = page.waitForRequest("**/api/publish");
    await page.click("#page-publish button.strong");
    assert.match((await sent).postData(), new RegExp(`"views": ${LARGE}`));
    await page.waitForSelector("#page-publish .outcome a");
    const stored = await page.request.get(`${crowd.url}api/events?type=web.page.milestone&limit=1`);
    assert.equal((await stored.json()).events[0].data.views, LARGE);
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("what came of a cause is said though it is gone", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    await login(page, crowd);
    await page.goto(at(crowd, "letters"));
    await page.waitForFunction(() => document.querySelectorAll(".groups button[data-group]").length === 2);
    const count = await page.locator(".groups button[data-group] .badge").last().textContent();
    await page.locator(".groups button[data-group]").last().click();
    await page.click(`.bench .actions >> text=/^Drop (all ${count}|the letter)$/`);
    await page.waitForSelector("#ask[open]");
    await page.fill("#ask-why", "by a test");
    await page.click("#ask-yes");
    await page.waitForFunction(() => document.querySelectorAll(".groups button[data-group]").length === 1);
    await pause(4000);
    assert.match(await page.textContent(".bench .outcome"), new RegExp(`^${count} dropped`));
    assert.equal(await page.locator(".bench .actions button").count(), 0, "there is nothing to do about what is gone");
    await shoot(page, "letters-gone");
    await page.locator(".groups button[data-group]").click();
    await page.waitForSelector(".bench tbody tr");
    assert.equal(await page.locator(".bench .outcome").count(), 0);
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });
}
