"""Looking inside: gradients checked, networks as tables, graphs and pictures."""

from minidl.inspect import plots as plots
from minidl.inspect import sentences as sentences
from minidl.inspect.attribution import grad_cam, saliency
from minidl.inspect.gradcheck import GradcheckError, GradcheckReport, InputCheck, gradcheck
from minidl.inspect.graph import Graph, GraphNode, graph
from minidl.inspect.plots import gradient_flow
from minidl.inspect.summary import Layer, Summary, multiply_adds, summary

__all__ = [
    "GradcheckError",
    "GradcheckReport",
    "Graph",
    "GraphNode",
    "InputCheck",
    "Layer",
    "Summary",
    "grad_cam",
    "gradcheck",
    "gradient_flow",
    "graph",
    "multiply_adds",
    "plots",
    "saliency",
    "sentences",
    "summary",
]
