"""Which generation belongs to which browser tab, so that Stop and newer settings can end it."""

import threading

QUEUE = "device"
"""Everything that generates, from the page or by the API, waits in this one queue."""


class Tickets:
    """One ticket per tab: setting it ends that tab's generation within one step.

    A ticket is drawn when a person asks, before the request waits in the queue: Stop reaches a
    run that has not started yet as well.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._tickets: dict[str, threading.Event] = {}
        self._started: set[str] = set()

    def begin(self, session: str) -> threading.Event:
        """End what the tab is doing and draw a ticket for what comes next."""
        with self._lock:
            if previous := self._tickets.get(session):
                previous.set()
            ticket = self._tickets[session] = threading.Event()
            return ticket

    def start(self, session: str) -> threading.Event:
        """Return the ticket of a run that leaves the queue; a tab that has none gets one."""
        with self._lock:
            self._started.add(session)
            return self._tickets.setdefault(session, threading.Event())

    def stop(self, session: str) -> bool:
        """End what the tab is doing or waiting for; say whether a run is under way."""
        with self._lock:
            if ticket := self._tickets.get(session):
                ticket.set()
            return session in self._started

    def finish(self, session: str, ticket: threading.Event) -> None:
        """Forget a ticket that has been used, unless a newer one took its place."""
        with self._lock:
            self._started.discard(session)
            if self._tickets.get(session) is ticket:
                del self._tickets[session]

    def leave(self, session: str) -> None:
        """End and forget what a tab that is closed was doing."""
        with self._lock:
            self._started.discard(session)
            if ticket := self._tickets.pop(session, None):
                ticket.set()

    def is_current(self, session: str, ticket: threading.Event) -> bool:
        """Say whether no newer run of the tab has taken this one's place."""
        with self._lock:
            return self._tickets.get(session) is ticket

    def num_others(self, session: str) -> int:
        """Number of other tabs that wait or run."""
        with self._lock:
            tickets = self._tickets.items()
            return sum(tab != session and not ticket.is_set() for tab, ticket in tickets)
