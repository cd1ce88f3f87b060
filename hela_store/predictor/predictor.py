"""A predictor that is used like ``segment_anything.SamPredictor``, on images of any size and on stored embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hela_store.errors import DatasetError, NoImageError, PromptError
from hela_store.images.geometry import MASK_GRID, SAM_INPUT, resized_shape, scoring_tiles
from hela_store.prompts.prompt import Prompt
from hela_store.recipe.recipe import Recipe
from hela_store.sam.decoder import SamDecoder, view_tokens
from hela_store.sam.modeling import ImageEncoderViT, Sam
from hela_store.sam.predict import Prediction, predict_view

from .answers import ImagePrompts, answer_prompts, draw_logits, draw_masks, image_planes
from .checks import checked_boxes, checked_points, grey_image
from .frame import EncodedFrame, Tiled, encode_tile, given_frame

if TYPE_CHECKING:
    from segment_anything.utils.transforms import ResizeLongestSide

TOKENS_KEPT = 4
"""Tiles whose embeddings stay in memory, 4 MiB each."""


@dataclass
class _Current:
    """The image that is set; replaced as a whole, so that no answer mixes two images."""

    frame: Tiled
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    tokens: dict[int, Tensor] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def tile_tokens(self, tile: int, device: torch.device) -> Tensor:
        """Return the positions of a tile's embedding, (4096, 256); the last few tiles are kept."""
        with self.lock:
            found = self.tokens.pop(tile, None)
            if found is None:
                found = view_tokens(self.frame.embedding(tile).to(device))
            self.tokens[tile] = found
            while len(self.tokens) > TOKENS_KEPT:
                del self.tokens[next(iter(self.tokens))]
            return found


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The encoder, the decoder and the settings of a predictor.

    Attributes
    ----------
    name : what it is called where it is shown, such as the id of a run
    recipe : how images are normalised, tiled and encoded
    decoder : on the device to use
    window : positions of the embedding along each side that a prompt reads at least
    load_encoder : returns the image encoder on that device; called when the first image is set
    stored : returns a stored frame by its id; None without a store
    """

    name: str
    recipe: Recipe
    decoder: SamDecoder
    window: int
    load_encoder: Callable[[], ImageEncoderViT]
    stored: Callable[[str], Tiled] | None = None


class Predictor:
    """Masks of one image from prompts; the interface is that of ``segment_anything.SamPredictor``.

    An image that is larger than a tile of the recipe is cut into overlapping tiles. Each prompt is answered in the tile
    that holds it best, and all coordinates are those of the whole image.

    Parameters
    ----------
    parts : Parts
        From :func:`hela_store.predictor.load.load`.

    Attributes
    ----------
    parts : Parts
    model_name, model_type : str
        The name of this predictor and the architecture of its encoder, as micro-sam asks for them.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.model_name = parts.name
        self.model_type = parts.recipe.encoder.architecture
        self._current: _Current | None = None
        self._given: dict[str, Any] = {}
        self._model: Sam | None = None
        self._loading = Lock()

    def __repr__(self) -> str:
        return f"<Predictor {self.parts.name}, window {self.parts.window}, {self.device}>"

    # the image

    def set_image(self, image: npt.ArrayLike, image_format: str = "RGB") -> None:
        """Set the image that later prompts are about.

        An image of one tile is encoded now; the tiles of a larger one are encoded when a prompt needs them, each once.

        Parameters
        ----------
        image : array of any integer or float type, (row, col)
            Grey counts as acquired; they are normalised as the recipe says. Grey counts in three equal channels,
            (row, col, 3), are taken too.
        image_format : str
            ``"RGB"`` or ``"BGR"``, which is the same for grey images.

        Raises
        ------
        DatasetError
            The image has colours, more axes, no pixels, or NaN or infinite values. No image is set then.
        """
        self.reset_image()
        if image_format not in ("RGB", "BGR"):
            raise DatasetError(f"image_format is {image_format!r}, expected 'RGB' or 'BGR'")
        self._set(self._encoded(image))

    def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
        """Set an image that the caller normalised and resized for SAM; it is seen whole.

        Parameters
        ----------
        transformed_image : Tensor, (1, 3, H, W), 0 to 255, long side 1024 px
        original_image_size : (rows, cols) of the image before it was resized

        Raises
        ------
        DatasetError
            The tensor has another shape.
        """
        self.reset_image()
        if transformed_image.dim() != 4 or transformed_image.shape[:2] != (1, 3):
            raise DatasetError(f"the image has shape {tuple(transformed_image.shape)}, expected (1, 3, H, W)")
        if max(transformed_image.shape[2:]) != SAM_INPUT:
            raise DatasetError(
                f"the image is {tuple(transformed_image.shape[2:])} px, expected a long side of {SAM_INPUT} px; resize "
                "it with predictor.transform.apply_image"
            )
        with torch.no_grad():
            features = self.model.image_encoder(self.model.preprocess(transformed_image.to(self.device)))
        rows, cols = original_image_size
        self._set(given_frame(features, (int(rows), int(cols))))

    def set_view(self, frame: str) -> None:
        """Set a frame of the store; its embeddings are read, and no encoder is loaded.

        Parameters
        ----------
        frame : str
            Id of the frame, such as ``"01/t012"``.

        Raises
        ------
        StoreError
            No such frame, or it is not embedded.
        PromptError
            The predictor has no store.
        """
        self.reset_image()
        self._set(self._stored(frame))

    def reset_image(self) -> None:
        """Forget the image that is set."""
        self._current = None
        self._given = {}

    def get_image_embedding(self) -> Tensor:
        """Return the embedding of the image that is set, float32, (1, 256, 64, 64).

        Raises
        ------
        NoImageError
            No image is set.
        PromptError
            The image has several tiles, so several embeddings.
        """
        current = self._need()
        if len(current.frame.tiles) > 1:
            raise PromptError(
                f"the image has {len(current.frame.tiles)} tiles with an embedding each, expected one; load the "
                "predictor with hs.load(..., tile=0) to see images whole"
            )
        return current.frame.embedding(0)[None].to(self.device)

    def _set(self, frame: Tiled) -> None:
        if len(frame.tiles) == 1:
            frame.embedding(0)
        self._current = _Current(frame, frame.shape, resized_shape(frame.shape))

    def _encoded(self, image: npt.ArrayLike) -> EncodedFrame:
        grey = grey_image(image)
        precision = self.parts.recipe.encoder.precision

        def encode(tile: npt.NDArray[np.float32]) -> Tensor:
            return encode_tile(self.model.image_encoder, precision)(tile)

        return EncodedFrame(grey, self.parts.recipe, encode)

    def _stored(self, frame: str) -> Tiled:
        if self.parts.stored is None:
            raise PromptError(
                f"{self.parts.name} has no store, so no frame {frame!r}; load one that has, hs.load('stores/NAME'), or "
                "give the pixels to set_image"
            )
        return self.parts.stored(frame)

    def _need(self) -> _Current:
        current = self._current
        if current is None:
            current = self._from_given()
        if current is None:
            raise NoImageError("no image is set, expected one before any prompt; call set_image or set_view first")
        return current

    def _from_given(self) -> _Current | None:
        """Return the image that a caller set by attributes, as micro-sam does with embeddings that it keeps."""
        given = self._given
        if not given.get("is_image_set") or given.get("features") is None or "original_size" not in given:
            return None
        rows, cols = (int(side) for side in given["original_size"])
        frame = given_frame(torch.as_tensor(given["features"]), (rows, cols))
        size = given.get("input_size") or resized_shape((rows, cols))
        self._current = _Current(frame, (rows, cols), (int(size[0]), int(size[1])))
        return self._current

    # what callers of SamPredictor read and assign

    @cached_property
    def transform(self) -> ResizeLongestSide:
        """Bring coordinates and boxes of the image to those that :meth:`predict_torch` takes."""
        # with it comes torchvision, which takes a second and more
        from segment_anything.utils.transforms import ResizeLongestSide

        return ResizeLongestSide(SAM_INPUT)

    @property
    def device(self) -> torch.device:
        """The device that answers."""
        return next(self.parts.decoder.parameters()).device

    @property
    def model(self) -> Sam:
        """The whole model as segment-anything's class; reading it loads the encoder."""
        with self._loading:
            if self._model is None:
                decoder = self.parts.decoder
                sam = Sam(
                    image_encoder=self.parts.load_encoder(),
                    prompt_encoder=decoder.prompt_encoder,
                    mask_decoder=decoder.mask_decoder,
                )
                self._model = sam.to(self.device).eval()
            return self._model

    @property
    def is_image_set(self) -> bool:
        """Whether an image is set."""
        return self._current is not None or self._from_given() is not None

    @is_image_set.setter
    def is_image_set(self, value: bool) -> None:
        self._assign(is_image_set=value)

    @property
    def features(self) -> Tensor | None:
        """The embedding of the image that is set, float32, (1, 256, 64, 64); None where none is set."""
        return self.get_image_embedding() if self.is_image_set else None

    @features.setter
    def features(self, value: Tensor | None) -> None:
        self._assign(features=value)

    @property
    def original_size(self) -> tuple[int, int] | None:
        """Rows and columns of the image that is set, px; None where none is set."""
        return self._current.original_size if self._current else self._given.get("original_size")

    @original_size.setter
    def original_size(self, value: Sequence[int]) -> None:
        self._assign(original_size=tuple(value))

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Rows and columns of that image after its long side was brought to 1024 px; None where none is set."""
        return self._current.input_size if self._current else self._given.get("input_size")

    @input_size.setter
    def input_size(self, value: Sequence[int]) -> None:
        self._assign(input_size=tuple(value))

    def _assign(self, **value: Any) -> None:
        if self._current is not None and len(self._current.frame.tiles) == 1:
            sizes = {"original_size": self._current.original_size, "input_size": self._current.input_size}
            self._given = {"features": self._current.frame.embedding(0), "is_image_set": True} | sizes
        self._current = None
        self._given = self._given | value

    # prompts

    def predict(
        self,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the masks for one object of the image that is set.

        Parameters
        ----------
        point_coords : (N, 2) ``(x, y)`` px, image
        point_labels : (N,), 1 for the object, 0 for background
        box : (4,) ``(x0, y0, x1, y1)`` px, image
        mask_input : (1, 256, 256) logits, most often an answer's third part; 256 is the image's long side
        multimask_output : three masks instead of one, which suits a single click
        return_logits : logits instead of masks, above 0 inside

        Returns
        -------
        masks : bool, (C, row, col); float32 where logits are asked for
        iou_predictions : float32, (C,)
        low_res_masks : float32, (C, 256, 256) logits, which may be given as the next ``mask_input``

        Raises
        ------
        NoImageError
            No image is set.
        PromptError
            No prompt at all, or one of another shape or outside of the image.
        """
        shape = self._need().original_size
        points = labels = boxes = masks = None
        if point_coords is not None:
            checked_points(point_coords, point_labels, shape)
            points = torch.from_numpy(self.transform.apply_coords(np.asarray(point_coords), shape)).float()[None]
            labels = torch.as_tensor(np.asarray(point_labels), dtype=torch.int)[None]
        if box is not None:
            boxes = torch.from_numpy(self.transform.apply_boxes(checked_boxes(box, shape), shape)).float()
        if mask_input is not None:
            masks = torch.as_tensor(np.asarray(mask_input), dtype=torch.float)[None]
        found = self.predict_torch(points, labels, boxes, masks, multimask_output, return_logits)
        first, ious, low = (part[0].cpu().numpy() for part in found)
        return first, ious, low

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the masks for B objects; as :meth:`predict` with a first axis B in all that is given and returned.

        Parameters
        ----------
        point_coords : (B, N, 2) ``(x, y)``, brought to SAM's input with :attr:`transform`
        point_labels : (B, N)
        boxes : (B, 4) ``(x0, y0, x1, y1)``, brought to SAM's input with :attr:`transform`
        mask_input : (B, 1, 256, 256) logits
        multimask_output, return_logits : as in :meth:`predict`

        Returns
        -------
        masks : bool, (B, C, row, col); float32 where logits are asked for
        iou_predictions : float32, (B, C)
        low_res_masks : float32, (B, C, 256, 256)

        Raises
        ------
        NoImageError, PromptError
            As in :meth:`predict`.
        """
        current, device = self._need(), self.device
        shape, tiles = current.original_size, list(current.frame.tiles)
        prompts = ImagePrompts(shape=shape, points=point_coords, labels=point_labels, boxes=boxes, masks=mask_input)
        prompts.check()
        homes = prompts.homes(tiles)
        count = 3 if multimask_output else 1
        masks = torch.empty((len(homes), count, *shape), dtype=torch.float32 if return_logits else torch.bool)
        ious = torch.empty((len(homes), count))
        low = torch.empty((len(homes), count, MASK_GRID, MASK_GRID))
        draw = draw_logits if return_logits else draw_masks
        for tile in np.unique(homes).tolist():
            members = np.flatnonzero(homes == tile)
            asked = prompts.in_tile(members, tiles, tile)
            tokens = current.tile_tokens(tile, device)
            answers = answer_prompts(self.parts.decoder, tokens, asked, self.parts.window, multimask_output)
            for i, answer in zip(members, answers, strict=True):
                ious[i] = torch.from_numpy(answer.ious)
                low[i] = image_planes(answer, tiles, tile, shape)
                draw(masks[i], answer, tiles[tile])
        return masks.to(device), ious.to(device), low.to(device)

    def predict_boxes(
        self, image: npt.ArrayLike | str | None, boxes: npt.ArrayLike, *, window: int | None = None
    ) -> list[Prediction]:
        """Return the mask of the cell in each of many boxes; boxes of one tile are decoded together.

        Parameters
        ----------
        image : array, (row, col), as for :meth:`set_image`
            Or the id of a stored frame as for :meth:`set_view`; None for the image that is set. The image that is set
            stays set.
        boxes : (N, 4) ``(x0, y0, x1, y1)`` px, image, x1 and y1 exclusive
        window : int
            Positions of the embedding along each side that a prompt reads at least; the predictor's where None.

        Returns
        -------
        list of Prediction
            In the order of the boxes, each one piece without holes, as a crop with its place in the image.

        Raises
        ------
        NoImageError, DatasetError, StoreError, PromptError
            As in :meth:`predict`, :meth:`set_image` and :meth:`set_view`.
        """
        if image is None:
            frame = self._need().frame
        else:
            frame = self._stored(image) if isinstance(image, str) else self._encoded(image)
        checked = checked_boxes(boxes, frame.shape)
        homes = scoring_tiles(checked, frame.tiles, frame.shape)
        found: dict[int, Prediction] = {}
        for tile in np.unique(homes):
            members = np.flatnonzero(homes == tile)
            prompts = [Prompt(kind="box", box=checked[i]) for i in members]
            embedding = frame.embedding(int(tile)).to(self.device)
            rect = frame.tiles[int(tile)]
            answers = predict_view(self.parts.decoder, embedding, rect, prompts, window=window or self.parts.window)
            found |= dict(zip(members.tolist(), answers, strict=True))
        return [found[i] for i in range(len(checked))]
