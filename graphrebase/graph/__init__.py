"""The read-only view of an ONNX graph: nodes in order, producers, consumers, static shapes."""

from graphrebase.graph.expand import build_graph
from graphrebase.graph.shapes import Dim, ShapeTable, infer_shapes
from graphrebase.graph.view import Graph, Node, Slot

__all__ = ["Dim", "Graph", "Node", "ShapeTable", "Slot", "build_graph", "infer_shapes"]
