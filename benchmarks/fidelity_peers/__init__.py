"""Ours and other quantizers on the same networks and the same samples: the parts of benchmarks/fidelity.py."""
