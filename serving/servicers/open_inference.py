"""``inference.GRPCInferenceService``: the Open Inference Protocol v2, as the stock clients of NVIDIA Triton speak it.

Left out: CUDA's shared memory (nothing can be registered), tracing and logging calls (UNIMPLEMENTED), and the
classification of outputs.
"""

from collections.abc import Callable, Iterator, Mapping

import grpc

from serving.call import PRIORITIES, USUAL, Call
from serving.engine import Engine
from serving.errors import ForbiddenError, InvalidInputError, NotFoundError, UnsupportedError, quote
from serving.pb.open_inference import grpc_service_pb2 as pb
from serving.pb.open_inference import grpc_service_pb2_grpc as pb_grpc
from serving.servicers import open_inference_models as models
from serving.servicers.open_inference_tensors import destinations, inputs, integer, keys, response
from serving.servicers.registration import Registrar
from serving.servicers.status import Asked, Reception
from serving.shared_memory import Regions
from serving.shelf import State, Version

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

_EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "schedule_policy", "statistics")
_SHARED_MEMORY = "system_shared_memory"


class OpenInferenceServicer(pb_grpc.GRPCInferenceServiceServicer):
    """Converts between the protocol's messages and the engine.

    Args:
        engine: does the work.
        reception: takes the requests in and ends those that fail.
        version: of the server, for ServerMetadata.
        control: whether callers may load and unload models.
        regions: of shared memory that callers may register; None where they may not.
    """

    def __init__(
        self, engine: Engine, reception: Reception, *, version: str, control: bool, regions: Regions | None = None
    ) -> None:
        self._engine = engine
        self._repository = engine.repository
        self._reception = reception
        self._version = version
        self._control = control
        self._regions = regions

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:  # noqa: N802
        """Yes, since this answers."""
        del request, context
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:  # noqa: N802
        """Whether every model answers, and will."""
        del request, context
        return pb.ServerReadyResponse(ready=self._ready)

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:  # noqa: N802
        """Whether one model answers, and will."""
        del context
        _, version = self._repository.names(request.name, _version(request.version))
        return pb.ModelReadyResponse(ready=self._ready and version.isdigit())

    def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        del request, context
        return pb.ServerMetadataResponse(
            name="sparsewalk",
            version=self._version,
            extensions=_EXTENSIONS if self._regions is None else (*_EXTENSIONS, _SHARED_MEMORY),
        )

    def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """The tensors of a model."""

        def work(call: Call) -> pb.ModelMetadataResponse:
            call.check()
            servable = self._repository.get(request.name, _version(request.version))
            of_model = [each for each in self._repository.servables() if each.name == servable.name]
            return pb.ModelMetadataResponse(
                name=servable.name,
                versions=[str(each.version) for each in of_model],
                platform=models.PLATFORM,
                inputs=[models.metadata(spec) for spec in servable.manifest.inputs],
                outputs=[models.metadata(spec) for spec in servable.manifest.outputs],
            )

        return self._reception.answer("ModelMetadata", (request.name, _version(request.version)), context, work)

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:  # noqa: N802
        """A model's configuration, as Triton would write it."""

        def work(call: Call) -> pb.ModelConfigResponse:
            call.check()
            servable = self._repository.get(request.name, _version(request.version))
            return pb.ModelConfigResponse(
                config=models.config(servable, self._repository.settings(servable.name).policy)
            )

        return self._reception.answer("ModelConfig", (request.name, _version(request.version)), context, work)

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:  # noqa: N802
        """One inference."""
        return self._reception.answer("ModelInfer", _asked(request), context, lambda call: self._infer(request, call))

    def ModelStreamInfer(  # noqa: N802
        self, request_iterator: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Inferences over one connection, answered in order."""

        def prepare(
            request: pb.ModelInferRequest,
        ) -> tuple[Asked, Callable[[Call], pb.ModelStreamInferResponse]]:
            def work(call: Call) -> pb.ModelStreamInferResponse:
                response = self._infer(request, call)
                # One answer for each request: a client that asked to be told when there are no more is told so here.
                response.parameters["triton_final_response"].bool_param = True
                return pb.ModelStreamInferResponse(infer_response=response)

            return _asked(request), work

        def refuse(request: pb.ModelInferRequest, status: grpc.StatusCode, message: str) -> pb.ModelStreamInferResponse:
            of = pb.ModelInferResponse(
                model_name=request.model_name, model_version=request.model_version, id=request.id
            )
            return pb.ModelStreamInferResponse(error_message=f"[{status.name}] {message}", infer_response=of)

        return self._reception.stream("ModelStreamInfer", context, request_iterator, prepare, refuse)

    def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        """What a model, or every model, has done since it was loaded."""

        def work(call: Call) -> pb.ModelStatisticsResponse:
            call.check()
            if request.version:
                chosen = [self._repository.get(request.name, _version(request.version))]
            else:
                if request.name:
                    self._repository.get(request.name)
                chosen = [each for each in self._repository.servables() if request.name in ("", each.name)]
            return pb.ModelStatisticsResponse(
                model_stats=[models.statistics(servable, self._repository.snapshot(servable)) for servable in chosen]
            )

        return self._reception.answer("ModelStatistics", (request.name, _version(request.version)), context, work)

    def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """The models of the repository, and how they fare; of those that were never loaded only the name, as Triton."""
        entry = pb.RepositoryIndexResponse.ModelIndex

        def work(call: Call) -> pb.RepositoryIndexResponse:
            call.check()
            return pb.RepositoryIndexResponse(
                models=[
                    entry(name=each.name, version=str(each.version), state=each.state.value, reason=each.reason)
                    for each in self._repository.statuses()
                    if each.state is State.READY or not request.ready
                ]
                + [entry(name=name) for name in self._repository.unloaded() if not request.ready]
            )

        return self._reception.answer("RepositoryIndex", ("", None), context, work)

    def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Loads a model, or loads it anew."""

        def work(call: Call) -> pb.RepositoryModelLoadResponse:
            call.check()
            self._check_control()
            if request.parameters:
                raise InvalidInputError(
                    "a model is loaded from its folder as it is, without parameters."
                    f" Received: {keys(request.parameters)}"
                )
            self._repository.load_model(request.model_name)
            return pb.RepositoryModelLoadResponse()

        return self._reception.answer("RepositoryModelLoad", (request.model_name, None), context, work)

    def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Serves a model no longer."""

        def work(call: Call) -> pb.RepositoryModelUnloadResponse:
            call.check()
            self._check_control()
            self._repository.unload_model(request.model_name)
            return pb.RepositoryModelUnloadResponse()

        return self._reception.answer("RepositoryModelUnload", (request.model_name, None), context, work)

    def SystemSharedMemoryStatus(  # noqa: N802
        self, request: pb.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryStatusResponse:
        """The regions that are registered."""

        def work(call: Call) -> pb.SystemSharedMemoryStatusResponse:
            call.check()
            told = pb.SystemSharedMemoryStatusResponse()
            for region in self._shared().registered(request.name):
                told.regions[region.name].CopyFrom(
                    pb.SystemSharedMemoryStatusResponse.RegionStatus(
                        name=region.name, key=region.key, offset=region.offset, byte_size=region.size
                    )
                )
            return told

        return self._reception.answer("SystemSharedMemoryStatus", ("", None), context, work)

    def SystemSharedMemoryRegister(  # noqa: N802
        self, request: pb.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Makes a part of a shared memory object known under a name."""

        def work(call: Call) -> pb.SystemSharedMemoryRegisterResponse:
            call.check()
            self._shared().register(request.name, request.key, request.offset, request.byte_size)
            return pb.SystemSharedMemoryRegisterResponse()

        return self._reception.answer("SystemSharedMemoryRegister", ("", None), context, work)

    def SystemSharedMemoryUnregister(  # noqa: N802
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forgets one region, or all."""

        def work(call: Call) -> pb.SystemSharedMemoryUnregisterResponse:
            call.check()
            self._shared().unregister(request.name)
            return pb.SystemSharedMemoryUnregisterResponse()

        return self._reception.answer("SystemSharedMemoryUnregister", ("", None), context, work)

    def CudaSharedMemoryStatus(  # noqa: N802
        self, request: pb.CudaSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryStatusResponse:
        """None is registered."""

        def work(call: Call) -> pb.CudaSharedMemoryStatusResponse:
            call.check()
            self._shared()
            if request.name:
                raise NotFoundError(f"no CUDA memory is registered as {quote(request.name)}")
            return pb.CudaSharedMemoryStatusResponse()

        return self._reception.answer("CudaSharedMemoryStatus", ("", None), context, work)

    def CudaSharedMemoryRegister(  # noqa: N802
        self, request: pb.CudaSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Refused."""
        del request

        def work(call: Call) -> pb.CudaSharedMemoryRegisterResponse:
            call.check()
            self._shared()
            raise UnsupportedError("this server takes tensors in system shared memory, not in CUDA's")

        return self._reception.answer("CudaSharedMemoryRegister", ("", None), context, work)

    def CudaSharedMemoryUnregister(  # noqa: N802
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Nothing to forget, which is no error: clients call this unasked where they use system shared memory."""
        del request

        def work(call: Call) -> pb.CudaSharedMemoryUnregisterResponse:
            call.check()
            self._shared()
            return pb.CudaSharedMemoryUnregisterResponse()

        return self._reception.answer("CudaSharedMemoryUnregister", ("", None), context, work)

    @property
    def _ready(self) -> bool:
        return self._repository.ready and not self._reception.leaving

    def _shared(self) -> Regions:
        if self._regions is None:
            raise ForbiddenError("this server takes no tensors in shared memory (--system-shared-memory false)")
        return self._regions

    def _check_control(self) -> None:
        if not self._control:
            raise ForbiddenError("this server does not let callers load and unload models (--model-control false)")

    def _infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        _take_parameters(request.parameters, call)
        outputs = [output.name for output in request.outputs]
        parts = destinations(request, self._regions)
        name, version = _asked(request)
        answer = self._engine.infer(name, version, inputs(request, self._regions), outputs, call=call)
        return response(request, answer, parts)


def add_to(server: Registrar, servicer: OpenInferenceServicer) -> None:
    """Registers the servicer."""
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]  # generated


def _version(text: str) -> Version:
    """A version as the protocol writes it: a number, a label, or empty for the newest."""
    if not text:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text


def _asked(request: pb.ModelInferRequest) -> Asked:
    return request.model_name, _version(request.model_version)


def _take_parameters(parameters: Mapping[str, pb.InferParameter], call: Call) -> None:
    if "timeout" in parameters:
        microseconds = integer("timeout", parameters["timeout"])
        if microseconds < 0:
            raise InvalidInputError(f"the parameter timeout is a number of microseconds. Received: {microseconds}")
        if microseconds:
            call.narrow(microseconds * 1e-6)
    if "priority" in parameters:
        priority = integer("priority", parameters["priority"])
        if not 0 <= priority <= PRIORITIES:
            raise InvalidInputError(
                f"the parameter priority is 1 to {PRIORITIES}, or 0 for the usual one. Received: {priority}"
            )
        call.priority = priority or USUAL
