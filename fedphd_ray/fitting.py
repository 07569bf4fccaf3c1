"""What the sections of a configuration ask of one another: all of it is refused before anything is written or started."""

from pathlib import Path
from typing import TYPE_CHECKING

from fedphd_ray.diffusion.process import load_process
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.channel import communication
from fedphd_ray.federation.planning.policies import Buffered
from fedphd_ray.records import Kind
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.strategies import Strategy

if TYPE_CHECKING:
    from fedphd_ray.config import Config


def require_fit(config: "Config") -> None:
    """Sees that the sections of a configuration make sense together.

    Raises:
        ConfigError: they do not.
    """
    _check_cohort(config)
    _check_devices(config)
    config.pruning.require_fit(config.schedule.rounds)
    _check_hierarchy(config)
    _check_strategy(config)
    _check_normalisation(config)
    if config.data.drift is not None and (config.strategy.keeps_parts_private or config.strategy.keeps_personal_models):
        raise ConfigError(
            "data.drift",
            expected=f"none with {config.strategy.name}: clients' own models are judged by their own images, which would change",
            found=f"{config.data.drift.images_per_round} images a round",
        )
    if config.pruning.asks_clients and config.submodels is not None:
        raise ConfigError(
            "pruning.criterion",
            expected="group_l2, group_l1 or random where there is a section submodels: not every client has every channel",
            found=config.pruning.criterion.name,
        )
    if config.submodels is not None:
        buffered = isinstance(config.schedule.policy, Buffered)
        feedback = any(getattr(own, "error_feedback", False) for own in config.communication.values())
        config.submodels.require_fit(config.strategy, devices=config.devices is not None, rounds=not buffered, feedback=feedback)
    communication.require_fit(config.communication, config.hierarchy.topology(), config.strategy)
    _check_faults(config)
    _check_evaluation(config)
    _check_pretrained(config)


def _check_pretrained(config: "Config") -> None:
    """A saved model goes on under the noise that it knows."""
    known = None if config.model.pretrained is None else load_process(Path(config.model.pretrained))
    own = config.process.model_copy(update={"min_snr_gamma": None})
    if known is not None and known.config != own:
        before, now = known.config.model_dump(), own.model_dump()
        raise ConfigError(
            "process",
            expected="; ".join(f"{key}: {before[key]}" for key in before if before[key] != now[key])
            + ", as model.pretrained was trained",
            found="; ".join(f"{key}: {now[key]}" for key in before if before[key] != now[key]),
            remedy="set process so",
        )


def _check_evaluation(config: "Config") -> None:
    if config.evaluation.every and config.evaluation.steps > config.process.num_timesteps:
        raise ConfigError(
            "evaluation.steps",
            expected=f"at most process.num_timesteps = {config.process.num_timesteps}",
            found=str(config.evaluation.steps),
            remedy="sample with fewer steps, or judge never (evaluation.every: 0)",
        )


def _check_faults(config: "Config") -> None:
    """In one process there is nothing to kill but the run itconfig."""
    if config.runtime.backend == "local" and any(fault.kind in ("kill", "hang") for fault in config.faults):
        raise ConfigError(
            "faults",
            expected="no kind kill or hang where runtime.backend is local: its only process would not survive",
            found="one",
            remedy="take runtime.backend: ray, or another kind of fault",
        )
    topology = config.hierarchy.topology()
    if unknown := sorted(
        {fault.node for fault in config.faults if fault.node is not None and not topology.merges_at(fault.node)}
    ):
        above = ", ".join(f"{tier.name}/0 to {tier.name}/{tier.nodes - 1}" for tier in topology.tiers[1:])
        raise ConfigError(
            "faults",
            expected=f"a node above the edges: {above or 'there is none in this tree'}",
            found=", ".join(unknown),
            remedy="an edge server is meant by `edge: 0`",
        )


