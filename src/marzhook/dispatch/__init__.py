"""From the outbox to the receivers: lanes, sending, settling."""
