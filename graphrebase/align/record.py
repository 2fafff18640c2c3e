"""What the unchanged models do on the probes: compared point by point, and kept in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from graphrebase.align.activations import Activations, Role
from graphrebase.align.body import Body, FloatArray
from graphrebase.align.streams import Comparison


class Record:
    """Streams of the three models, float32, in files of one mini-batch each.

    Attributes:
        seen: how A's and B's streams compare at every point, over all probes.
    """

    def __init__(
        self, folder: Path, body: Body, activations: Activations, *, attention: bool
    ) -> None:
        """Run the three models once; goals need the streams after layers, readouts the last.

        Args:
            folder: for the files.
            body: what the models have in common.
            activations: runs them.
            attention: whether goals are wanted after attention layers too.
        """
        self._folder = folder
        self._counts: dict[bool, int] = {}
        self._last = {t.points[-1] for t in body.towers}
        self._goals = {x.after for t in body.towers for x in t.solved(attention=attention)}
        self.seen = {p: Comparison(np.zeros(body.map_shape(p))) for p in _centred(body)}
        for kept in (False, True):
            self._counts[kept] = self._run(body, activations, kept)
        activations.release()

    def _run(self, body: Body, activations: Activations, kept: bool) -> int:
        models: list[Role] = ["target", "base"] if kept else ["target", "base", "finetuned"]
        streams = [activations.streams(model, kept=kept) for model in models]
        weights = activations.weights(kept=kept, last=False)
        count = 0
        for weight, *found in zip(weights, *streams, strict=True):
            for point, centred in _centred(body).items():
                at_point = {model: x[point] for model, x in zip(models, found, strict=True)}
                self.seen[point].add(
                    at_point["target"], at_point["base"], weight[point], centred=centred
                )
                if point in self._goals:
                    self._keep(point, count, kept, at_point)
            count += 1
        return count

    def _keep(
        self, point: str, number: int, kept: bool, streams: Mapping[Role, FloatArray]
    ) -> None:
        arrays = {"target": streams["target"]}
        if "finetuned" in streams:
            arrays["change"] = streams["finetuned"] - streams["base"]
        if point in self._last:
            arrays["base"] = streams["base"]
        for what, array in arrays.items():
            np.save(self._file(what, point, number, kept), array.astype(np.float32))

    def _file(self, what: str, point: str, number: int, kept: bool) -> Path:
        return self._folder / f"{what}.{point}.{number}.{int(kept)}.npy"

    def read(self, what: str, point: str, *, kept: bool) -> Iterator[FloatArray]:
        """Yield, per mini-batch, a stream after a layer, (tokens, D).

        Args:
            what: ``target``: B's; ``change``: A_ft's minus A's (not on keep probes); ``base``: A's
                (at last points only).
            point: the residual point.
            kept: which probes.
        """
        for number in range(self._counts[kept]):
            yield np.load(self._file(what, point, number, kept)).astype(np.float64)

    def goals(self, point: str, moved: FloatArray, *, kept: bool) -> Iterator[FloatArray]:
        """Yield where B's stream should be: r_B + F (r_Aft - r_A), or r_B on keep probes."""
        if kept:
            yield from self.read("target", point, kept=True)
            return
        both = (self.read(what, point, kept=False) for what in ("target", "change"))
        for stream, change in zip(*both, strict=True):
            yield stream + change @ moved.T


def _centred(body: Body) -> Mapping[str, bool]:
    """Return every residual point, and whether its mean is read by no one."""
    return {point: tower.centred for tower in body.towers for point in tower.points}
