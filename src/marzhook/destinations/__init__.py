"""What is said to a receiver, and what its answer means: pure, a page each.

Nothing is imported here: what makes webhooks alone needs no more than the standard library (`marzhook.testing`).
"""
