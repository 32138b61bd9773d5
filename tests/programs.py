"""Compiled programs that the runs of one test process share."""

import dataclasses

import jax
import pytest

from vaejax import outcome, program, run


class Programs:
    """Compiled programs that runs of equal settings share: the second such run costs 0.4 s in place of 2.5.

    A program is a function of the experiment and its settings alone. That a process of its own makes the same one
    again, to the bit, is tested in test_faults.py.
    """

    def __init__(self):
        self.made, self.keys, self.experiments = {}, {}, []
        self.make_program, self.make_validation = program.make_program, outcome.make_validation
        self.measure, self.map_examples = outcome.measure, outcome.map_examples

    def patch(self, patch):
        """While `patch`, a `MonkeyPatch`, holds, `vaejax.run` takes its programs from here."""
        patch.setattr(run, "make_program", self.program)
        patch.setattr(run, "make_validation", self.validation)
        patch.setattr(run, "measure", self.measured)

    def program(self, experiment, settings):
        key = self._program_key(settings)
        of_experiment = self.keys[id(experiment)] = self._experiment_key(settings)
        self.experiments.append(experiment)  # kept, so that no other experiment gets its id
        made = self._once("program", key, lambda: self.make_program(experiment, settings))
        with_ema = settings.training.ema_decay is not None
        init = self._once("init", (*of_experiment, with_ema), lambda: made.init)
        # A feed that is streamed and has been used opens its source again when it is asked, anew, what it logs.
        feed = made.feed._replace(metrics_of=lambda state: made.feed.metrics_of(state))
        return made._replace(feed=feed, init=init, num_steps=settings.num_steps(experiment.dataset))

    def validation(self, experiment, settings):
        key = self._program_key(settings)
        return self._once("validation", key, lambda: self.make_validation(experiment, settings))

    def measured(self, experiment, params):
        key = self.keys.get(id(experiment), id(experiment))
        with pytest.MonkeyPatch.context() as patch:
            mapped = lambda function: self._once("measure", key, lambda: self.map_examples(function))
            patch.setattr(outcome, "map_examples", mapped)
            return self.measure(experiment, params)

    def _once(self, kind, key, make):
        if (kind, key) not in self.made:
            self.made[kind, key] = make()
        return self.made[kind, key]

    def _program_key(self, settings):
        """What the train step depends on, in words."""
        training = dataclasses.replace(settings.training, patience=0, patience_warm_up=0)
        if training.not_finite != "skip":
            training = dataclasses.replace(training, max_not_finite=0)
        devices = settings.running.devices or len(jax.devices())
        sizes = settings.batch_size, devices
        return *self._experiment_key(settings), repr(training), *sizes, settings.running.feed

    def _experiment_key(self, settings):
        """What the model, the objective and the test figures depend on, in words."""
        kind = type(settings.training)
        training = kind(precision=settings.training.precision, rematerialize=settings.training.rematerialize)
        own = dataclasses.replace(settings, epochs=1, batch_size=1, training=training, running=type(settings.running)())
        return type(settings).__module__, repr(own)
