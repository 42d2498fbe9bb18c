"""Run folders ``runs/<experiment>/``: what was trained, how, and what came out.

::

    config.json      the experiment's settings, preset, data and code revision
    checkpoints/     everything a resumed run needs
    history.jsonl    the scalars of every epoch
    tensorboard/     the same for TensorBoard
    snapshots/       how the dictionary looked after up to 60 of the epochs
    weights.npz      the trained variables, written when training is complete
    scores.json      scores on the test split
    figures/         pictures
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.distribution import DistributionError, is_chief, wait_for_all
from training.experiments import experiment_named
from training.experiments.base import Experiment
from training.export.manifest import TrainingRecord
from training.export.version_folder import export_version
from training.files import remove_leftovers, write_json
from training.loops.fit import Autodiff
from training.loops.trainer import CHECKPOINTS, HISTORY, SNAPSHOTS, train
from training.run_folder import CONFIG, FINGERPRINT, WEIGHTS, RunError, load_weights, read_config, save_weights

logger = logging.getLogger(__name__)

SCORES = "scores.json"
RESUMED = ", resumed with "
"""Between the code revisions of a training that other code than began it went on with."""
FIGURES = "figures"


@dataclass(frozen=True)
class Run:
    """One training of one experiment.

    Attributes:
        experiment: with preset and settings in force.
        data: as loaded.
        folder: of the run.
    """

    experiment: Experiment[Any]
    data: Any
    folder: Path

    @property
    def complete(self) -> bool:
        """Whether training has ended."""
        return (self.folder / WEIGHTS).exists()

    def train(
        self,
        *,
        force: bool = False,
        stop_after: int | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        """Trains, or goes on with a run that was cut; does nothing where the same run is complete.

        Args:
            force: start anew, dropping whatever is in the folder.
            stop_after: end, as if cut, after this many epochs.
            strategy: spreads the training over devices or workers; workers share the run folder.

        Raises:
            DistributionError: the strategy has several replicas and the training is not by automatic differentiation.
            ExperimentError: a setting that does not go together with the data.
            RunError: the folder holds a run of another configuration and ``force`` is not set.
            DataError: what the training starts from cannot be had.
            DivergenceError: the objective left the finite numbers.
        """
        strategy = strategy or tf.distribute.get_strategy()
        chief, experiment = is_chief(strategy), self.experiment
        if not force:
            self._require_same_run()
            if self.complete:
                logger.info("%s: trained already (%s); --force trains anew", experiment.name, self.folder)
                return
        experiment.prepare()
        logger.info(
            "%s: training preset %s on %s (%s data), %d epochs",
            experiment.name, experiment.preset, self.data.name, self.data.source, experiment.epochs,
        )  # fmt: skip
        keras.utils.set_random_seed(experiment.seed)
        with strategy.scope():
            model = experiment.build()
            program = experiment.program(model, self.data)
        if strategy.num_replicas_in_sync > 1 and not isinstance(program, Autodiff):
            raise DistributionError(
                f"{experiment.name}: --strategy spreads training by automatic differentiation. Received: a training "
                f"by {type(program).__name__}"
            )
        # not before all that can be refused has been: what was asked for by mistake leaves no folder behind
        if chief:
            if force and self.folder.exists():
                shutil.rmtree(self.folder)
            self._claim()
        if strategy.num_replicas_in_sync > 1:
            wait_for_all(strategy)
        # a checkpoint costs little beside an epoch; twenty of them are plenty to go on from
        history = train(
            program,
            name=experiment.name,
            epochs=experiment.epochs,
            directory=self.folder,
            checkpoint_every=max(1, experiment.epochs // 20),
            snapshot=lambda: experiment.snapshot(model),
            stop_after=stop_after,
            chief=chief,
        )
        if not chief:
            return
        if len(history.epochs) < experiment.epochs:
            logger.info("%s: stopped after epoch %d of %d", experiment.name, len(history.epochs), experiment.epochs)
            return
        save_weights(model, self.folder)
        self._update_config(
            date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            training_seconds=round(sum(epoch["seconds"] for epoch in history.epochs), 1),
        )

    def evaluate(self) -> dict[str, float]:
        """Scores the trained model on the test split, draws its figures and writes both."""
        model = self.model()
        scores = self.experiment.evaluate(model, self.data)
        write_json(self.folder / SCORES, scores)
        self.draw(model)
        return scores

    def draw(self, model: keras.Model) -> None:
        """Draws what the trained model does, and how its training went."""
        folder = self.folder / FIGURES
        self.experiment.draw(model, self.data, folder)
        history = [json.loads(line) for line in (self.folder / HISTORY).read_text(encoding="utf-8").splitlines()]
        snapshots = [np.load(path) for path in sorted((self.folder / SNAPSHOTS).glob("*.npy"))]
        self.experiment.draw_training(history, snapshots, folder)

    def scores(self) -> dict[str, float]:
        """The scores on file, evaluated first where there are none."""
        path = self.folder / SCORES
        if not path.exists():
            return self.evaluate()
        scores: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return scores

    def export(self, models: Path) -> Path:
        """Writes the next model version below ``models`` and returns its folder."""
        config = read_config(self.folder)
        experiment, model = self.experiment, self.model()
        training = TrainingRecord(
            experiment=experiment.name,
            preset=experiment.preset,
            dataset=self.data.name,
            data_source=self.data.source,
            seed=experiment.seed,
            code_revision=config["code_revision"],
            date=config["date"],
            settings={key: value for key, value in changed_settings(experiment).items() if key != "seed"},
        )
        return export_version(
            experiment.servable(model),
            experiment.parity_inputs(self.data),
            name=experiment.name,
            models=models,
            training=training,
            scores=self.scores(),
            extra_files=lambda folder: experiment.extra_files(model, training, folder),
        )

    def model(self) -> keras.Model:
        """The trained model.

        Raises:
            RunError: training is not complete.
        """
        if not self.complete:
            raise RunError(
                f"{self.folder} holds no complete training of {self.experiment.name}; expected {WEIGHTS}. "
                f"Run: python -m training train {self.experiment.name}"
            )
        model = self.experiment.build()
        load_weights(model, self.folder)
        return model

    def _require_same_run(self) -> None:
        """Refuses a folder that an earlier call has claimed for another configuration."""
        if not (self.folder / CONFIG).exists():
            return
        present, wanted = read_config(self.folder), self.configuration()
        differing = [key for key in wanted if present.get(key) != wanted[key]]
        if differing:
            changes = "; ".join(f"{key}: {present.get(key)} there, {wanted[key]} asked for" for key in differing)
            raise RunError(
                f"{self.folder} holds another run of {self.experiment.name} ({changes}). "
                "Pass --force to replace it or --runs for another place."
            )

    def _claim(self) -> None:
        """Writes the configuration; where an earlier call has, adds the code that the training goes on with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        revision = code_revision()
        if not tf.train.latest_checkpoint(self.folder / CHECKPOINTS):
            write_json(self.folder / CONFIG, {**self.configuration(), "code_revision": revision})
            return
        begun: str = read_config(self.folder)["code_revision"]
        if begun.split(RESUMED)[-1] != revision:
            logger.warning("%s: begun with code %s, goes on with %s", self.experiment.name, begun, revision)
            self._update_config(code_revision=begun + RESUMED + revision)

    def configuration(self) -> dict[str, Any]:
        """What makes a run another run: experiment, preset, settings and data, as plain JSON values."""
        experiment = self.experiment
        return {
            "experiment": experiment.name,
            "preset": experiment.preset,
            "settings": experiment.settings(),
            "dataset": self.data.name,
            "data_source": self.data.source,
            **({"data": self.data.location, FINGERPRINT: self.data.fingerprint} if self.data.location else {}),
        }

    def _update_config(self, **values: Any) -> None:
        write_json(self.folder / CONFIG, {**read_config(self.folder), **values})


