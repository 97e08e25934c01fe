"""Looking inside: a network as a table, training and features as pictures."""

from minidl.inspect import plots as plots
from minidl.inspect.summary import Layer, Summary, multiply_adds, summary

__all__ = ["Layer", "Summary", "multiply_adds", "plots", "summary"]
