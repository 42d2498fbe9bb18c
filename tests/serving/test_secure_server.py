"""TLS, client certificates and tokens: a real server process, stock gRPC clients and our own."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner, Result

from serving.client import AsyncClient, Client, Security, ServiceError
from serving.client.__main__ import app
from serving.pb.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from serving.pb.sparsewalk.v1 import encoder_pb2, encoder_pb2_grpc

Start = Callable[..., Any]
Fail = Callable[..., tuple[int, str, str]]
ROW = np.zeros((1, 784), np.float32)
TOKEN, NEXT = "token-of-today-0123456789", "token-of-tomorrow-0123456789"
Code = grpc.StatusCode
# How long the server may take to see a new file; it looks once a second.
NOTICE_SECONDS = 10.0


@dataclass(frozen=True)
class Pki:
    """An authority for servers, one for clients, and what they have signed."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def issue(self, name: str, authority: trustme.CA) -> None:
        made = authority.issue_cert("127.0.0.1", "localhost", common_name=name)
        aside = self.folder / ".aside"
        for suffix, data in (
            ("", b"".join(pem.bytes() for pem in made.cert_chain_pems)),
            ("_key", made.private_key_pem.bytes()),
        ):
            aside.write_bytes(data)
            aside.replace(self.folder / f"{name}{suffix}.pem")

    @property
    def server_flags(self) -> list[str]:
        return ["--tls-certificate", str(self.server), "--tls-key", str(self.server_key)]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def clients_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA, clients_authority: trustme.CA) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    authority.cert_pem.write_to_path(str(made.ca))
    clients_authority.cert_pem.write_to_path(str(made.clients_ca))
    made.issue("server", authority)
    made.issue("client", clients_authority)
    made.issue("stranger", authority)
    return made


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(f"# two, for rotation\n{TOKEN}\n{NEXT}\n")
    return file


@pytest.fixture(scope="module")
def secure(launch: Callable[..., Any], models: Path, pki: Pki, tokens: Path) -> Iterator[Any]:
    """A server with everything: TLS, client certificates and tokens, metrics included."""
    flags = [*pki.server_flags, "--tls-client-ca", str(pki.clients_ca), "--token-file", str(tokens)]
    running = launch(models, *flags, "--metrics-tls", "true", "--log-level", "debug")
    yield running
    code, errors = running.stop()
    assert code == 0, errors
    assert TOKEN not in errors
    assert NEXT not in errors


@pytest.fixture(scope="module")
def guarded(launch: Callable[..., Any], models: Path, tokens: Path) -> Iterator[Any]:
    """A server with tokens only."""
    running = launch(models, "--token-file", str(tokens))
    yield running
    code, errors = running.stop()
    assert code == 0, errors


def channel_credentials(pki: Pki, who: str = "client", ca: str = "ca") -> grpc.ChannelCredentials:
    pair = [(pki.folder / f"{who}{suffix}.pem").read_bytes() for suffix in ("_key", "")] if who else [None, None]
    return grpc.ssl_channel_credentials((pki.folder / f"{ca}.pem").read_bytes(), *pair)


