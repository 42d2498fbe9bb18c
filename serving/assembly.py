"""Builds from the settings what more than one kind of process has: metrics, models, certificates, addresses."""

import ssl
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version

from serving import backend
from serving.backend import Acceleration, Runtime
from serving.changes import Order
from serving.metrics import Metrics
from serving.model_settings import Limits, VersionPolicy
from serving.placement import ANYWHERE, Placement
from serving.repository import ModelRepository
from serving.security import Certificates
from serving.settings import Settings
from serving.shelf import Gather
from serving.tracing import Tracer


def make_metrics() -> Metrics:
    """The metrics of this process."""
    return Metrics(version=distribution_version(), runtime_version=backend.VERSION)


def make_repository(
    settings: Settings,
    metrics: Metrics,
    *,
    on_change: Callable[[str, bool], None] = lambda name, served: None,  # noqa: ARG005
    conduct: Callable[[Order], None] | None = None,
    gather: Gather | None = None,
    tracer: Tracer | None = None,
    placement: Placement = ANYWHERE,
) -> ModelRepository:
    """The repository, not loaded.

    Args:
        settings: all of them.
        metrics: where loads and runs are noted.
        on_change: see ``ModelRepository``.
        conduct: see ``Shelf``.
        gather: see ``Shelf``.
        tracer: see ``ModelRepository``.
        placement: which cores runs may use.

    Raises:
        ProviderError: the provider asked for cannot be used.
    """
    return ModelRepository(
        settings.model_repository,
        Runtime.choose(
            settings.provider,
            settings.threads,
            Acceleration(
                settings.device_id,
                settings.precision,
                settings.cuda_graphs,
                settings.gpu_memory_bytes,
                settings.engine_cache,
            ),
            placement,
        ),
        Limits(
            settings.max_batch_size,
            settings.max_queue_size,
            settings.allowed_batch_sizes,
            settings.max_queue_delay_microseconds * 1e-6,
            settings.instances,
            settings.max_run_pixels,
        ),
        metrics,
        policy=VersionPolicy.parse(settings.version_policy),
        retire_seconds=settings.grace_seconds,
        on_change=on_change,
        conduct=conduct,
        gather=gather,
        tracer=tracer,
    )


def read_certificates(settings: Settings) -> Certificates | None:
    """Those of the ports; None where there is no TLS.

    Raises:
        SecurityError: they cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def metrics_context(settings: Settings, certificates: Certificates | None) -> Callable[[], ssl.SSLContext] | None:
    """What asks for the certificates of the metrics port; None where that has no TLS."""
    return (lambda: certificates.context) if certificates is not None and settings.metrics_tls else None


def ready_line(settings: Settings, grpc_port: int, metrics_port: int, models: Iterable[tuple[str, int]]) -> str:
    """One line for people and scripts: the addresses and the model versions that are served there."""
    scheme = "https" if settings.metrics_tls else "http"
    served = ",".join(f"{name}/{number}" for name, number in models)
    return (
        f"ready grpc={address(settings.host, grpc_port)}"
        f" metrics={scheme}://{address(settings.host, metrics_port)}/metrics models={served}"
    )


def address(host: str, port: int) -> str:
    """As gRPC and URLs write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def make_tracer(settings: Settings) -> Tracer | None:
    """Where traces go; None where there are none.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """
    if settings.trace_endpoint is None:
        return None
    return Tracer(settings.trace_endpoint, settings.trace_sample_ratio, distribution_version())


def distribution_version() -> str:
    """Of Sparsewalk."""
    try:
        return version("sparsewalk")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
