"""Inspection: check gradients; show networks as tables, graphs and figures.

`gradcheck` compares every element of the gradient of every input, and of every parameter of a
module, with central differences in float64: under random weights of the output, so that nothing
cancels, to second order if asked, and along random directions if inputs are large. It tells a kink
(ReLU at 0) from a mistake, and says what the mistake looks like.

| to | use |
| --- | --- |
| check a gradient | `minidl.gradcheck(fn, inputs, order=2)` |
| differentiate twice | `minidl.grad(..., create_graph=True)`, `hvp`, `jacobian`, `hessian` |
| find the first NaN, with the line of your code | `with minidl.detect_anomaly():` |
| keep, see or change a gradient | `x.retain_grad()`, `x.register_hook(fn)` |
| see all gradients of a network | `model.named_gradients()`, `inspect.gradient_flow(model)` |
| see how a value was computed | `print(inspect.graph(loss))`, `.draw()`, `.dot()` |
| point at values, gradients and lines of code | `inspect.graph(loss).html("graph.html")` |
| have these lines | `with inspect.record_lines():` around the computation |
| see what a kind of pooling keeps of images | `inspect.pooling_effects(pool, images)` |
| see what an operation does to a gradient | `pytest --show-gradients -k max_pool2d` |

Example:
    >>> from minidl import Tensor
    >>> w, b = Tensor(2.0, requires_grad=True), Tensor(1.0, requires_grad=True)
    >>> x, y = Tensor([1.0, 2.0, 3.0]), Tensor([1.0, 3.0, 2.0])
    >>> loss = ((w * x + b - y) ** 2).mean()
    >>> print(graph(loss, names={"w": w, "b": b, "x": x, "y": y}))
    #   name  made by      shape  value  gradient (larger ones: max |g|)
    --------------------------------------------------------------------
    #0  w     leaf         ()     2      14
    #1  x     constant     (3,)
    #2        mul(#0, #1)  (3,)          max 3.333
    #3  b     leaf         ()     1      6
    #4        add(#2, #3)  (3,)          max 3.333
    #5  y     constant     (3,)
    #6        sub(#4, #5)  (3,)          max 3.333
    #7        mul(#6, #6)  (3,)          max 0.3333
    #8        mean(#7)     ()     11     1
"""

from minidl.inspect import plots as plots
from minidl.inspect import sentences as sentences
from minidl.inspect.attribution import grad_cam as grad_cam
from minidl.inspect.attribution import saliency as saliency
from minidl.inspect.effects import pooling_effects as pooling_effects
from minidl.inspect.gradcheck import GradcheckError as GradcheckError
from minidl.inspect.gradcheck import GradcheckReport as GradcheckReport
from minidl.inspect.gradcheck import InputCheck as InputCheck
from minidl.inspect.gradcheck import gradcheck as gradcheck
from minidl.inspect.graph import Graph as Graph
from minidl.inspect.graph import graph as graph
from minidl.inspect.graph_node import GraphNode as GraphNode
from minidl.inspect.lines import record_lines as record_lines
from minidl.inspect.plots import gradient_flow as gradient_flow
from minidl.inspect.summary import Layer as Layer
from minidl.inspect.summary import Summary as Summary
from minidl.inspect.summary import multiply_adds as multiply_adds
from minidl.inspect.summary import summary as summary
