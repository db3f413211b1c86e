"""``python -m lepton_edge``."""

from lepton_edge.cli import main

if __name__ == "__main__":
    main()
