"""What ``benchmarks/peers.py`` is made of: the networks, who runs them, how their files are made, and how they are timed."""
