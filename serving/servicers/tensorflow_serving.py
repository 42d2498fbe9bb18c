"""``tensorflow.serving.PredictionService`` and ``ModelService``, as the stock clients of TensorFlow Serving speak them.

Left out: Classify, Regress and MultiInference (UNIMPLEMENTED), which need TensorFlow's examples.
"""

from pathlib import PurePath

import grpc

from serving.call import Call
from serving.changes import Override
from serving.engine import Engine
from serving.errors import ForbiddenError, InvalidInputError, NotFoundError, quote
from serving.manifest import TensorSpec
from serving.model_settings import VersionPolicy
from serving.pb.tensorflow_serving import apis_pb2 as pb
from serving.pb.tensorflow_serving import apis_pb2_grpc as pb_grpc
from serving.pb.tensorflow_serving import config_pb2, error_codes_pb2, framework_pb2
from serving.servicers import tensor_protos
from serving.servicers.registration import Registrar
from serving.servicers.status import Asked, Reception
from serving.shelf import State

SERVICE_NAMES: tuple[str, ...] = tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())

_SIGNATURE = "serving_default"
_METHOD = "tensorflow/serving/predict"
_FIELD = "signature_def"

_STATES = {
    State.LOADING: pb.ModelVersionStatus.LOADING,
    State.READY: pb.ModelVersionStatus.AVAILABLE,
    State.UNLOADING: pb.ModelVersionStatus.UNLOADING,
    State.UNAVAILABLE: pb.ModelVersionStatus.END,
}


