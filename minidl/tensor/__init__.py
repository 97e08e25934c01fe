"""Tensor: an array that knows how it was computed, and the operations on it."""

from minidl.tensor.operations import Operand as Operand
from minidl.tensor.operations import Tensor as Tensor
from minidl.tensor.operations import as_operands as as_operands
from minidl.tensor.operations import record as record
