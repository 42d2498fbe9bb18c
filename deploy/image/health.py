"""Asks a server for its health: exit code 0 when it serves, 1 when not. For probes that cannot speak TLS themselves.

``health.py [--target HOST:PORT] [--service NAME] [--ca FILE --server-name NAME [--certificate FILE --key FILE]]``
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Asks a gRPC server for its health.")
    port = os.environ.get("SPARSEWALK_GRPC_PORT", "8001")
    parser.add_argument("--target", default=f"127.0.0.1:{port}", help="default: %(default)s")
    parser.add_argument("--service", default="", help="a model or a gRPC service; the whole server where left out")
    parser.add_argument("--timeout", type=float, default=4.0, help="seconds; default: %(default)s")
    parser.add_argument("--ca", type=Path, help="PEM file with the authority of the server's certificate; then TLS")
    parser.add_argument("--server-name", help="name in the server's certificate; the target's where left out")
    parser.add_argument("--certificate", type=Path, help="PEM file to show to a server that asks for one (mTLS)")
    parser.add_argument("--key", type=Path, help="PEM file with its private key")
    return parser.parse_args()


def _channel(arguments: argparse.Namespace) -> grpc.Channel:
    if arguments.ca is None:
        return grpc.insecure_channel(arguments.target)
    shown = [path and path.read_bytes() for path in (arguments.key, arguments.certificate)]
    credentials = grpc.ssl_channel_credentials(arguments.ca.read_bytes(), *shown)
    name = arguments.server_name
    return grpc.secure_channel(
        arguments.target, credentials, options=[("grpc.ssl_target_name_override", name)] if name else []
    )


def main() -> int:
    """Returns the exit code; what is wrong goes to stderr in one line."""
    arguments = _arguments()
    try:
        with _channel(arguments) as channel:
            request = health_pb2.HealthCheckRequest(service=arguments.service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=arguments.timeout)
    except OSError as error:
        print(f"health: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"health: {arguments.target}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    if answer.status != SERVING:
        print(f"health: {arguments.target}: not serving", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