def open_run(name: str, runs: Path) -> Run:
    """The run of ``name`` below ``runs`` as it was configured, with the data it was trained on.

    Raises:
        RunError: there is none, or its data are somebody's own and not those any more that it was trained on: what was
            for training may be for testing now.
        DataError: its data cannot be had any more.
    """
    experiment = experiment_named(name)
    config = read_config(runs / name)
    settings = {
        key: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in config["settings"].items()
    }
    experiment = experiment.with_preset(config["preset"]).with_settings(settings)
    data = experiment.load_data(config.get("data", config["data_source"]))
    if config.get(FINGERPRINT, "") != data.fingerprint:
        raise RunError(
            f"{runs / name}: expected the pictures of {data.location} as they were when it was trained. Received: "
            "others; some were added, removed or changed since. Put them back as they were, or train anew with --force."
        )
    return Run(experiment, data, runs / name)


def changed_settings(experiment: Experiment[Any]) -> dict[str, Any]:
    """The settings in which an experiment differs from its preset, as plain JSON values; none that name local files."""
    usual = experiment_named(experiment.name).with_preset(experiment.preset).settings()
    return {
        name: value
        for name, value in experiment.settings().items()
        if value != usual[name] and name not in experiment.local
    }


def code_revision() -> str:
    """The git commit of this code, with "-dirty" where tracked files differ; "unknown" outside git."""

    def git(*arguments: str) -> str:
        where = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=where, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
