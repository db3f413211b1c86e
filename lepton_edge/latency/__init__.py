"""Latency that can be believed: measured in fresh processes, warmed up, alternating, raw samples kept, judged.

:mod:`.settings` says how much is measured; :mod:`.worker` is the process that is measured; :mod:`.measure` starts such
processes (:mod:`.process`) and takes turns between them; :mod:`.result` is what comes out; :mod:`.statistics` computes
from raw samples; :mod:`.verdict` says whether the figures hold; :mod:`.pair` sets candidates against each other.

Nothing is imported here: a measured process begins by importing this package, and its start is measured, too.
"""
