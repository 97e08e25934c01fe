"""Networks as ONNX files, which other programs run without minidl."""

from minidl.onnx.export import export_onnx as export_onnx
