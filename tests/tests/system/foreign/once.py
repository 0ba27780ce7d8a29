"""A function for tests that runs at most once on an event, and says so."""

import os

from oncue import function
from oncue.events import PageViewed


@function("once", at_most_once=True)
def once(view: PageViewed) -> None:
    print(f"ran for {view.page}")
    if view.referrer == "die":
        os._exit(3)
