"""Errors of the whole package; every one of them survives pickling, because they cross actors.

`UserError` is for what a person can put right: the command line prints its message and exits with 2, without a traceback.
`RunFailedError` is for a run that cannot go on: exit code 1. Programming errors are plain assertions.
"""


class FedPhDError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1


class UserError(FedPhDError):
    """Something the user gave cannot work.

    Args:
        where: what the message is about (a configuration key, a file).
        expected: what would have been right.
        found: what was there instead.
        remedy: what to do about it.
    """

    exit_code = 2

    def __init__(self, where: str, *, expected: str, found: str, remedy: str = "") -> None:
        # All fields go into `args`, from which `__reduce__` builds the copy on the other side of an actor call.
        super().__init__(where, expected, found, remedy)
        self.where, self.expected, self.found, self.remedy = where, expected, found, remedy

    def __reduce__(self) -> tuple[object, tuple[type["UserError"], str, str, str, str]]:
        return _rebuild_user_error, (type(self), self.where, self.expected, self.found, self.remedy)

    def __str__(self) -> str:
        remedy = f"\n  to do:    {self.remedy}" if self.remedy else ""
        return f"{self.where}\n  expected: {self.expected}\n  found:    {self.found}{remedy}"


class ConfigError(UserError):
    """A configuration key is unknown, has a wrong value, or contradicts another one."""


class DataError(UserError):
    """The data cannot be had, or cannot be divided as asked."""


class PruningError(UserError):
    """The network cannot be pruned as asked."""


class ModelFileError(UserError):
    """A model directory is missing something, or holds what is not a model."""


class ResourceError(UserError):
    """The machine or cluster does not have what the configuration asks for."""


class RunFailedError(FedPhDError):
    """The run cannot go on; what was saved until then is good.

    Args:
        reason: what happened, where and in which round.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CodecError(FedPhDError):
    """A message is not what was written."""


class ClientTimeoutError(FedPhDError):
    """A client trained for longer than `failures.client_timeout_seconds`."""


class StateLostError(FedPhDError):
    """Models or client states are gone with the node that held them: only a checkpoint has them still."""


class Stopped(BaseException):
    """Somebody asked the process to stop.

    Args:
        signal_name: how, e.g. SIGTERM.
        number: of the signal; the exit code is 128 more, as a shell has it.
    """

    def __init__(self, signal_name: str, number: int) -> None:
        super().__init__(signal_name, number)
        self.signal_name = signal_name
        self.exit_code = 128 + number
        self.raised = False

    def __str__(self) -> str:
        return f"stopped by {self.signal_name}"


def _rebuild_user_error(cls: type[UserError], where: str, expected: str, found: str, remedy: str) -> UserError:
    return cls(where, expected=expected, found=found, remedy=remedy)
