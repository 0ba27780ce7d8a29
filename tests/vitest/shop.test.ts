/** Tests of an app of `oncue new --lang typescript` for vitest: `npm install --save-dev vitest`, this file in `tests/`, `npx vitest run`. */

import { create } from "@bufbuild/protobuf";
import { Reject } from "oncue";
import { App, call, luck } from "oncue/testing";
import { describe, expect, onTestFinished, test } from "vitest";

import { billOrder } from "../functions/bill-order.ts";
import { countSales, customers } from "../functions/count-sales.ts";
import type { OrderPlaced } from "../gen/orders_pb.js";
import { OrderBilledSchema, OrderPlacedSchema } from "../gen/orders_pb.js";

function placed(order: string, cents = 1000n): OrderPlaced {
  return create(OrderPlacedSchema, { order, customer: "ann", cents });
}

describe("a handler", () => {
  test("adds the tax", async () => {
    const { events } = await call(billOrder, placed("o1"));
    expect(events).toEqual([create(OrderBilledSchema, { order: "o1", customer: "ann", cents: 1190n })]);
  });

  test("refuses an order of nothing", async () => {
    await expect(call(billOrder, placed("o1", 0n))).rejects.toThrow(Reject);
  });
});

describe("the app", () => {
  /** An app that ends with its test, and says what it did where that fails. */
  async function shop(): Promise<App> {
    const app = await App.of(billOrder, countSales);
    onTestFinished(async ({ task }) => {
      if (task.result?.state === "fail") console.log((await app.journal()).join("\n"));
      await app.close();
    });
    return app;
  }

  test("counts what is bought", async () => {
    const app = await shop();
    await app.publish(placed("o1"));
    await app.publish(placed("o2"));
    await app.settle();
    expect(await app.row(customers, "ann")).toEqual({ orders: 2, cents: 2380n });
    expect(await app.deadLetters()).toEqual([]);
  });

  // Longer than the five seconds that vitest gives: two hundred plays.
  test("does so whatever the luck", { timeout: 30_000 }, async () => {
    const tally = await luck([billOrder, countSales], async (app) => {
      for (const order of ["o1", "o2", "o3"]) await app.publish(placed(order));
      await app.settle();
    });
    expect(tally.crashes).toBeGreaterThan(0);
  });
});
