"""What a run does about failures. Pure: decided here, acted on by whoever drives the round."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Annotated

from pydantic import Field, NonNegativeInt

from fedphd_ray.errors import RunFailedError
from fedphd_ray.records import ClientReport
from fedphd_ray.runtime.policy.dispatch import Unit, single_clients
from fedphd_ray.settings.sections import Section
from fedphd_ray.topology import client_name


class FailureConfig(Section):
    """What a run endures.

    A host, an edge or a node that dies changes no bit: its part is done again. A client that fails for good is left out of its
    round, which shows in progress, metrics and summary.

    Attributes:
        client_retries: times that a client is trained again in a round, after an exception or the death of its host.
        client_timeout_seconds: of one training of one client; one that takes longer is left out of the round. null for no limit.
        quorum: share of a round's clients whose updates must arrive; with fewer the run stops.
        max_rollbacks: times that a run may go back to its last checkpoint, where a lost node took models with it.
    """

    client_retries: NonNegativeInt = 2
    client_timeout_seconds: Annotated[float, Field(gt=0, le=1e7)] | None = None
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.5
    max_rollbacks: NonNegativeInt = 3


def after_a_death(units: Sequence[Unit], costs: Mapping[int, float], client_retries: int) -> tuple[list[Unit], list[Unit]]:
    """What to train again, and what to leave out, after a host died while it trained these units.

    Any of their clients may be the reason: they are tried again one by one, so that only the one that kills hosts is left out.

    Args:
        units: what the host was doing.
        costs: client -> images.
        client_retries: tries after the first.
    """
    alone = [replace(unit, attempt=unit.attempt + 1) for unit in single_clients(units, costs)]
    return [unit for unit in alone if unit.attempt <= client_retries], [unit for unit in alone if unit.attempt > client_retries]


def least_updates(quorum: float, clients: int) -> int:
    """Updates of so many clients that a quorum asks for.

    A share is meant as it is written, in decimals: 0.28 of 25 is 7, which it is not in binary.
    """
    return math.ceil(Fraction(str(quorum)) * clients)


def require_quorum(config: FailureConfig, round: int, reports: Sequence[ClientReport]) -> None:
    """Stops a run whose round has lost too many clients.

    Raises:
        RunFailedError: fewer updates than `quorum` arrived.
    """
    failed = [report for report in reports if report.failure]
    good = len(reports) - len(failed)
    if good < least_updates(config.quorum, len(reports)):
        reasons = "".join(f"\n  {client_name(report.client)}: {first_line(report.failure)}" for report in failed)
        raise RunFailedError(
            f"round {round}: {good} of {len(reports)} clients sent an update, failures.quorum = {config.quorum:g} asks for more:"
            f"{reasons}\nin full, for {client_name(failed[0].client)}:\n{failed[0].failure}"
        )


def first_line(failure: str) -> str:
    """What there is room for in a list; the rest is a traceback."""
    return failure.strip().partition("\n")[0]
