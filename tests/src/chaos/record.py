"""`src/bin/record.rs` in Python: records every milestone it applies, so that a lost or doubled one shows."""

import dataclasses

from oncue import Context, function, reject, row
from oncue.events import PageMilestone


@row("records")
class Record:
    count: int = 0
    # Ids applied, in order.
    ids: list[str] = dataclasses.field(default_factory=list)
    # What the milestones said.
    views: list[int] = dataclasses.field(default_factory=list)


@function("record", changes=["recorded"])
def record(milestone: PageMilestone, record: Record, context: Context) -> None:
    record.count += 1
    record.ids.append(context.id)
    record.views.append(milestone.views)
    context.add("recorded", "total", 1)
    if "refuse" in milestone.page:
        raise reject("a page to refuse")
    if "falter" in milestone.page and context.attempt == 1:
        raise OSError("the first run falters")
