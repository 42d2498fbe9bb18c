"""The server's settings: each field is a command-line flag, an environment variable and a key of the settings file.

``--grpc-port 8001``, ``SPARSEWALK_GRPC_PORT=8001`` and, in the TOML file that ``--config`` names, ``grpc_port = 8001``
say the same; the flag wins over the environment, and that over the file.

No setting holds a secret: keys and tokens lie in files, of which the path is told here, and so all settings may be
printed.
"""

import ipaddress
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, ValidationError, field_validator
from pydantic import model_validator as validates_model
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliToggleFlag,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serving.errors import StartError
from serving.model_settings import MAX_RUN_PIXELS, POLICY_PATTERN
from serving.settings_file import NOT_IN_FILE, PREFIX, SettingsFile, flag_of, origin_of

Port = int

_CREDENTIALS = re.compile(r"//[^/]*@")


def _split(value: Any) -> Any:
    """``1,8,64`` as flags and the environment write it; the file has a real list."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Sizes = Annotated[tuple[PositiveInt, ...], NoDecode, BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Serves the models of a repository over gRPC.

    Every flag is also an environment variable and a key of the settings file: --grpc-port is SPARSEWALK_GRPC_PORT and
    grpc_port. Flags win over the environment, and that over the file.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        cli_prog_name="python -m serving",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        frozen=True,
        protected_namespaces=(),
    )

    config: Path | None = Field(
        None, description="TOML file with settings, named as flags are but with _ for -; an unknown one is refused"
    )
    print_settings: CliToggleFlag[bool] = Field(
        False, description="print every setting as it would be used, in the form of the settings file, and exit"
    )
    model_repository: Path = Field(
        Path("models"), description="folder with the models, as <name>/<version>/{manifest.json, model.onnx}"
    )
    host: str = Field(
        "127.0.0.1",
        description="address to listen on; 0.0.0.0 for every interface: see --tls-certificate and --token-file",
    )
    grpc_port: Port = Field(8001, ge=0, le=65535, description="port of the gRPC services; 0 takes any free one")
    metrics_port: Port = Field(8002, ge=0, le=65535, description="port of /metrics (HTTP); 0 takes any free one")
    provider: Literal["auto", "cuda", "tensorrt", "cpu"] = Field(
        "auto",
        description="where models run; auto takes CUDA when it works, cuda and tensorrt refuse to start when they do"
        " not",
    )
    device_id: NonNegativeInt = Field(0, description="which of the GPUs that CUDA shows; one server uses one")
    precision: Literal["fp32", "tf32", "fp16"] = Field(
        "fp32",
        description="of products on a GPU: fp32 as exported; tf32 (CUDA) rounds their factors to 10 bits; fp16 (with"
        " TensorRT) halves them",
    )
    cuda_graphs: bool = Field(
        False,
        description="whether runs of the allowed batch sizes are captured as CUDA graphs and replayed; needs"
        " --allowed-batch-sizes",
    )
    gpu_memory_bytes: NonNegativeInt = Field(
        0, description="limit of the memory arena of each model on the GPU; 0 for none. CUDA's own memory comes on top"
    )
    engine_cache: Path | None = Field(
        None, description="folder where TensorRT keeps the engines it has built; none: it builds them at every start"
    )
    threads: NonNegativeInt = Field(
        0, description="threads of one inference on the CPU; 0 takes what the container's quota allows"
    )
    request_core: NonNegativeInt | None = Field(
        None,
        description="core, from 0, on which the threads that speak gRPC stay, while models and pictures use all; each"
        " worker takes the next one. Small encoders then answer up to a third more requests, unless others keep"
        " that core busy; none: threads go where the system puts them",
    )
    max_message_bytes: PositiveInt = Field(
        64 * 2**20, description="largest gRPC message taken or sent; a larger one is answered RESOURCE_EXHAUSTED"
    )
    max_pixels: PositiveInt = Field(
        40_000_000, description="largest picture, in pixels; checked in its header, before it is decoded"
    )
    version_policy: str = Field(
        "all",
        pattern=POLICY_PATTERN,
        description="which versions of a model are served: all, latest:2 or specific:1,3; a model's serving.json may"
        " say otherwise, as for the next six",
    )
    max_batch_size: PositiveInt = Field(
        64, description="most rows in one run of a model; a request with more rows is refused"
    )
    max_run_pixels: PositiveInt = Field(
        MAX_RUN_PIXELS,
        description="most pixels in one run of a model that takes pictures of any size, which bounds its memory; a"
        " request with more is refused",
    )
    max_queue_size: PositiveInt = Field(
        128, description="requests that may wait for one model; one more is answered RESOURCE_EXHAUSTED at once"
    )
    allowed_batch_sizes: Sizes = Field(
        (), description="rows to which runs are filled up, e.g. 1,8,64, so that a GPU sees few shapes; none: no filling"
    )
    max_queue_delay_microseconds: NonNegativeInt = Field(
        0, description="time that a request may wait for a fuller batch; 0 takes at once what is there"
    )
    instances: PositiveInt = Field(1, description="runs of one model at once")
    workers: int = Field(
        1,
        ge=1,
        le=1024,
        description="server processes on the one gRPC port; each has its own models, queues and limits, and its share"
        " of the threads. On a GPU they decode and resize for one engine process",
    )
    engine_process: bool = Field(
        False,
        description="whether one process has the models, and the workers decode and resize for it and hand it rows in"
        " shared memory; always so with several workers on a GPU",
    )
    shared_memory_bytes: PositiveInt = Field(
        256 * 2**20,
        description="memory that each worker shares with the engine process for the rows under way, taken as it is"
        " needed; a request that finds no room is answered RESOURCE_EXHAUSTED",
    )
    system_shared_memory: bool = Field(
        False,
        description="whether callers on this machine may leave and fetch tensors in POSIX shared memory (Triton's calls"
        " for it); they can then have the server read and write whatever it may in /dev/shm. Needs --workers 1",
    )
    poll_seconds: float = Field(
        0, ge=0, allow_inf_nan=False, description="how often to look for new, changed and removed models; 0 never does"
    )
    model_control: bool | None = Field(
        None,
        description="whether callers may load and unload models (Triton's and TensorFlow Serving's calls for it);"
        " where left out, only when the host is a loopback one",
    )
    stream_window: PositiveInt = Field(
        16, description="requests of one stream under way at once; further ones wait at their sender"
    )
    max_in_flight: PositiveInt = Field(
        256,
        description="requests under way in the server (in each of its workers), and open streams;"
        " one more of either is answered RESOURCE_EXHAUSTED at once",
    )
    grace_seconds: Seconds = Field(30.0, description="time that requests under way get to finish after SIGTERM")
    drain_delay_seconds: Seconds = Field(
        0.1, description="first part of the grace time: health says NOT_SERVING, and new requests are still taken"
    )
    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the server's certificate chain; gRPC is then TLS only. Read anew when it changes",
    )
    tls_key: Path | None = Field(None, description="PEM file with the private key of --tls-certificate")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with the authorities of client certificates; callers must then show one (mTLS)"
    )
    metrics_tls: bool = Field(
        False, description="whether /metrics is TLS too, with the same certificate and the same demand on clients"
    )
    token_file: Path | None = Field(
        None,
        description="file with the bearer tokens that are let in, one a line; read anew when it changes",
    )
    token_free: Names = Field(("grpc.health.v1.Health",), description="services, or service/Method, that need no token")
    max_connections: PositiveInt = Field(1000, description="connections and health watchers at once; more are refused")
    max_concurrent_streams: PositiveInt = Field(
        1000, description="requests and streams at once on one connection; further ones wait at their sender"
    )
    keepalive_seconds: Seconds = Field(
        60.0, description="after so long without a word the server asks whether a client is still there; 0 never does"
    )
    keepalive_timeout_seconds: Seconds = Field(
        20.0, description="time that the client has to answer that before its connection is closed"
    )
    min_ping_interval_seconds: Seconds = Field(
        10.0, description="clients that ask more often than this are disconnected (too_many_pings)"
    )
    max_connection_age_seconds: Seconds = Field(
        0.0,
        description="age, give or take a tenth, at which a client is asked to connect anew, and so to look for other"
        " servers; 0 for never",
    )
    max_connection_age_grace_seconds: Seconds = Field(
        30.0, description="time that requests on such a connection get to finish"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["text", "json"] = Field("text", description="lines for people, or one JSON object a line")
    request_log_level: Literal["off", "debug", "info", "warning"] = Field(
        "debug", description="level of the line that is logged for each request; see --log-level"
    )
    trace_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector for traces (OTLP over gRPC), e.g. http://localhost:4317; none: no traces."
        " Needs the tracing extra",
    )
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="share of requests that are traced, where their caller did not decide it"
    )

    @field_validator("trace_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("Input should be http://host:port or https://host:port, without user and password")
        return value

    @validates_model(mode="after")
    def _check_together(self) -> "Settings":
        for needed, given in (
            ("tls_key", self.tls_certificate),
            ("tls_certificate", self.tls_key),
            ("tls_certificate", self.tls_client_ca),
            ("tls_certificate", self.metrics_tls or None),
        ):
            if given is not None and getattr(self, needed) is None:
                givers = [name for name in ("tls_certificate", "tls_key", "tls_client_ca") if getattr(self, name)]
                what = givers[0] if givers else "metrics_tls"
                raise ValueError(f"{flag_of(what)} needs {flag_of(needed)} too, so that nothing is half protected")
        return self

    @validates_model(mode="after")
    def _check_acceleration(self) -> "Settings":
        # What of a setting that is in use each provider can do; auto may end on CUDA or on the CPU.
        for flag, used, providers in (
            ("--cuda-graphs", self.cuda_graphs, ("auto", "cuda")),
            ("--precision tf32", self.precision == "tf32", ("auto", "cuda")),
            # CUDA would need a second file, for which no manifest vouches; TensorRT makes halves of the one there is.
            ("--precision fp16", self.precision == "fp16", ("tensorrt",)),
            ("--engine-cache", self.engine_cache is not None, ("tensorrt",)),
        ):
            if used and self.provider not in providers:
                raise ValueError(f"{flag} needs --provider {' or '.join(providers)}. Received: {self.provider}")
        if self.cuda_graphs and not self.allowed_batch_sizes:
            raise ValueError("--cuda-graphs needs --allowed-batch-sizes: a graph is captured for each of them")
        return self

    @validates_model(mode="after")
    def _check_shared_memory(self) -> "Settings":
        # A region is registered with one process, and the next request may reach another.
        if self.system_shared_memory and self.workers > 1:
            raise ValueError(f"--system-shared-memory needs --workers 1. Received: {self.workers}")
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def exposure(self) -> str | None:
        """What to warn of: that others can connect, and what does not keep them; None when all is well."""
        known = self.token_file or self.tls_client_ca
        missing = [
            "without --tls-certificate, so that what is sent can be read on its way"
            if not self.tls_certificate
            else "",
            "without --token-file or --tls-client-ca, so that everybody who reaches it may ask"
            f"{' and use shared memory' if self.system_shared_memory else ''}"
            if not known
            else "",
        ]
        told = ", and ".join(filter(None, missing))
        return f"--host {self.host} {told}" if told and not self.on_loopback else None

    @property
    def callers_control_models(self) -> bool:
        """``model_control``, decided."""
        return self.on_loopback if self.model_control is None else self.model_control

    def values(self) -> dict[str, Any]:
        """Every setting in use, as the settings file would have it; those that are None are left out."""
        decided = self.model_copy(update={"model_control": self.callers_control_models})
        return decided.model_dump(mode="json", exclude=NOT_IN_FILE, exclude_none=True)

    def to_toml(self) -> str:
        """A settings file that says the same; of what JSON can hold, numbers, texts and lists look alike in TOML."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.values().items())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Adds the settings file, after flags and environment, since those may name it."""
        del dotenv_settings, file_secret_settings  # not used
        return init_settings, env_settings, SettingsFile(settings_cls)

    @classmethod
    def from_command_line(cls, arguments: list[str] | None = None) -> "Settings":
        """Reads flags, then the environment, then the file that either may name, then the defaults.

        Args:
            arguments: the flags; those of the process where None. ``--help`` prints and exits.

        Raises:
            StartError: a value or a key is not allowed, or the file cannot be read; the message names where it came
                from, the expectation and the value.
        """
        arguments = sys.argv[1:] if arguments is None else arguments
        try:
            return CliApp.run(cls, cli_args=arguments, cli_exit_on_error=True)
        except ValidationError as error:
            complaints = []
            for each in error.errors():
                told = each["msg"].removeprefix("Value error, ")
                if each["loc"]:
                    came = _CREDENTIALS.sub("//...@", repr(each["input"]))
                    told = f"{origin_of(str(each['loc'][0]), arguments)}: {told}. Received: {came}"
                complaints.append(told)
            raise StartError(f"settings: {'; '.join(complaints)}") from None
