"""The explorer of notebook 07: picture, class, map, rule or threshold are chosen; map, D curve and box follow at once.

Widgets around `own_images`. Each picture goes through the network once; what is chosen costs no other pass.
"""

import base64
import html
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import ipywidgets as widgets
import numpy as np
from PIL import Image
from torch import Tensor

from wsol_utils.boxes import thresholds
from wsol_utils.common.checks import numpy
from wsol_utils.own_pictures import own_images, panels
from wsol_utils.own_pictures.own_images import Located, Network, View

SLIDER = "slider"  # the rule of whoever moves it
PREDICTED = -1  # in place of a class
MAPS = ("absolute", "signed", "positive")
KEPT = 32  # pictures with their features, the latest


class Explorer(widgets.VBox):
    """The controls, the picture with its curve, and threshold and box in words.

    Args:
        network: from `own_images.load_network`.
        pictures: files, or views of maps that came from elsewhere.
        recombination, rule, class_index: to begin with; -1 for the class that the network predicts.
    """

    def __init__(
        self, network: Network, pictures: Sequence[str | Path | View], recombination: str = "absolute",
        rule: str = "first_above_mean", class_index: int = PREDICTED,
    ) -> None:  # fmt: skip
        self.network, self.pictures, self.curve, self._quiet = network, list(pictures), panels.Curve(), False
        self.first = {"kind": class_index, "recombination": recombination, "rule": rule, "eta": 0.0}
        self.chosen: dict[int, dict] = {}  # for each picture that was shown, how the controls stood last
        self._seen = lru_cache(KEPT)(self._look)
        names = [Path(p.path if isinstance(p, View) else p).name or "a map" for p in self.pictures]
        kinds = zip(["as predicted", *network.class_names], range(PREDICTED, len(network.class_names)), strict=True)
        self.picture = widgets.Dropdown(options=list(zip(names, range(len(names)), strict=True)), description="picture")
        self.kind = widgets.Dropdown(options=list(kinds), value=class_index, description="class")
        self.recombination = widgets.Dropdown(options=MAPS, value=recombination, description="map")
        self.rule = widgets.Dropdown(options=(*thresholds.RULES, SLIDER), value=rule, description="rule")
        self.eta = widgets.FloatSlider(min=0, max=1, step=0.01, description="η", layout={"width": "610px"})
        self.shown, self.box = widgets.Image(format="png", layout={"width": "max-content"}), widgets.HTML()
        self.box.add_class("wsol-box")
        for control in (self.picture, self.kind, self.recombination, self.rule, self.eta):
            control.observe(self._changed, "value")
        rows = [[self.picture, self.kind], [self.recombination, self.rule], [self.eta], [self.box], [self.shown]]
        super().__init__([widgets.HBox(row) for row in rows])
        self._show()

    def pairs(self) -> Iterator[tuple[View, Located]]:
        """Every picture as it was last shown here; one that was not, as the explorer began."""
        for index in range(len(self.pictures)):
            yield self._located(index, **self.chosen.get(index, self.first))

    def _look(self, index: int, kind: int = PREDICTED) -> View:
        picture = self.pictures[index]
        if isinstance(picture, View):
            return picture
        return own_images.look(self.network, picture, None if kind == PREDICTED else kind)

    def _located(self, index: int, kind: int, recombination: str, rule: str, eta: float) -> tuple[View, Located]:
        view = self._seen(index)
        if kind != PREDICTED and view.given_map is not None:
            view = self._seen(index, kind)  # of a method that makes its own map
        elif kind != PREDICTED:
            weights = numpy(cast(Tensor, self.network.model.class_weights)[kind])  # (C,)
            view = replace(view, class_index=kind, class_name=self.network.class_names[kind], class_weights=weights)
        if rule == SLIDER:
            return view, own_images.locate(view, recombination, eta=eta)
        return view, own_images.locate(view, recombination, rule)

    def _changed(self, change: dict) -> None:
        if not self._quiet:
            if change["owner"] is self.eta:
                self._set(self.rule, SLIDER)
            self._show()

    def _set(self, control: widgets.Widget, value: object) -> None:
        """A value that nobody chose: nothing follows from it."""
        self._quiet, control.value = True, value
        self._quiet = False

    def _show(self) -> None:
        choice = {name: getattr(self, name).value for name in self.first}
        self.kind.disabled = self.recombination.disabled = isinstance(self.pictures[self.picture.value], View)
        try:
            view, located = self._located(self.picture.value, **choice)
        except (ValueError, OSError) as error:  # of a file that is no picture
            self.shown.value, self.box.value = b"", html.escape(str(error))
            return
        self.chosen[self.picture.value] = choice
        self._set(self.eta, round(located.eta, 2))
        self.image = Image.fromarray(np.hstack([panels.under_map(view, located), self.curve.pixels(located)]))
        self.shown.value, self.box.value = (
            panels.png(self.image, compress_level=1),
            html.escape(panels.in_words(view, located)),
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """The widgets; for a page that has none, the picture."""
        still = base64.b64encode(panels.png(self.image.quantize(128), optimize=True)).decode()
        return super()._repr_mimebundle_(**kwargs) | {"text/plain": html.unescape(self.box.value), "image/png": still}
