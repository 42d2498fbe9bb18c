"""Cuts an exported model in two at its encoding, so that who wants only one half pays only for that.

ONNX Runtime computes the whole graph whatever outputs are asked for (measured with 1.31: a run that fetches the
encoding alone took as long as one that fetches everything, with and without ``only_execute_path_to_fetches``).

    image -> encoder -> encoding -> decoder -> reconstruction
             [ encoder half     ] [ decoder half           ]

The decoder half exists only where everything after the encoding follows from the encoding alone: not where the decoder
also looks at the picture, or at a value that the encoding was made from.
"""

from collections.abc import Iterator, Sequence

from serving.pb.onnx_graph import graph_pb2 as pb


def encoder_half(model: bytes, encoding: str) -> bytes | None:
    """The part of a model that its encoding needs.

    Args:
        model: the ONNX file.
        encoding: name of the output.

    Returns:
        A model with this one output, or None when that needs every node of the model.
    """
    half = pb.Model.FromString(model)
    graph = half.graph
    needed, _ = _trace(graph, [encoding], stop="")
    if len(needed) == len(graph.node):
        return None
    _keep(graph, needed)
    _replace(graph.output, [value for value in graph.output if value.name == encoding])
    return half.SerializeToString()


def decoder_half(model: bytes, encoding: str) -> tuple[bytes, list[str]] | None:
    """The part of a model that follows from its encoding.

    Args:
        model: the ONNX file.
        encoding: name of the output that becomes the input.

    Returns:
        A model with this one input, and its outputs' names; None when no output follows from the encoding alone.
    """
    half = pb.Model.FromString(model)
    graph = half.graph
    root = _root(graph, encoding)
    sources = {value.name for value in graph.input} - {initializer.name for initializer in graph.initializer}
    outputs, needed = [], set[int]()
    for value in graph.output:
        nodes, reached = _trace(graph, [value.name], stop=root)
        # Nothing of the picture, and something of the encoding.
        if value.name != encoding and not reached & sources and root in reached:
            outputs.append(value)
            needed |= nodes
    if not outputs:
        return None
    (entrance,) = [value for value in graph.output if value.name == encoding]
    # The name of the new input must have no other maker.
    needed -= {number for number, node in enumerate(graph.node) if encoding in node.output}
    _keep(graph, needed)
    if root != encoding:
        bridge = pb.Node(input=[encoding], output=[root], op_type="Identity")
        _replace(graph.node, [bridge, *graph.node])
    _replace(graph.input, [entrance])
    names = [value.name for value in outputs]
    _replace(graph.output, outputs)
    return half.SerializeToString(), names


def _root(graph: pb.Graph, name: str) -> str:
    """The value that ``name`` is only another name of: exporters end their outputs in Identity nodes."""
    makers = {output: node for node in graph.node for output in node.output}
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    return name


def _trace(graph: pb.Graph, names: Sequence[str], stop: str) -> tuple[set[int], set[str]]:
    """The nodes that values need, and the values met where the search ended: those no node makes, and ``stop``."""
    makers = {output: number for number, node in enumerate(graph.node) for output in node.output}
    nodes: set[int] = set()
    reached: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name == stop or name not in makers:
            reached.add(name)
        elif makers[name] not in nodes:
            nodes.add(makers[name])
            todo.extend(_reads(graph.node[makers[name]]))
    return nodes, reached


def _reads(node: pb.Node) -> Iterator[str]:
    """The values a node looks at, those that the graphs inside it take from around them included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {value.name for value in body.input} | {initializer.name for initializer in body.initializer}
            own |= {output for inner in body.node for output in inner.output}
            read = {name for inner in body.node for name in _reads(inner)} | {value.name for value in body.output}
            yield from read - own


def _keep(graph: pb.Graph, nodes: set[int]) -> None:
    """Drops all other nodes, and the weights that only they used."""
    kept = [node for number, node in enumerate(graph.node) if number in nodes]
    read = {name for node in kept for name in _reads(node)}
    _replace(graph.node, kept)
    _replace(graph.initializer, [initializer for initializer in graph.initializer if initializer.name in read])
    del graph.value_info[:]


def _replace(field, messages) -> None:  # type: ignore[no-untyped-def]  # repeated fields of any message
    copies = list(messages)
    del field[:]
    field.extend(copies)
