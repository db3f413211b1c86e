"""What a person touches: the command line, latency measurement and reports.

:mod:`lepton_edge.cli` parses, calls one function and prints; :mod:`lepton_edge.latency` measures;
:mod:`lepton_edge.device` knows the machine; :mod:`lepton_edge.report` draws tables and writes JSON.
To embed a model in an app, use :mod:`lepton_runtime`; to export one from Python, :mod:`lepton_converters`.
"""
