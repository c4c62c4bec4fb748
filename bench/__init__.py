"""Measurements, never tests. `make bench` runs them all; `python -m bench NAME` one of them.

Each module measures one thing side by side with what it is compared to, in turn (A B A B), and returns `Measured`: the
figures with their goals, and plots. All traffic is on loopback.
"""
