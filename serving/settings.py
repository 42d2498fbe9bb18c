"""The server's settings: each field is a command-line flag and an environment variable.

``--grpc-port 8001`` and ``SPARSEWALK_GRPC_PORT=8001`` say the same; the flag wins.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from serving.errors import StartError
from serving.model_settings import POLICY_PATTERN

Port = int


class Settings(BaseSettings):
    """Serves the models of a repository over gRPC.

    Every flag is also an environment variable: --grpc-port is SPARSEWALK_GRPC_PORT. Flags win.
    """

    model_config = SettingsConfigDict(
        env_prefix="SPARSEWALK_",
        cli_prog_name="python -m serving",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        frozen=True,
        protected_namespaces=(),
    )

    model_repository: Path = Field(
        Path("models"), description="folder with the models, as <name>/<version>/{manifest.json, model.onnx}"
    )
    host: str = Field(
        "127.0.0.1", description="address to listen on; 0.0.0.0 for every interface (there is no authentication)"
    )
    grpc_port: Port = Field(8001, ge=0, le=65535, description="port of the gRPC services; 0 takes any free one")
    metrics_port: Port = Field(8002, ge=0, le=65535, description="port of /metrics (HTTP); 0 takes any free one")
    provider: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="where models run; auto takes CUDA when it works, cuda refuses to start when it does not"
    )
    threads: NonNegativeInt = Field(
        0, description="threads of one inference on the CPU; 0 takes what the container's quota allows"
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
        " say otherwise, as for the next five",
    )
    max_batch_size: PositiveInt = Field(
        64, description="most rows in one run of a model; a request with more rows is refused"
    )
    max_queue_size: PositiveInt = Field(
        128, description="requests that may wait for one model; one more is answered RESOURCE_EXHAUSTED at once"
    )
    allowed_batch_sizes: tuple[PositiveInt, ...] = Field(
        (), description="rows to which runs are filled up, e.g. 1,8,64, so that a GPU sees few shapes; none: no filling"
    )
    max_queue_delay_microseconds: NonNegativeInt = Field(
        0, description="time that a request may wait for a fuller batch; 0 takes at once what is there"
    )
    instances: PositiveInt = Field(1, description="runs of one model at once")
    poll_seconds: float = Field(
        0, ge=0, allow_inf_nan=False, description="how often to look for new, changed and removed models; 0 never does"
    )
    model_control: bool = Field(
        True, description="whether callers may load and unload models (Triton's and TensorFlow Serving's calls for it)"
    )
    stream_window: PositiveInt = Field(
        16, description="requests of one stream under way at once; further ones wait at their sender"
    )
    max_in_flight: PositiveInt = Field(
        256,
        description="requests under way in the whole server, and open streams;"
        " one more of either is answered RESOURCE_EXHAUSTED at once",
    )
    grace_seconds: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="time that requests under way get to finish after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @classmethod
    def from_command_line(cls, arguments: list[str] | None = None) -> "Settings":
        """Reads flags, then the environment, then the defaults.

        Args:
            arguments: the flags; those of the process where None. ``--help`` prints and exits.

        Raises:
            StartError: a value is not allowed; the message names flag, expectation and value.
        """
        try:
            return CliApp.run(cls, cli_args=arguments, cli_exit_on_error=True)
        except ValidationError as error:
            complaints = "; ".join(
                f"--{'.'.join(str(part) for part in each['loc']).replace('_', '-')}: {each['msg']}."
                f" Received: {each['input']!r}"
                for each in error.errors()
            )
            raise StartError(f"settings: {complaints}") from None
