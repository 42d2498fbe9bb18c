"""The Python client.

    from serving.client import Client

    with Client("localhost:8001") as client:
        mask = client.segment("street.jpg")
        mask.array        # bool [H, W], at the picture's own size
        mask.png()        # bytes
        mask.overlay("street.jpg")  # RGB [H, W, 3]

A server with TLS or tokens: ``Client(target, security=Security(ca="ca.pem", token_file="token"))``.
``AsyncClient`` is the same with ``await``. The command line is ``python -m serving.client``.
Asking needs gRPC, numpy and Pillow; neither ONNX Runtime nor OpenCV is imported for it.
"""

from serving.client.answers import Mask, Model, Rows
from serving.client.clients import AsyncClient, Client
from serving.client.messages import ServiceError
from serving.client.security import Security

__all__ = ["AsyncClient", "Client", "Mask", "Model", "Rows", "Security", "ServiceError"]
