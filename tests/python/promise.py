"""Keeps account of what a broker has promised, and tells which promises it broke.

Messages are numbered and published once each. Times are those of the client's monotonic clock.
"""

# An acknowledgement has no answer, so one that is younger than this when the broker dies may not
# have reached its disk.
ACK_SETTLED_S = 0.2


class Promise:
    """Publishes, confirms, deliveries and acknowledgements over the lives of one broker."""

    def __init__(self):
        self.confirmed = set()
        self.delivered = set()
        self.acked_at = {}
        self.settled = set()
        self.redeliveries = 0
        self.violations = []

    def on_confirm(self, number):
        """The publisher saw the broker's acknowledgement."""
        self.confirmed.add(number)

    def on_delivery(self, number, redelivered):
        """A consumer saw the message."""
        if number in self.settled:
            self.violations.append(f"{number} came back after its acknowledgement")
        if number in self.delivered:
            self.redeliveries += 1
            if not redelivered:
                self.violations.append(f"{number} came again without being flagged")
        self.delivered.add(number)

    def on_ack(self, number, at_s):
        """A consumer's acknowledgement was handed to the system."""
        self.acked_at[number] = at_s

    def on_kill(self, at_s):
        """The broker was killed: what was acknowledged well before must not return."""
        self.settled.update(
            number for number, acked_s in self.acked_at.items() if at_s - acked_s > ACK_SETTLED_S)
        self.acked_at.clear()

    def on_drained(self):
        """The broker says that it holds nothing more, so all it confirmed must have come."""
        lost = self.confirmed - self.delivered
        if lost:
            self.violations.append(f"{len(lost)} confirmed messages lost: {sorted(lost)[:10]}")
