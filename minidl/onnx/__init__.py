"""Write networks as ONNX files, which other programs run without minidl: see `export_onnx`."""

from minidl.onnx.export import export_onnx as export_onnx
