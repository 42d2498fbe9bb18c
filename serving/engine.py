"""The engine: what the service can do, without a protocol. Every servicer and the video job stand on it.

One request is a straight line: find the servable, check and convert the input, run, convert the output. Whatever is
wrong with an input is said here or in the leaves below, before the model is asked.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from serving import imaging
from serving.backend import ENCODING
from serving.call import Answered, Call
from serving.errors import DeadlineError, InvalidInputError, quote
from serving.imaging import MaskFormat
from serving.intake import Array, Filled, Intake, Source, as_rows, describe, is_picture
from serving.manifest import Manifest
from serving.placement import ANYWHERE, Placement
from serving.servable import Servable
from serving.shelf import Shelf, Version
from serving.ticket import count_rows
from serving.timings import Timings

# Encoded pictures, one a row of the model's input.
Pictures = list[bytes]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The answer to ``Engine.segment``.

    Attributes:
        model, version: who answered.
        mask: encoded in ``form``.
        height, width: of the mask.
        threshold: the one that was used.
        foreground_fraction: share of foreground pixels, 0..1.
        timings: seconds by phase.
    """

    model: str
    version: int
    mask: bytes
    form: MaskFormat
    height: int
    width: int
    threshold: float
    foreground_fraction: float
    timings: Timings


@dataclass(frozen=True, slots=True)
class Inference:
    """The answer to ``Engine.infer`` and its kin: the outputs asked for, name -> array [rows, ...]."""

    model: str
    version: int
    outputs: dict[str, Array]
    timings: Timings


