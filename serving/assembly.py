"""Builds from the settings what more than one kind of process has: metrics, models, certificates."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from serving import backend
from serving.backend import Runtime
from serving.changes import Order
from serving.metrics import Metrics
from serving.model_settings import Limits, VersionPolicy
from serving.repository import ModelRepository
from serving.security import Certificates
from serving.settings import Settings
from serving.shelf import Gather


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
) -> ModelRepository:
    """The repository, not loaded.

    Args:
        settings: all of them.
        metrics: where loads and runs are noted.
        on_change: see ``ModelRepository``.
        conduct: see ``Shelf``.
        gather: see ``Shelf``.

    Raises:
        ProviderError: the provider asked for cannot be used.
    """
    return ModelRepository(
        settings.model_repository,
        Runtime.choose(settings.provider, settings.threads),
        Limits(
            settings.max_batch_size,
            settings.max_queue_size,
            settings.allowed_batch_sizes,
            settings.max_queue_delay_microseconds * 1e-6,
            settings.instances,
        ),
        metrics,
        policy=VersionPolicy.parse(settings.version_policy),
        retire_seconds=settings.grace_seconds,
        on_change=on_change,
        conduct=conduct,
        gather=gather,
    )


def read_certificates(settings: Settings) -> Certificates | None:
    """Those of the ports; None where there is no TLS.

    Raises:
        SecurityError: they cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def distribution_version() -> str:
    """Of Sparsewalk."""
    try:
        return version("sparsewalk")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
