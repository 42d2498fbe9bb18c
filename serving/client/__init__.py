"""The Python client.

    from serving.client import Client

    with Client("localhost:8001") as client:
        mask = client.segment("street.jpg")
        mask.array        # bool [H, W], at the picture's own size
        mask.png()        # bytes
        mask.overlay("street.jpg")  # RGB [H, W, 3]

``AsyncClient`` is the same with ``await``. The command line is ``python -m serving.client``.
Asking needs gRPC, numpy and Pillow; neither ONNX Runtime nor OpenCV is imported for it.
"""

from serving.client.answers import Mask, Model, Rows
from serving.client.clients import AsyncClient, Client
from serving.client.messages import ServiceError

__all__ = ["AsyncClient", "Client", "Mask", "Model", "Rows", "ServiceError"]