class Engine:
    """Answers requests from a repository's models.

    Args:
        repository: the models.
        max_pixels: most pixels of a picture, or of all pictures of one batch of raw tensors.
        picture_slots: most pictures that are decoded, resized or turned into masks at once. More than there are cores
            only costs memory.
        placement: which cores pictures are worked on.
    """

    def __init__(
        self, repository: Shelf, *, max_pixels: int, picture_slots: int, placement: Placement = ANYWHERE
    ) -> None:
        self._repository = repository
        self._intake = Intake(max_pixels)
        self._slots = threading.BoundedSemaphore(picture_slots)
        self._placement = placement

    def models(self) -> list[Servable]:
        """Every model version that is served."""
        return self._repository.servables()

    @property
    def repository(self) -> Shelf:
        """The models: what they are and how they fare, and how to load and unload them."""
        return self._repository

    def segment(
        self,
        name: str,
        version: Version,
        source: Source,
        *,
        threshold: float | None = None,
        form: MaskFormat = MaskFormat.PNG,
        at_model_size: bool = False,
        call: Call | None = None,
    ) -> Segmentation:
        """The pedestrian mask of one picture.

        Args:
            name: of the model.
            version: its number or label; None = the newest.
            source: an encoded picture, or a uint8 RGB array [H, W, 3].
            threshold: in [0, 1]; a pixel is foreground when its probability is at least this. None = the model's own.
            form: how the mask is encoded.
            at_model_size: the mask at the size at which the model was asked, padding included, not at the picture's.
            call: whose request it is.

        Raises:
            RequestError: see ``errors.py``.
        """
        started = time.monotonic()
        call = call or Call()
        with self._repository.use(name, version) as servable:
            _require(servable, "mask")
            threshold = _check_threshold(servable.manifest, threshold)
            if not isinstance(source, bytes) and not (source.dtype == np.uint8 and source.ndim == 3):
                raise InvalidInputError(f"a picture is uint8 [height, width, 3]. Received: {describe(source)}")
            with self._picture_slot(call):
                tensor, geometry = self._intake.to_input(servable, source)
            decoded = time.monotonic()
            rows = servable.infer({servable.manifest.image.name: tensor}, ("mask",), call)
            inferred = time.monotonic()
            with self._picture_slot(call):
                probabilities = rows.outputs["mask"][0, :, :, 0]
                if not at_model_size:
                    probabilities = imaging.restore(probabilities, geometry)
                mask = imaging.to_mask(probabilities, threshold)
                encoded = imaging.encode_mask(probabilities, mask, form)
            height, width = mask.shape
            ended = time.monotonic()
            timings = Timings(
                decoded - started, rows.queue_seconds, rows.inference_seconds, ended - inferred, ended - started
            )
            servable.note(timings)
            call.answered = Answered(servable.name, servable.version, 1, timings)
        fraction = np.count_nonzero(mask) / mask.size
        return Segmentation(servable.name, servable.version, encoded, form, height, width, threshold, fraction, timings)

    def encode(self, name: str, version: Version, source: Source, *, call: Call | None = None) -> Inference:
        """The encoding (latents) of one picture or of a batch of rows: output ``encoding``, float32 [rows, latents].

        Args:
            name: of the model.
            version: its number or label; None = the newest.
            source: an encoded picture; a uint8 picture [H, W, 3]; an array like the model's input, with or without the
                batch axis; or, for a grey model, uint8 pictures of just its size, [H, W] or [rows, H, W].
            call: whose request it is.

        Raises:
            RequestError: see ``errors.py``.
        """
        return self._ask(name, version, source, "encoding", call or Call())

    def reconstruct(self, name: str, version: Version, source: Source, *, call: Call | None = None) -> Inference:
        """What the auto-encoder makes of its input: output ``reconstruction``; otherwise like ``encode``."""
        return self._ask(name, version, source, "reconstruction", call or Call())

    def decode(self, name: str, version: Version, encoding: Array, *, call: Call | None = None) -> Inference:
        """The reconstruction that follows from an encoding, as the model gave it or edited.

        Args:
            name: of the model.
            version: its number or label; None = the newest.
            encoding: float32 [latents] or [rows, latents], all finite; it may lie outside of what the model itself
                would give, since that is what editing is for.
            call: whose request it is.

        Raises:
            RequestError: see ``errors.py``.
        """
        rows = encoding[np.newaxis] if encoding.ndim == 1 else encoding
        return self.infer(name, version, {ENCODING: rows}, ["reconstruction"], call=call)

    def infer(
        self,
        name: str,
        version: Version,
        inputs: Mapping[str, Array | Filled | Pictures],
        outputs: Sequence[str] = (),
        *,
        call: Call | None = None,
    ) -> Inference:
        """Runs named arrays through a model as they are.

        Args:
            name: of the model.
            version: its number or label; None = the newest.
            inputs: name -> array [rows, ...] exactly as the manifest says, or encoded pictures, which are brought to
                the model's size; or the encoding alone, for a model that can be cut there.
            outputs: names of those wanted; none = all (that follow from an encoding, where that is the input). A mask
                has the model's size.
            call: whose request it is.

        Raises:
            RequestError: see ``errors.py``.
        """
        started = time.monotonic()
        call = call or Call()
        with self._repository.use(name, version) as servable:
            for output in outputs:
                _require(servable, output)
            if len(set(outputs)) != len(outputs):
                raise InvalidInputError(f"each output is asked for once. Received: {', '.join(outputs)}")
            if list(inputs) == [ENCODING] and servable.manifest.output(ENCODING) is not None:
                array, wanted = self._take_encoding(servable, inputs[ENCODING], outputs)
                return self._run(servable, {ENCODING: array}, wanted, started, call)
            known = [spec.name for spec in servable.manifest.inputs]
            if sorted(inputs) != sorted(known):
                came = ", ".join(quote(each) for each in inputs) or "none"
                raise InvalidInputError(f"{servable.name} takes the inputs {', '.join(known)}. Received: {came}")
            taken = {spec: inputs[spec.name] for spec in servable.manifest.inputs}
            ordered = {}
            for spec, source in taken.items():
                if isinstance(source, list):
                    ordered[spec.name] = self._decode_all(servable, source, call)
                else:
                    ordered[spec.name] = self._intake.take(servable, spec, source)
            return self._run(servable, ordered, tuple(outputs) or servable.manifest.output_names, started, call)

    def _ask(self, name: str, version: Version, source: Source, output: str, call: Call) -> Inference:
        started = time.monotonic()
        with self._repository.use(name, version) as servable:
            _require(servable, output)
            image = servable.manifest.image
            if isinstance(source, bytes) or is_picture(servable, source):
                with self._picture_slot(call):
                    tensor, _ = self._intake.to_input(servable, source)
            else:
                tensor = self._intake.take(servable, image, as_rows(servable, source))
            return self._run(servable, {image.name: tensor}, (output,), started, call)

    def _run(
        self,
        servable: Servable,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        started: float,
        call: Call,
    ) -> Inference:
        decoded = time.monotonic()
        rows = servable.infer(inputs, outputs, call)
        total = time.monotonic() - started
        timings = Timings(decoded - started, rows.queue_seconds, rows.inference_seconds, 0.0, total)
        servable.note(timings, postprocessed=False)
        call.answered = Answered(servable.name, servable.version, count_rows(inputs), timings)
        return Inference(servable.name, servable.version, rows.outputs, timings)

    def _take_encoding(
        self, servable: Servable, source: Array | Filled | Pictures, outputs: Sequence[str]
    ) -> tuple[Array, tuple[str, ...]]:
        """An encoding as input, and the outputs that follow from it."""
        if isinstance(source, list):
            raise InvalidInputError(f"the encoding of {servable.name} is FP32. Received: BYTES")
        if not servable.decodes:
            raise InvalidInputError(f"{servable.name} cannot start from an encoding: its decoder needs the picture too")
        other = [output for output in outputs if output not in servable.decodes]
        if other:
            raise InvalidInputError(
                f"from an encoding {servable.name} gives {', '.join(servable.decodes)}. Received: {quote(other[0])}"
            )
        return self._intake.take_encoding(servable, source), tuple(outputs) or servable.decodes

    def _decode_all(self, servable: Servable, pictures: Pictures, call: Call) -> Array:
        most = servable.limits.most_rows(servable.manifest.free_pixels())
        if not 1 <= len(pictures) <= most:
            # Before they are decoded, which costs more than any run.
            raise InvalidInputError(
                f"{servable.name} takes 1 to {most} pictures in one request. Received: {len(pictures)}"
            )
        rows = []
        for picture in pictures:
            with self._picture_slot(call):
                rows.append(self._intake.to_input(servable, picture)[0])
        return np.concatenate(rows)

    @contextmanager
    def _picture_slot(self, call: Call) -> Iterator[None]:
        """Bounds the pictures in work, and so the memory they take; gives up when the caller does."""
        if not self._slots.acquire(timeout=call.remaining()):
            raise DeadlineError("the deadline passed before the picture was decoded")
        try:
            call.check()
            with self._placement.everywhere():
                yield
        finally:
            self._slots.release()


def _require(servable: Servable, output: str) -> None:
    if servable.manifest.output(output) is None:
        has = ", ".join(servable.manifest.output_names)
        raise InvalidInputError(f"{servable.name} has no output {quote(output)}; it has {has}")


def _check_threshold(manifest: Manifest, threshold: float | None) -> float:
    if threshold is None:
        default = manifest.default_threshold
        return 0.5 if default is None else default
    if not 0.0 <= threshold <= 1.0:  # NaN too
        raise InvalidInputError(f"the threshold lies in [0, 1]. Received: {threshold}")
    return threshold
