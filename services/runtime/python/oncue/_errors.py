"""How a handler says that an event can never be handled."""


class Reject(Exception):
    """The event can never be handled: it is dead-lettered now, its row unchanged."""


def reject(why: object) -> Reject:
    """Why an event can never be handled: `raise reject("no such page")`."""
    return Reject(str(why))
