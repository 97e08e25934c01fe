"""Inspection: check gradients; show networks as tables, graphs and figures."""

from minidl.inspect import plots as plots
from minidl.inspect import sentences as sentences
from minidl.inspect.attribution import grad_cam as grad_cam
from minidl.inspect.attribution import saliency as saliency
from minidl.inspect.gradcheck import GradcheckError as GradcheckError
from minidl.inspect.gradcheck import GradcheckReport as GradcheckReport
from minidl.inspect.gradcheck import InputCheck as InputCheck
from minidl.inspect.gradcheck import gradcheck as gradcheck
from minidl.inspect.graph import Graph as Graph
from minidl.inspect.graph import GraphNode as GraphNode
from minidl.inspect.graph import graph as graph
from minidl.inspect.plots import gradient_flow as gradient_flow
from minidl.inspect.summary import Layer as Layer
from minidl.inspect.summary import Summary as Summary
from minidl.inspect.summary import multiply_adds as multiply_adds
from minidl.inspect.summary import summary as summary
