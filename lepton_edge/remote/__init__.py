"""A command of lepton-edge on another machine, over the system's SSH."""

from lepton_edge.remote.run import Outcome, run_there

__all__ = ["Outcome", "run_there"]