class PredictionServicer(pb_grpc.PredictionServiceServicer):
    """Converts between the protocol's messages and the engine.

    Args:
        engine: does the work.
        reception: takes the requests in and ends those that fail.
    """

    def __init__(self, engine: Engine, reception: Reception) -> None:
        self._engine = engine
        self._reception = reception

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:  # noqa: N802
        """Runs a model."""
        asked = _asked(request.model_spec)

        def work(call: Call) -> pb.PredictResponse:
            _check_signature(request.model_spec)
            inputs = {name: tensor_protos.read(f"input {quote(name)}", request.inputs[name]) for name in request.inputs}
            answer = self._engine.infer(*asked, inputs, list(request.output_filter), call=call)
            response = pb.PredictResponse(model_spec=_spec(answer.model, answer.version))
            for name, array in answer.outputs.items():
                tensor_protos.write(response.outputs[name], array)
            return response

        return self._reception.answer("Predict", asked, context, work)

    def GetModelMetadata(  # noqa: N802
        self, request: pb.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.GetModelMetadataResponse:
        """The tensors of a model."""
        asked = _asked(request.model_spec)

        def work(call: Call) -> pb.GetModelMetadataResponse:
            call.check()
            if list(request.metadata_field) != [_FIELD]:
                came = ", ".join(map(quote, request.metadata_field)) or "none"
                raise InvalidInputError(f"the metadata field is {_FIELD}. Received: {came}")
            servable = self._engine.repository.get(*asked)
            signature = framework_pb2.SignatureDef(
                inputs=_infos(servable.manifest.inputs), outputs=_infos(servable.manifest.outputs), method_name=_METHOD
            )
            response = pb.GetModelMetadataResponse(model_spec=_spec(servable.name, servable.version))
            response.metadata[_FIELD].Pack(pb.SignatureDefMap(signature_def={_SIGNATURE: signature}))
            return response

        return self._reception.answer("GetModelMetadata", asked, context, work)


class ModelServicer(pb_grpc.ModelServiceServicer):
    """Tells what has become of models, and changes which are served.

    Args:
        engine: has the models.
        reception: takes the requests in and ends those that fail.
        control: whether callers may change which models are served.
    """

    def __init__(self, engine: Engine, reception: Reception, *, control: bool) -> None:
        self._repository = engine.repository
        self._reception = reception
        self._control = control

    def GetModelStatus(  # noqa: N802
        self, request: pb.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetModelStatusResponse:
        """What has become of each version of a model, newest first."""
        name, version = asked = _asked(request.model_spec)

        def work(call: Call) -> pb.GetModelStatusResponse:
            call.check()
            number = self._repository.get(name, version).version if isinstance(version, str) else version
            statuses = [
                each
                for each in reversed(self._repository.statuses())
                if each.name == name and number in (None, each.version)
            ]
            if not statuses:
                raise NotFoundError(f"no version of model {quote(name)} was ever to be served as asked for")
            return pb.GetModelStatusResponse(
                model_version_status=[
                    pb.ModelVersionStatus(
                        version=each.version,
                        state=_STATES[each.state],
                        status=pb.StatusProto(
                            error_code=error_codes_pb2.UNKNOWN if each.broken else error_codes_pb2.OK,
                            error_message=each.reason,
                        ),
                    )
                    for each in statuses
                ]
            )

        return self._reception.answer("GetModelStatus", asked, context, work)

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: pb.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> pb.ReloadConfigResponse:
        """Serves the models named and no others."""

        def work(call: Call) -> pb.ReloadConfigResponse:
            call.check()
            if not self._control:
                raise ForbiddenError(
                    "this server does not let callers change which models are served (--model-control false)"
                )
            if request.config.WhichOneof("config") != "model_config_list":
                raise InvalidInputError("a configuration is a model_config_list. Received: none")
            self._repository.configure(_wanted(request.config.model_config_list))
            return pb.ReloadConfigResponse(status=pb.StatusProto(error_code=error_codes_pb2.OK))

        return self._reception.answer("HandleReloadConfigRequest", ("", None), context, work)


def add_to(server: Registrar, prediction: PredictionServicer, model: ModelServicer) -> None:
    """Registers the servicers."""
    pb_grpc.add_PredictionServiceServicer_to_server(prediction, server)  # type: ignore[no-untyped-call]  # generated
    pb_grpc.add_ModelServiceServicer_to_server(model, server)  # type: ignore[no-untyped-call]  # generated


def _asked(spec: pb.ModelSpec) -> Asked:
    match spec.WhichOneof("version_choice"):
        case "version":
            return spec.name, spec.version.value
        case "version_label":
            return spec.name, spec.version_label
        case _:
            return spec.name, None


def _check_signature(spec: pb.ModelSpec) -> None:
    if spec.signature_name not in ("", _SIGNATURE):
        raise InvalidInputError(
            f"{spec.name} has the one signature {_SIGNATURE}. Received: {quote(spec.signature_name)}"
        )


def _spec(name: str, version: int) -> pb.ModelSpec:
    spec = pb.ModelSpec(name=name, signature_name=_SIGNATURE)
    spec.version.value = version
    return spec


def _infos(specs: tuple[TensorSpec, ...]) -> dict[str, framework_pb2.TensorInfo]:
    shape = framework_pb2.TensorShapeProto
    return {
        spec.name: framework_pb2.TensorInfo(
            name=f"{spec.name}:0",
            dtype=tensor_protos.CODES[spec.dtype],
            tensor_shape=shape(dim=[shape.Dim(size=size) for size in spec.shape]),
        )
        for spec in specs
    }


def _wanted(configs: config_pb2.ModelConfigList) -> dict[str, Override]:
    wanted: dict[str, Override] = {}
    for config in configs.config:
        name = config.name
        if not name or name in wanted:
            raise InvalidInputError(f"each model is named, and once. Received: {quote(name)}")
        if config.base_path and PurePath(config.base_path).name != name:
            raise InvalidInputError(
                f"models come from this server's own repository: the base_path of {quote(name)} is empty or ends in"
                f" its name. Received: {quote(config.base_path)}"
            )
        wanted[name] = Override(_policy(config), dict(config.version_labels))
    return wanted


def _policy(config: config_pb2.ModelConfig) -> VersionPolicy | None:
    policy = config.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "latest":
            return VersionPolicy("latest", count=policy.latest.num_versions or 1)
        case "all":
            return VersionPolicy("all")
        case "specific":
            return VersionPolicy("specific", versions=tuple(policy.specific.versions))
        case _:
            return None
