"""Training text-to-image policies with rewards. Imports nothing heavy: the command line knows how a run may end."""


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


class TrainingFailed(RuntimeError):
    """The run cannot go on, with the reason in words."""


class RewardFailed(TrainingFailed):
    """A reward could score nothing; the policy is as it was, and the run can go on once the reward is back."""


class Diverged(TrainingFailed):
    """The policy went wrong, and nothing around it did: with another seed the same training may hold."""
