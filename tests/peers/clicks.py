"""`src/bin/bench-clicks.rs` in Python."""

from oncue import function, row
from oncue.events import PageMilestone, PageViewed


@row("clicks")
class Page:
    views: int = 0


@function("bench-clicks-python")
def clicks(view: PageViewed, page: Page) -> PageMilestone:
    page.views += 1
    return PageMilestone(page=view.page, views=page.views)
