"""The stored tables are those of the installed transformers."""

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from pipeline.arguments.inherited import LOOP_ONLY, OPTIMIZERS, REJECTED, SCHEDULES, TRACKERS


def test_the_choices_are_those_of_transformers() -> None:
    assert sorted(SCHEDULES) == sorted(schedule.value for schedule in SchedulerType)
    assert sorted(OPTIMIZERS) == sorted(optimizer.value for optimizer in OptimizerNames)
    assert sorted(TRACKERS) == sorted(INTEGRATION_TO_CALLBACK)


def test_no_flag_of_the_training_loop_is_rejected_anyway() -> None:
    assert not LOOP_ONLY & REJECTED.keys()
