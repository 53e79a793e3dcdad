"""Explore one's own pictures in notebook 07: choose picture, class, map, rule or threshold; map, D and box follow.

Widgets around `locate`. A picture goes through the network once for each class that is chosen; maps and thresholds
cost no other pass.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from matplotlib.backends.backend_agg import FigureCanvasAgg

from wsol_utils.boxes import thresholds
from wsol_utils.figures import plots
from wsol_utils.own_pictures import locate
from wsol_utils.own_pictures.locate import Located, View
from wsol_utils.own_pictures.networks import Network

SLIDER = "slider"  # the rule's name once the slider has been moved
MAPS = ("absolute", "signed", "positive")
PREDICTED = -1  # in place of a class: the one that the network predicts
KEPT = 32  # views that stay in memory, the latest ones


class Explorer(widgets.VBox):
    """The controls, the picture with its curve, and threshold and box in words.

    Args:
        network: from `networks.load_network`.
        pictures: files, or views of maps that came from elsewhere.
        recombination, rule, class_index: to begin with; -1 for the class that the network predicts.
    """

    def __init__(
        self, network: Network, pictures: Sequence[str | Path | View], recombination: str = "absolute",
        rule: str = "first_above_mean", class_index: int = PREDICTED,
    ) -> None:  # fmt: skip
        self.network, self.pictures = network, list(pictures)
        self.first = {"kind": class_index, "recombination": recombination, "rule": rule, "eta": 0.0}
        self.chosen: dict[int, dict] = {}  # for each picture that was shown, how the controls stood last
        self._look = lru_cache(KEPT)(lambda path, kind: locate.look(network, path, None if kind == PREDICTED else kind))
        names = [Path(p.path if isinstance(p, View) else p).name or "a map" for p in self.pictures]
        kinds = [(name, index) for index, name in enumerate(["as predicted", *network.class_names], start=PREDICTED)]
        places = [(name, index) for index, name in enumerate(names)]
        self.picture = widgets.Dropdown(options=places, description="picture")
        self.kind = widgets.Dropdown(options=kinds, value=class_index, description="class")
        self.recombination = widgets.Dropdown(options=MAPS, value=recombination, description="map")
        self.rule = widgets.Dropdown(options=(*thresholds.RULES, SLIDER), value=rule, description="rule")
        self.eta = widgets.FloatSlider(min=0, max=1, step=0.01, description="η", layout={"width": "610px"})
        self.shown = widgets.Image(format="png", layout={"width": "max-content"})
        self.box = widgets.Label()  # plain text: a class may be called "<b>"
        self.box.add_class("wsol-box")
        for control in (self.picture, self.kind, self.recombination, self.rule, self.eta):
            control.observe(self._changed, "value")
        rows = [[self.picture, self.kind], [self.recombination, self.rule], [self.eta], [self.box], [self.shown]]
        super().__init__([widgets.HBox(row) for row in rows])
        self._show()

    def pairs(self) -> Iterator[tuple[View, Located]]:
        """Every picture as it was last shown here; one that was not shown, as the explorer began."""
        for index in range(len(self.pictures)):
            yield self._located(index, **self.chosen.get(index, self.first))

    def _located(self, index: int, kind: int, recombination: str, rule: str, eta: float) -> tuple[View, Located]:
        picture = self.pictures[index]
        view = picture if isinstance(picture, View) else self._look(picture, kind)
        if rule == SLIDER:
            return view, locate.locate(view, recombination, eta=eta)
        return view, locate.locate(view, recombination, rule)

    def _changed(self, change: dict) -> None:
        if change["owner"] is self.eta:
            if change["new"] == self._eta:
                return  # the rule moved it
            if self.rule.value != SLIDER:
                self.rule.value = SLIDER  # which calls this method again
                return
        self._show()

    def _show(self) -> None:
        index = self.picture.value
        self.kind.disabled = self.recombination.disabled = isinstance(self.pictures[index], View)
        self.chosen[index] = {name: getattr(self, name).value for name in self.first}
        view, located = self._located(index, **self.chosen[index])
        self._eta = round(located.eta, 2)
        self.eta.value = self._eta
        self.figure, self.box.value, picture = locate.draw(view, located), in_words(view, located), io.BytesIO()
        FigureCanvasAgg(self.figure).print_png(picture, pil_kwargs={"compress_level": 1})  # the quickest way
        self.shown.value = picture.getvalue()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """The widgets; for a page that has none, the picture."""
        still = base64.b64encode(plots.png(self.figure, colours=128)).decode()
        return super()._repr_mimebundle_(**kwargs) | {"text/plain": self.box.value, "image/png": still}


def in_words(view: View, located: Located) -> str:
    """Put threshold, rule, box and class into one line."""
    (x0, y0, x1, y1), (height, width) = located.box, view.image.shape[:2]
    box = f"box x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}" if x1 > x0 and y1 > y0 else "no box"
    share = "" if view.probability is None else f", {view.probability:.0%}"
    return f"η = {located.eta:.2f} ({located.rule}): {box} of {width} × {height} pixels; {view.class_name}{share}"
