/** `src/bin/bench-clicks.rs` in TypeScript. */

import { create } from "@bufbuild/protobuf";
import { func, row } from "oncue";

import { PageMilestoneSchema, PageViewedSchema } from "../gen/web/page_pb.js";

const pages = row("clicks", { views: 0 });

func("bench-clicks-typescript", { on: PageViewedSchema, row: pages, emits: PageMilestoneSchema }, ({ page }, row) => {
  row.views += 1;
  return create(PageMilestoneSchema, { page, views: BigInt(row.views) });
});