def status_of(call: Callable[[], Any]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return Code.OK


def list_models(channel: grpc.Channel, token: str | None = None, **options: Any) -> Any:
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    return stub.ListModels(encoder_pb2.ListModelsRequest(), timeout=10, metadata=metadata, **options)


class TestTls:
    def test_a_stock_client_that_shows_a_certificate_and_a_token_is_answered(self, secure: Any, pki: Pki) -> None:
        with grpc.secure_channel(secure.target, channel_credentials(pki)) as channel:
            assert len(list_models(channel, TOKEN).models) == 4

    def test_the_token_may_come_as_call_credentials(self, secure: Any, pki: Pki) -> None:
        both = grpc.composite_channel_credentials(channel_credentials(pki), grpc.access_token_call_credentials(TOKEN))
        with grpc.secure_channel(secure.target, both) as channel:
            assert len(list_models(channel).models) == 4

    @pytest.mark.parametrize("who", ["", "stranger"])
    def test_who_shows_no_certificate_or_a_strangers_is_not_connected(self, secure: Any, pki: Pki, who: str) -> None:
        with grpc.secure_channel(secure.target, channel_credentials(pki, who)) as channel:
            assert status_of(lambda: list_models(channel, TOKEN)) is Code.UNAVAILABLE

    def test_a_server_of_another_authority_is_not_trusted(self, secure: Any, pki: Pki) -> None:
        with grpc.secure_channel(secure.target, channel_credentials(pki, ca="clients_ca")) as channel:
            assert status_of(lambda: list_models(channel, TOKEN)) is Code.UNAVAILABLE

    def test_plaintext_is_not_spoken(self, secure: Any) -> None:
        with grpc.insecure_channel(secure.target) as channel:
            assert status_of(lambda: list_models(channel, TOKEN)) is Code.UNAVAILABLE

    def test_the_metrics_have_the_same_door(self, secure: Any, pki: Pki) -> None:
        assert secure.metrics_url.startswith("https://")
        context = ssl.create_default_context(cafile=str(pki.ca))
        with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
            urllib.request.urlopen(secure.metrics_url, timeout=5, context=context).read()
        context.load_cert_chain(pki.client, pki.client_key)
        with urllib.request.urlopen(secure.metrics_url, timeout=5, context=context) as answer:
            assert b"sparsewalk_build_info" in answer.read()

    def test_a_new_certificate_is_shown_to_new_callers_without_a_failed_request(
        self, start: Start, tmp_path: Path, authority: trustme.CA
    ) -> None:
        pki = Pki(tmp_path)
        authority.cert_pem.write_to_path(str(pki.ca))
        pki.issue("server", authority)
        running = start(None, *pki.server_flags)
        with Client(running.target, security=Security(ca=pki.ca)) as long_lived:
            long_lived.models()
            before = ssl.get_server_certificate(("127.0.0.1", running.port))
            assert before in pki.server.read_text()
            pki.issue("server", authority)
            end = time.monotonic() + NOTICE_SECONDS
            while (now := ssl.get_server_certificate(("127.0.0.1", running.port))) == before:
                assert time.monotonic() < end
                with Client(running.target, security=Security(ca=pki.ca)) as new:
                    new.models()
                time.sleep(0.1)
            assert now in pki.server.read_text()
            long_lived.models()
        code, errors = running.stop()
        assert code == 0, errors
        assert "the certificate is renewed" in errors


class TestTokens:
    @pytest.fixture
    def channel(self, guarded: Any) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(guarded.target) as connected:
            yield connected

    @pytest.mark.parametrize("token", [TOKEN, NEXT])
    def test_each_of_them_is_let_in(self, channel: grpc.Channel, token: str) -> None:
        assert len(list_models(channel, token).models) == 4

    @pytest.mark.parametrize(
        ("metadata", "came"),
        [
            ([], "none"),
            ([("authorization", "Bearer token-of-yesterday-0123456789")], "one it does not know"),
            ([("authorization", f"Basic {TOKEN}")], "one it does not know"),
            ([("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")], "one it does not know"),
        ],
    )
    def test_anything_else_is_refused_and_told_why(
        self, channel: grpc.Channel, metadata: list[tuple[str, str]], came: str
    ) -> None:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListModels(encoder_pb2.ListModelsRequest(), timeout=10, metadata=metadata)
        assert caught.value.code() is Code.UNAUTHENTICATED
        wanted = "this server wants a token: send the metadata 'authorization: Bearer TOKEN'. Received: "
        assert caught.value.details() == wanted + came

    def test_every_service_is_guarded_but_health(self, channel: grpc.Channel) -> None:
        inference = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        native = encoder_pb2_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]
        refused = [
            lambda: inference.ServerLive(grpc_service_pb2.ServerLiveRequest(), timeout=10),
            lambda: list(reflection.ServerReflectionInfo(iter([asked]), timeout=10)),
            lambda: list(native.SegmentStream(iter([encoder_pb2.SegmentStreamRequest()]), timeout=10)),
        ]
        assert [status_of(call) for call in refused] == [Code.UNAUTHENTICATED] * 3
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        assert next(health.Watch(health_pb2.HealthCheckRequest(), timeout=10)).status == 1

    def test_a_stream_is_refused_though_its_caller_sends_nothing(self, channel: grpc.Channel) -> None:
        def nothing() -> Iterator[encoder_pb2.SegmentStreamRequest]:
            time.sleep(5)
            yield encoder_pb2.SegmentStreamRequest()

        native = encoder_pb2_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]
        call = native.SegmentStream(nothing(), timeout=4)
        assert call.code() is Code.UNAUTHENTICATED

    def test_a_method_that_is_not_there_is_said_so(self, channel: grpc.Channel) -> None:
        call = channel.unary_unary("/sparsewalk.v1.EncoderService/Nothing")
        assert status_of(lambda: call(b"", timeout=10)) is Code.UNIMPLEMENTED

    def test_refusals_are_counted(self, guarded: Any, channel: grpc.Channel) -> None:
        assert status_of(lambda: list_models(channel)) is Code.UNAUTHENTICATED
        with urllib.request.urlopen(guarded.metrics_url, timeout=5) as answer:
            page = answer.read().decode()
        assert 'code="UNAUTHENTICATED",method="ListModels",model="unknown",version="unknown"' in page

    def test_other_methods_may_be_free(self, start: Start, tokens: Path) -> None:
        free = "grpc.health.v1.Health,inference.GRPCInferenceService/ServerReady"
        running = start(None, "--token-file", str(tokens), "--token-free", free)
        with grpc.insecure_channel(running.target) as channel:
            inference = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
            assert inference.ServerReady(grpc_service_pb2.ServerReadyRequest(), timeout=10).ready
            live = status_of(lambda: inference.ServerLive(grpc_service_pb2.ServerLiveRequest(), timeout=10))
            assert live is Code.UNAUTHENTICATED

    def test_a_rotation_goes_through_without_a_restart(self, start: Start, tmp_path: Path) -> None:
        file = tmp_path / "tokens"
        file.write_text(f"{TOKEN}\n")
        running = start(None, "--token-file", str(file))
        with grpc.insecure_channel(running.target) as channel:
            assert status_of(lambda: list_models(channel, NEXT)) is Code.UNAUTHENTICATED
            (tmp_path / "aside").write_text(f"{NEXT}\n")
            os.replace(tmp_path / "aside", file)  # noqa: PTH105
            end = time.monotonic() + NOTICE_SECONDS
            while status_of(lambda: list_models(channel, NEXT)) is not Code.OK:
                assert time.monotonic() < end
                time.sleep(0.1)
            assert status_of(lambda: list_models(channel, TOKEN)) is Code.UNAUTHENTICATED


