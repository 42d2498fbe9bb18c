"""Asks a server through the stock ``tensorflow-serving-api``, in a process of its own.

    python tensorflow_client.py HOST:PORT PICTURE.png

The server serves ``digits/1``, ``red/1`` and ``red/2`` of the serving tests. Prints ``ok NAME`` for each check that
held, and ends with a traceback at the first that did not.
"""

import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

TARGET, PICTURE = sys.argv[1], Path(sys.argv[2]).read_bytes()
ROWS = np.random.default_rng(0).random((3, 784), dtype=np.float32)
CHANNEL = grpc.insecure_channel(TARGET)
PREDICTION = prediction_service_pb2_grpc.PredictionServiceStub(CHANNEL)
MODEL = model_service_pb2_grpc.ModelServiceStub(CHANNEL)


def request(name: str, image: Any, *outputs: str, **spec: Any) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest(output_filter=outputs)
    made.model_spec.name = name
    made.model_spec.signature_name = spec.pop("signature", "serving_default")
    if "version" in spec:
        made.model_spec.version.value = spec["version"]
    if "label" in spec:
        made.model_spec.version_label = spec["label"]
    made.inputs["image"].CopyFrom(image if not isinstance(image, np.ndarray) else tf.make_tensor_proto(image))
    return made


def refused(status: str, message: str, method: Any, asked: Any) -> None:
    told = None
    try:
        method(asked, timeout=10)
    except grpc.RpcError as error:
        told = error
    assert told is not None, f"was not refused: {message}"
    assert (told.code().name, message in told.details()) == (status, True), told


def predict() -> None:
    answer = PREDICTION.Predict(request("digits", ROWS), timeout=10)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("digits", 1)
    np.testing.assert_allclose(tf.make_ndarray(answer.outputs["reconstruction"]), 1 - ROWS, rtol=1e-6)
    # As the tutorials read it.
    sums = np.array(answer.outputs["encoding"].float_val).reshape(3, 4)[:, 0]
    np.testing.assert_allclose(sums, ROWS.sum(axis=1), rtol=1e-5)
    answer = PREDICTION.Predict(request("digits", ROWS, "encoding", version=1, signature=""), timeout=10)
    assert list(answer.outputs) == ["encoding"]
    # Values in their list; a short list goes on with its last value.
    tensor = tf.make_tensor_proto(0.25, shape=[2, 784], dtype=tf.float32)
    assert not tensor.tensor_content
    answer = PREDICTION.Predict(request("digits", tensor), timeout=10)
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["reconstruction"]), np.full((2, 784), 0.75))
    # No values at all are zeros.
    zeros = tf.make_tensor_proto(0.0, shape=[2, 784], dtype=tf.float32)
    zeros.ClearField("float_val")
    np.testing.assert_array_equal(tf.make_ndarray(zeros), np.zeros((2, 784)))
    answer = PREDICTION.Predict(request("digits", zeros), timeout=10)
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["reconstruction"]), np.ones((2, 784)))


def pictures() -> None:
    raw = np.zeros((1, 32, 64, 3), np.uint8)
    raw[..., 0] = 51
    for image in (raw, np.array([PICTURE], np.object_)):
        answer = PREDICTION.Predict(request("red", image), timeout=10)
        np.testing.assert_allclose(tf.make_ndarray(answer.outputs["mask"]), np.full((1, 32, 64, 1), 0.2), rtol=1e-6)


def refusals() -> None:
    ask = PREDICTION.Predict
    refused("NOT_FOUND", "no model 'blue'", ask, request("blue", ROWS))
    refused("NOT_FOUND", "no version 9 of model digits", ask, request("digits", ROWS, version=9))
    refused("NOT_FOUND", "no version labelled 'canary'", ask, request("digits", ROWS, label="canary"))
    refused("INVALID_ARGUMENT", "the one signature", ask, request("digits", ROWS, signature="train"))
    refused("INVALID_ARGUMENT", "has no output 'mask'", ask, request("digits", ROWS, "mask"))
    refused("INVALID_ARGUMENT", "Received: FP64 [3, 784]", ask, request("digits", ROWS.astype(np.float64)))
    refused("INVALID_ARGUMENT", "Received: FP16 [3, 784]", ask, request("digits", ROWS.astype(np.float16)))
    refused("INVALID_ARGUMENT", "a dtype is one of", ask, request("digits", ROWS.astype(np.complex64)))
    refused("INVALID_ARGUMENT", "a picture is JPEG", ask, request("red", np.array([b"no"], np.object_)))
    short = request("digits", ROWS)
    short.inputs["image"].tensor_content = b"1234"
    refused("INVALID_ARGUMENT", "has 9408 bytes. Received: 4 bytes", ask, short)
    huge = request("digits", tf.make_tensor_proto(0.25, shape=[2, 784], dtype=tf.float32))
    huge.inputs["image"].tensor_shape.dim[0].size = 2**40
    refused("INVALID_ARGUMENT", "at most 64 rows in one request. Received: 1099511627776", ask, huge)


def metadata() -> None:
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "digits"
    told = PREDICTION.GetModelMetadata(asked, timeout=10)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert told.metadata["signature_def"].Unpack(found)
    signature = found.signature_def["serving_default"]
    assert [size.size for size in signature.inputs["image"].tensor_shape.dim] == [-1, 784]
    assert signature.inputs["image"].dtype == tf.float32.as_datatype_enum
    assert sorted(signature.outputs) == ["encoding", "reconstruction"]
    asked.metadata_field[:] = ["graph"]
    refused("INVALID_ARGUMENT", "the metadata field is signature_def", PREDICTION.GetModelMetadata, asked)


def states(name: str) -> dict[int, int]:
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = name
    told = MODEL.GetModelStatus(asked, timeout=10)
    return {each.version: each.state for each in told.model_version_status}


STATE = get_model_status_pb2.ModelVersionStatus


def status() -> None:
    assert states("red") == {1: STATE.AVAILABLE, 2: STATE.AVAILABLE}
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = "blue"
    refused("NOT_FOUND", "no version of model 'blue'", MODEL.GetModelStatus, asked)


def reload() -> None:
    asked = model_management_pb2.ReloadConfigRequest()
    config = asked.config.model_config_list.config.add(name="red", base_path="/models/red", model_platform="tensorflow")
    config.model_version_policy.latest.num_versions = 1
    config.version_labels["stable"] = 2
    assert MODEL.HandleReloadConfigRequest(asked, timeout=10).status.error_code == 0
    assert states("red") == {1: STATE.END, 2: STATE.AVAILABLE}
    assert states("digits") == {1: STATE.END}
    image = np.zeros((1, 32, 64, 3), np.uint8)
    assert PREDICTION.Predict(request("red", image, label="stable"), timeout=10).model_spec.version.value == 2
    refused("NOT_FOUND", "no model 'digits'", PREDICTION.Predict, request("digits", ROWS))
    config.version_labels["canary"] = 1
    refused(
        "FAILED_PRECONDITION", "label 'canary' names version 1, which is not", MODEL.HandleReloadConfigRequest, asked
    )
    config.base_path = "/elsewhere/blue"
    refused("INVALID_ARGUMENT", "this server's own repository", MODEL.HandleReloadConfigRequest, asked)
    assert states("red")[2] == STATE.AVAILABLE


for check in (predict, pictures, refusals, metadata, status, reload):
    check()
    print("ok", check.__name__)
