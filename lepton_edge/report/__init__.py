"""What comes out of measurements: one JSON document, tables for people, one HTML file, Markdown and CSV.

:mod:`.document` saves, loads and checks; :mod:`.comparison` tells faster from slower; :mod:`.cell` words what tables say;
:mod:`.terminal` prints; :mod:`.text` makes Markdown and CSV; :mod:`.html` and :mod:`.chart` draw (with the ``[report]`` extra).
"""