def test_several_processes_have_the_same_door(start: Start, pki: Pki, tokens: Path) -> None:
    flags = [*pki.server_flags, "--tls-client-ca", str(pki.clients_ca), "--metrics-tls", "true", "--workers", "2"]
    running = start(None, *flags, "--token-file", str(tokens))
    with grpc.secure_channel(running.target, channel_credentials(pki)) as channel:
        assert len(list_models(channel, TOKEN).models) == 4
        assert status_of(lambda: list_models(channel)) is Code.UNAUTHENTICATED
    with grpc.secure_channel(running.target, channel_credentials(pki, "")) as channel:
        assert status_of(lambda: list_models(channel, TOKEN)) is Code.UNAVAILABLE
    context = ssl.create_default_context(cafile=str(pki.ca))
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        urllib.request.urlopen(running.metrics_url, timeout=5, context=context).read()
    context.load_cert_chain(pki.client, pki.client_key)
    with urllib.request.urlopen(running.metrics_url, timeout=5, context=context) as answer:
        assert b"sparsewalk_build_info" in answer.read()


class TestOurClient:
    def test_it_has_all_of_it(self, secure: Any, pki: Pki, tokens: Path) -> None:
        security = Security(ca=pki.ca, certificate=pki.client, key=pki.client_key, token_file=tokens)
        picture = np.zeros((20, 20, 3), np.uint8)
        with Client(secure.target, security=security) as client:
            assert client.encode(ROW, "digits").array.shape == (1, 4)
            assert len(list(client.segment_stream([picture, picture], "red"))) == 2

        async def ask() -> int:
            async with AsyncClient(secure.target, security=security) as client:
                frames = [mask async for mask in client.segment_stream([picture], "red")]
                return len(await client.models()) + len(frames)

        assert asyncio.run(ask()) == 5

    def test_a_name_other_than_the_addresss_may_be_asked_for(
        self, start: Start, tmp_path: Path, authority: trustme.CA
    ) -> None:
        """As behind a forwarded port."""
        made = authority.issue_cert("sparsewalk.example")
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        made.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
        made.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        running = start(None, "--tls-certificate", str(tmp_path / "chain.pem"), "--tls-key", str(tmp_path / "key.pem"))
        security = Security(ca=tmp_path / "ca.pem", server_name="sparsewalk.example")
        with Client(running.target, security=security) as client:
            assert len(client.models()) == 4
        unnamed = Security(ca=tmp_path / "ca.pem")
        with Client(running.target, timeout=2, security=unnamed) as client, pytest.raises(ServiceError) as caught:
            client.models()
        assert caught.value.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)

    def test_a_refusal_has_its_status(self, secure: Any, pki: Pki) -> None:
        security = Security(ca=pki.ca, certificate=pki.client, key=pki.client_key)
        with Client(secure.target, security=security) as client, pytest.raises(ServiceError) as caught:
            client.models()
        assert caught.value.code is Code.UNAUTHENTICATED

    def test_the_command_line_takes_files_and_the_environment(
        self, secure: Any, pki: Pki, tokens: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flags = ["--ca", str(pki.ca), "--certificate", str(pki.client), "--key", str(pki.client_key)]

        def run(*more: str, **variables: str) -> Result:
            command = ["models", "--format", "json", "--target", secure.target, *more]
            return CliRunner().invoke(
                app, command, env={f"SPARSEWALK_{name}": text for name, text in variables.items()}
            )

        for name in ("CA", "CLIENT_CERTIFICATE", "CLIENT_KEY", "TOKEN", "TOKEN_FILE"):
            monkeypatch.delenv(f"SPARSEWALK_{name}", raising=False)
        names = {"CA": str(pki.ca), "CLIENT_CERTIFICATE": str(pki.client), "CLIENT_KEY": str(pki.client_key)}
        for done in (
            run(*flags, "--token-file", str(tokens)),
            run(*flags, TOKEN=NEXT),
            run(**names, TOKEN_FILE=str(tokens)),
        ):
            assert done.exit_code == 0, done.stderr
            assert len(json.loads(done.stdout)) == 4
        refused = run(*flags)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert refused.stderr.startswith("error: UNAUTHENTICATED: this server wants a token")
        broken = run("--ca", "nowhere.pem")
        assert broken.stderr == "error: the file of authorities nowhere.pem cannot be read: No such file or directory\n"


class TestStartFails:
    """Rather than to start half protected."""

    @pytest.mark.parametrize(
        ("flags", "complaint"),
        [
            (["--tls-certificate", "none.pem", "--tls-key", "{key}"], "the certificate none.pem cannot be read"),
            (["--tls-certificate", "{chain}", "--tls-key", "none.key"], "the key none.key cannot be read"),
            (["--tls-certificate", "{chain}", "--tls-key", "{other}"], "is not that of the certificate"),
            (
                ["--tls-certificate", "{chain}", "--tls-key", "{key}", "--tls-client-ca", "none"],
                "the file of authorities",
            ),
            (["--token-file", "none"], "the token file none cannot be read: No such file or directory"),
            (
                ["--token-file", "{tokens}", "--token-free", "grpc.health.v1.Helth"],
                "--token-free: the services are grpc.health.v1.Health, grpc.reflection.v1alpha.ServerReflection, ",
            ),
            (
                ["--token-file", "{tokens}", "--token-free", "grpc.health.v1.Health/check"],
                "--token-free: the methods of grpc.health.v1.Health are Check, List, Watch."
                " Received: 'grpc.health.v1.Health/check'",
            ),
        ],
    )
    def test_what_cannot_be_used_keeps_it_from_starting(
        self, flags: list[str], complaint: str, models: Path, pki: Pki, tokens: Path, fail_to_start: Fail
    ) -> None:
        names = {"chain": pki.server, "key": pki.server_key, "other": pki.client_key, "tokens": tokens}
        code, out, errors = fail_to_start(models, *(flag.format(**names) for flag in flags))
        assert (code, out) == (1, "")
        lines = [line for line in errors.splitlines() if " INFO " not in line]
        assert len(lines) == 1, errors
        assert lines[0].startswith("error: ")
        assert complaint in lines[0]


def test_an_open_door_is_warned_of_and_strangers_do_not_control_models(start: Start) -> None:
    running = start(None, "--host", "0.0.0.0")
    with grpc.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        inference = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        asked = grpc_service_pb2.RepositoryModelUnloadRequest(model_name="red")
        assert status_of(lambda: inference.RepositoryModelUnload(asked, timeout=10)) is Code.PERMISSION_DENIED
    _, errors = running.stop()
    assert [line.partition(" WARNING ")[2] for line in errors.splitlines() if " WARNING " in line] == [
        "serving: --host 0.0.0.0 without --tls-certificate, so that what is sent can be read on its way, and without"
        " --token-file or --tls-client-ca, so that everybody who reaches it may ask"
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_recipe_of_the_readme_makes_certificates_that_work(start: Start, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    recipe = next(block for block in readme.split("```")[1::2] if "openssl req" in block).removeprefix("sh\n")
    commands = "\n".join(recipe.split("\n\n")[0].splitlines())
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    made = {name: str(tmp_path / name) for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")}
    flags = [
        "--tls-certificate",
        made["server.pem"],
        "--tls-key",
        made["server.key"],
        "--tls-client-ca",
        made["ca.pem"],
    ]
    security = Security(ca=made["ca.pem"], certificate=made["client.pem"], key=made["client.key"])
    with Client(start(None, *flags).target, security=security) as client:
        assert len(client.models()) == 4