def _check_devices(config: "Config") -> None:
    if config.devices is None and config.schedule.policy.name != "wait":
        raise ConfigError(
            "schedule.policy",
            expected="wait, where there is no section devices: nobody is late",
            found=config.schedule.policy.name,
            remedy="for example devices: {preset: phones}",
        )
    outages = () if config.devices is None else config.devices.edges.outages
    if (most := max((out.edge for out in outages), default=-1)) >= config.hierarchy.num_edges:
        there = f"edges that there are, 0 to {config.hierarchy.num_edges - 1}" if config.hierarchy.num_edges else "none: no edges"
        raise ConfigError("devices.edges.outages", expected=there, found=f"edge {most}")
    if config.schedule.sampler.needs_times and config.devices is None:
        raise ConfigError(
            "schedule.sampler",
            expected="a rule that goes without times, where there is no section devices",
            found=config.schedule.sampler.name,
            remedy="for example devices: {preset: phones}",
        )
    if isinstance(config.schedule.policy, Buffered) and _shares_parts(config.strategy):
        raise ConfigError(
            "schedule.policy",
            expected="a policy with rounds, where the clients of a round share the parts of the model among themselves",
            found=config.schedule.policy.name,
            remedy="take another policy, or another mode of the strategy",
        )


def _shares_parts(strategy: Strategy) -> bool:
    """Whether the clients of a round share the parts of the model among themselves."""
    return bool(strategy.reported_parts(range(4), numpy_rng(0, Purpose.REPORTED_PARTS)))


def _check_normalisation(config: "Config") -> None:
    """One factor undoes the division of all updates by their steps: it must be the same for all of the model."""
    method = config.method
    reasons = {
        f"the server of {method.name} goes by the sum of the updates as they are": method.takes_sums,
        "clients report different parts of the model": _shares_parts(method),
        "clients train different shares of the model": config.submodels is not None or Kind.COVERAGE in method.clients_send,
    }
    if method.normalise_steps and (found := [reason for reason, holds in reasons.items() if holds]):
        by_policy = not config.strategy.normalise_steps
        raise ConfigError(
            "schedule.policy.normalise" if by_policy else "strategy.normalise_steps",
            expected="false here",
            found=f"true, though {found[0]}",
            remedy="set it to false" if method.name != "fednova" else "take another strategy",
        )


def _check_cohort(config: "Config") -> None:
    if config.schedule.clients_per_round > config.data.num_clients:
        raise ConfigError(
            "schedule.clients_per_round",
            expected=f"at most data.num_clients = {config.data.num_clients}",
            found=str(config.schedule.clients_per_round),
            remedy="sample fewer clients a round, or register more",
        )


def _check_hierarchy(config: "Config") -> None:
    rule = config.hierarchy.edge_choice
    if (rule.needs_latency and config.devices is None) or (rule.needs_statistics and not config.strategy.shares_label_statistics):
        raise ConfigError(
            "hierarchy.edge_choice",
            expected="a rule that goes without latencies, where there is no section devices"
            if rule.needs_latency
            else "a rule that goes without label counts: this strategy shares none",
            found=rule.name,
            remedy="for example devices: {preset: phones}" if rule.needs_latency else "take fedphd, which shares them",
        )
    if config.hierarchy.num_edges == 0 and config.hierarchy.cloud_period != 1:
        raise ConfigError(
            "hierarchy.cloud_period",
            expected="1 where hierarchy.num_edges is 0: a flat federation aggregates at the cloud every round",
            found=str(config.hierarchy.cloud_period),
            remedy="set hierarchy.cloud_period: 1, or give the federation edges",
        )


def _check_strategy(config: "Config") -> None:
    name, strategy = config.strategy.name, config.strategy
    if strategy.flat_only and config.hierarchy.num_edges > 0:
        raise ConfigError(
            "strategy.name",
            expected=f"hierarchy.num_edges: 0, because the server of {name} steps after every round",
            found=f"{config.hierarchy.num_edges} edges",
            remedy="set hierarchy: {num_edges: 0, cloud_period: 1}, or take another strategy",
        )
    for key, wrapped in {
        "local.compile": config.local.compile,
        "model.class_conditional": config.model.class_conditional,
    }.items():
        if strategy.looks_inside and wrapped:
            raise ConfigError(
                key,
                expected=f"false: {name} looks inside the network while it is trained",
                found="true",
                remedy="leave it out, or take another strategy",
            )
    if strategy.looks_inside and config.local.micro_batch is not None:
        raise ConfigError(
            "local.micro_batch",
            expected=f"null: {name} draws noise of its own for the batch that is in the network",
            found=str(config.local.micro_batch),
            remedy="leave it out",
        )
    if strategy.keeps_parts_private and any(config.pruning.moments):
        raise ConfigError(
            "pruning.mode",
            expected=f"none or at_init: with {name} nobody has the whole model, so nobody can tell which channels matter",
            found=config.pruning.mode,
            remedy="prune at_init, or take a strategy (or feddiffuse mode) whose model travels whole",
        )
