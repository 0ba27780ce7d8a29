/** A function for tests whose handler waits, or has much to say, as its event's `referrer` tells. */

import { create } from "@bufbuild/protobuf";
import { existsSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { delayed, func } from "oncue";

import { PageViewedSchema } from "../gen/web/page_pb.js";

// Who waits for others, and what tells them that all are there.
let here = 0;
let tell = () => {};
const allHere = new Promise<void>((told) => (tell = told));

export const slow = func(
  "slow",
  { on: PageViewedSchema, emits: PageViewedSchema, attempts: 2, concurrency: 50 },
  async (view) => {
    const [word, number] = view.referrer.split(":");
    if (word === "meet") {
      here += 1;
      if (here === Number(number)) tell();
      await allHere;
    }
    while (word === "hold" && !existsSync("go")) await setTimeout(10);
    if (word === "shout") {
      console.log("x".repeat(17_000_000));
      throw new RangeError("y".repeat(17_000_000));
    }
    const following = create(PageViewedSchema, { page: "/much", referrer: "z".repeat(900_000) });
    if (word === "never") return delayed(following, Infinity);
    return word === "much" ? Array(Number(number)).fill(following) : [];
  },
);
