"""The peers that the server is measured against, each in a process of its own: the bare session, and a bare handler."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import scenarios

from serving.backend import Runtime
from serving.pb.open_inference import grpc_service_pb2 as oip
from serving.pb.sparsewalk.v1 import encoder_pb2 as native


def run_raw(models: Path, threads: int, rows: list[int]) -> None:
    """Calls the session on as many threads as there are callers; commands come on stdin, results go to stdout."""
    found = {scenario.name: scenario for scenario in scenarios.build(models, threads, rows)}
    runtime = Runtime.choose("cpu", threads)
    sessions = {name: scenarios.open_model(models, name, runtime) for name in ("mnist_k_sparse", "pedestrian_unet")}
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        scenario = found[command["scenario"]]
        session, outputs = sessions[scenario.model], (scenario.output,)
        latencies: list[list[float]] = [[] for _ in range(command["callers"])]
        end = time.perf_counter() + command["seconds"]

        def call(own: list[float]) -> None:
            before = time.perf_counter()
            while before < end:  # noqa: B023  # joined below, before the next turn
                session.run(scenario.inputs, outputs)  # noqa: B023
                after = time.perf_counter()
                own.append(after - before)
                before = after

        _together(call, latencies)
        print(json.dumps([seconds for own in latencies for seconds in own]), flush=True)


def run_bare(models: Path, threads: int) -> None:
    """Serves the session with the least that a synchronous handler can do: no check, queue, batch, count or log."""
    runtime = Runtime.choose("cpu", threads)
    digits = scenarios.open_model(models, "mnist_k_sparse", runtime)
    sessions = {"mnist_k_sparse": digits, "pedestrian_unet": scenarios.open_model(models, "pedestrian_unet", runtime)}

    def encode(request: native.EncodeRequest, context: grpc.ServicerContext) -> native.EncodeResponse:
        del context
        tensor = request.picture.tensor
        image = np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)
        (encoding,) = digits.run({"image": image}, ("encoding",))
        return native.EncodeResponse(
            encoding={"dtype": native.DATA_TYPE_FP32, "shape": encoding.shape, "data": encoding.tobytes()}
        )

    def infer(request: oip.ModelInferRequest, context: grpc.ServicerContext) -> oip.ModelInferResponse:
        del context
        dtype = np.uint8 if request.inputs[0].datatype == "UINT8" else np.float32
        image = np.frombuffer(request.raw_input_contents[0], dtype).reshape(request.inputs[0].shape)
        output = request.outputs[0].name
        (array,) = sessions[request.model_name].run({"image": image}, (output,))
        response = oip.ModelInferResponse(raw_output_contents=[array.tobytes()])
        response.outputs.add(name=output, datatype="FP32", shape=array.shape)
        return response

    server = grpc.server(
        ThreadPoolExecutor(32),
        options=[("grpc.max_receive_message_length", 2**26), ("grpc.max_send_message_length", 2**26)],
    )
    handler = grpc.unary_unary_rpc_method_handler
    to_bytes = (native.EncodeResponse.SerializeToString, oip.ModelInferResponse.SerializeToString)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "sparsewalk.v1.EncoderService",
                {"Encode": handler(encode, native.EncodeRequest.FromString, to_bytes[0])},
            ),
            grpc.method_handlers_generic_handler(
                "inference.GRPCInferenceService",
                {"ModelInfer": handler(infer, oip.ModelInferRequest.FromString, to_bytes[1])},
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(0).wait()


def _together(call, arguments: list[list[float]]) -> None:  # type: ignore[no-untyped-def]
    workers = [threading.Thread(target=call, args=(each,)) for each in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def main() -> None:
    """One of the two, until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=("raw", "bare"))
    parser.add_argument("models", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="in one request for an encoding")
    arguments = parser.parse_args()
    if arguments.which == "raw":
        run_raw(arguments.models, arguments.threads, arguments.rows)
    else:
        run_bare(arguments.models, arguments.threads)


if __name__ == "__main__":
    main()
