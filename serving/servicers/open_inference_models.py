"""Models as the Open Inference Protocol and Triton's extensions describe them."""

from serving.call import PRIORITIES, USUAL
from serving.manifest import TensorSpec
from serving.model_settings import VersionPolicy
from serving.pb.open_inference import grpc_service_pb2 as service_pb
from serving.pb.open_inference import model_config_pb2 as pb
from serving.servable import Servable
from serving.tally import Snapshot, Tally

PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"

_CONFIG_TYPES = {"UINT8": pb.TYPE_UINT8, "FP32": pb.TYPE_FP32}
_FORMATS = {True: pb.ModelInput.FORMAT_NHWC, False: pb.ModelInput.FORMAT_NONE}


def config(servable: Servable, policy: VersionPolicy) -> pb.ModelConfig:
    """A model's configuration, as Triton would write it."""
    manifest, limits = servable.manifest, servable.limits
    versions = pb.ModelVersionPolicy()
    if policy.kind == "latest":
        versions.latest.num_versions = policy.count
    elif policy.kind == "specific":
        versions.specific.versions.extend(policy.versions)
    else:
        versions.all.SetInParent()
    kinds = pb.ModelInstanceGroup
    return pb.ModelConfig(
        name=servable.name,
        platform=PLATFORM,
        backend=_BACKEND,
        version_policy=versions,
        max_batch_size=limits.max_batch_size,
        input=[
            pb.ModelInput(
                name=spec.name,
                data_type=_CONFIG_TYPES[spec.dtype],
                format=pb.ModelInput.FORMAT_NHWC if len(spec.shape) == 4 else pb.ModelInput.FORMAT_NONE,
                dims=spec.shape[1:],
            )
            for spec in manifest.inputs
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=_CONFIG_TYPES[spec.dtype], dims=spec.shape[1:])
            for spec in manifest.outputs
        ],
        dynamic_batching=pb.ModelDynamicBatching(
            preferred_batch_size=limits.batch_sizes(),
            max_queue_delay_microseconds=round(limits.max_queue_delay * 1e6),
            priority_levels=PRIORITIES,
            default_priority_level=USUAL,
            default_queue_policy=pb.ModelQueuePolicy(allow_timeout_override=True, max_queue_size=limits.max_queue_size),
        ),
        instance_group=[
            pb.ModelInstanceGroup(
                name=f"{servable.name}_0",
                kind=kinds.KIND_CPU if servable.provider.startswith("CPU") else kinds.KIND_GPU,
                count=limits.instances,
            )
        ],
        default_model_filename="model.onnx",
        parameters={"provider": pb.ModelParameter(string_value=servable.provider)},
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
    )


def metadata(spec: TensorSpec) -> service_pb.ModelMetadataResponse.TensorMetadata:
    """One input or output."""
    return service_pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.dtype, shape=spec.shape)


def statistics(servable: Servable, sums: Snapshot) -> service_pb.ModelStatistics:
    """What a model has done since it was loaded."""
    phases = sums.phases
    return service_pb.ModelStatistics(
        name=servable.name,
        version=str(servable.version),
        last_inference=round(sums.last_answer * 1e3),
        inference_count=sums.rows,
        execution_count=sum(tally.count for tally in sums.batches.values()),
        inference_stats=service_pb.InferStatistics(
            success=_duration(phases["total"]),
            fail=_duration(sums.failures),
            queue=_duration(phases["queue"]),
            compute_input=_duration(phases["decode"]),
            compute_infer=_duration(phases["inference"]),
            compute_output=_duration(phases["postprocess"]),
            cache_hit=service_pb.StatisticDuration(),
            cache_miss=service_pb.StatisticDuration(),
        ),
        batch_stats=[
            service_pb.InferBatchStatistics(batch_size=rows, compute_infer=_duration(tally))
            for rows, tally in sums.batches.items()
        ],
    )


def _duration(tally: Tally) -> service_pb.StatisticDuration:
    return service_pb.StatisticDuration(count=tally.count, ns=round(tally.seconds * 1e9))
