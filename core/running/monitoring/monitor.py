"""Are the features still apart? A few clips, always the same, are encoded along a run, and what that shows is logged.

`monitor/rankme` and `monitor/feature_std` are of at most `MOST_CLIPS` clips of the training split: no evaluation reads
them, and no label. No generator of the run is moved, no gradient and no batch statistic is touched: losses are those of
a run without. `monitor/collapsed` is 1 at the steps at which they are nearly the same for every clip, and else not
logged. `runtime.also_monitor` adds what costs more: `lidar` and `held_out` beside this module.

To encode a clip costs a third of a training step on it where every patch is encoded, and more than one where nearly
all are hidden. Twenty looks encode at most a hundredth of the clips that a run trains on, but `LEAST_CLIPS` each:
of a run's operations at scale cpu that is 1.7 % for MAE-ST, 0.8 % for MAE and less for others.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import torch

from core.configuring.config import Judge, Run
from core.data.arrays import ArrayDataset
from core.data.augment import normalise
from core.evals.collapse import Spread, compared
from core.evals.frozen.features import FrozenFeatures
from core.running.building import untrained_encoder
from core.running.monitoring import lidar
from core.running.monitoring.few_clips import held, most_clips, spread_over
from core.running.monitoring.held_out import HeldOut
from core.types import Dataset, DataSpec, EncoderModule, Learner

log = logging.getLogger(__name__)
LOOKS = 20  # of a run's `stop`, which must not depend on `runtime`
CHOICES = 10  # steps that a run that is judged at its best one chooses from
SELDOM = 4  # of so many looks one is at what costs more
LEAST_CLIPS, MOST_CLIPS = 32, 128
SHARE = 0.01  # of the clips that a run trains on, encoded by all looks together


def every(steps: int, looks: int) -> int:
    """Steps from one look to the next."""
    return max(1, math.ceil(steps / looks))


def num_clips(run: Run, spec: DataSpec, length: int) -> int:
    """How many clips of a split of that length a look encodes, however often `runtime` asks: a stop reads them."""
    wanted = int(SHARE * run.optim.steps * run.optim.batch_size / LOOKS)
    return min(max(LEAST_CLIPS, min(wanted, MOST_CLIPS)), most_clips(spec), length)


class Monitor:
    """Looks at the judged encoder of `learner`, and says so when its features become one."""

    def __init__(
        self,
        run: Run,
        learner: Learner,
        train_set: Dataset,
        spec: DataSpec,
        device: torch.device,
        precision: torch.dtype | None,
        held_out: HeldOut | None = None,
    ) -> None:
        """`held_out` is what a probe along the run is made with, of the data that it is judged on."""
        self.run, self.learner, self.spec, self.device, self.precision = run, learner, spec, device, precision
        self.told: dict[str, Any] = {}  # of the last look: `core.evals.collapse.compared`
        self._train_set, self._held_out = train_set, held_out
        self._clips: dict[int, ArrayDataset] = {}  # by how many were wanted
        self._untrained: Spread | None = None
        self._is_collapsing = False
        self._also = set(run.runtime.also_monitor)
        if "probe" in self._also and (held_out is None or not held_out.names):
            self._leave_out("probe", "the data has no labels of which clips could be held out")

    def _leave_out(self, name: str, reason: str) -> None:
        """Of one run of many that were asked for it, say, not all of which compare views."""
        self._also.discard(name)
        log.warning("runtime.also_monitor: no %s, %s", name, reason)

    def looks_at(self, step: int) -> bool:
        return self._is_regular(step) or self.stops_at(step) or self.chooses_at(step)

    def _is_regular(self, step: int) -> bool:
        steps, monitors = self.run.optim.steps, self.run.runtime.monitors
        return monitors > 0 and step % every(steps, monitors) == 0

    def _is_seldom(self, step: int) -> bool:
        """Whether it is time for what costs more."""
        monitors = self.run.runtime.monitors
        often = every(self.run.optim.steps, monitors) if monitors else 1
        return self._is_regular(step) and (step // often % SELDOM == 0 or step + often > self.run.optim.steps)

    def chooses_at(self, step: int) -> bool:
        """Whether this may be the step that the run is judged at, whatever `runtime` says."""
        steps = self.run.optim.steps
        return self.run.judge is Judge.best and (step % every(steps, CHOICES) == 0 or step == steps)

    def stops_at(self, step: int) -> bool:
        """Whether the run may end here, whatever `runtime` says; never at its last step, which nothing is saved by."""
        steps, stop = self.run.optim.steps, self.run.stop
        if stop.metric is None or not stop.after <= step < steps:
            return False
        return step == stop.after or step % every(steps, LOOKS) == 0

    def look(self, step: int) -> dict[str, float]:
        """What to log; nothing once the weights are not finite, which the loss will tell."""
        seen: dict[str, float] = {}
        try:
            if self._is_regular(step) or self.stops_at(step):
                seen |= self._spread_at(step)
            if self.chooses_at(step) or ("probe" in self._also and self._is_seldom(step)):
                assert self._held_out is not None
                seen |= self._held_out.top1(self.learner.judged_encoder)
            if "lidar" in self._also and self._is_seldom(step):
                seen |= self._lidar()
        except FloatingPointError:
            self.told = {}
            return {}
        return seen

    def _spread_at(self, step: int) -> dict[str, float]:
        if self._untrained is None:
            # Built again from the seed: a resumed run's own encoder is trained already.
            self._untrained = self._spread(untrained_encoder(self.run, self.spec, self.device))
        now = self._spread(self.learner.judged_encoder)
        self.told = compared(now, self._untrained)
        is_collapsing = self.told["state"] == "collapsed"
        if is_collapsing != self._is_collapsing:
            self._is_collapsing = is_collapsing
            say, what = (log.warning, "collapsing") if is_collapsing else (log.info, "no longer collapsing")
            shown = f"RankMe {now.rankme:.3g}, untrained {self._untrained.rankme:.3g}; std {now.std:.2g}, untrained"
            say("step %d of %d: %s (%s %.2g)", step, self.run.optim.steps, what, shown, self._untrained.std)
        seen = {"monitor/rankme": now.rankme, "monitor/feature_std": now.std}
        return seen | {"monitor/collapsed": 1.0} if is_collapsing else seen

    def _lidar(self) -> dict[str, float]:
        number = min(lidar.CLIPS, most_clips(self.spec), len(self._train_set))
        clips = self._few(number).fetch(torch.arange(number)).clips
        found = lidar.look(self.run, self.learner, clips, self.spec, self.device, self.precision)
        if found is None:
            self._leave_out("lidar", "the objective compares no views of a sample")
            return {}
        return {"monitor/lidar": found}

    def should_end(self, step: int, logged: dict[str, Any]) -> bool:
        """Whether what was logged of this step is below the run's bound."""
        stop = self.run.stop
        return self.stops_at(step) and float(logged.get(stop.curve or "", math.inf)) < (stop.below or 0.0)

    def ending(self, step: int) -> dict[str, Any]:
        """The fact of a run that ends here: the sentence that pages and tables have for a collapsed encoder."""
        stop = self.run.stop
        said = f"stopped at step {step}: {stop.metric} is below {stop.below:g}"
        numbers = (
            f" (RankMe {self.told['rankme']:.3g}, untrained {self.told['rankme_untrained']:.3g};"
            f" std {self.told['std']:.2g}, untrained {self.told['std_untrained']:.2g})"
        )
        return {**self.told, "state": "collapsed", "said": said + numbers}

    def _spread(self, encoder: EncoderModule) -> Spread:
        clips = self._few(num_clips(self.run, self.spec, len(self._train_set)))
        features = FrozenFeatures(
            encoder, clips, clips, prepare=normalise, device=self.device, batch_size=LEAST_CLIPS,
            autocast_dtype=self.precision, built_for=clips.spec,
        )  # fmt: skip
        return Spread.of(features.pooled("train"))

    def _few(self, number: int) -> ArrayDataset:
        if number not in self._clips:
            spec = replace(self.spec, clips_per_video=1)
            self._clips[number] = held(self._train_set, spread_over(len(self._train_set), number), spec)
        return self._clips[number]
