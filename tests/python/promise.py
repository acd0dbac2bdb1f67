"""Keeps account of what a broker has promised, and tells which promises it broke.

Messages are numbered and published once each. Times are those of the client's monotonic clock.
"""

# An acknowledgement has no answer, so one that is younger than this when the broker dies may not
# have reached its disk.
ACK_SETTLED_S = 0.2

# A disk that stands still keeps acknowledgements from it for as long as it likes, and a test cannot
# tell its broker's fault from its disk's. So an acknowledgement counts as settled only if the disk
# has moved since: a publish that was sent this much later has been confirmed.
SENT_AFTER_S = 0.05


class Promise:
    """Publishes, confirms, deliveries and acknowledgements over the lives of one broker."""

    def __init__(self):
        self.confirmed = set()
        self.delivered = set()
        self.published_at = {}
        self.acked_at = {}
        # When the latest of the confirmed publishes of this life was sent.
        self.synced_s = float("-inf")
        self.settled = set()
        self.redeliveries = 0
        self.violations = []

    def on_publish(self, number, at_s):
        """A publish was handed to the system."""
        self.published_at[number] = at_s

    def on_confirm(self, number):
        """The publisher saw the broker's acknowledgement."""
        self.confirmed.add(number)
        self.synced_s = max(self.synced_s, self.published_at.pop(number, self.synced_s))

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
            number for number, acked_s in self.acked_at.items()
            if at_s - acked_s > ACK_SETTLED_S and self.synced_s - acked_s > SENT_AFTER_S)
        self.acked_at.clear()
        self.published_at.clear()
        self.synced_s = float("-inf")

    def on_drained(self):
        """The broker says that it holds nothing more, so all it confirmed must have come."""
        lost = self.confirmed - self.delivered
        if lost:
            self.violations.append(f"{len(lost)} confirmed messages lost: {sorted(lost)[:10]}")
