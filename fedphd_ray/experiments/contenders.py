"""Methods by names that stand for a strategy and what else its paper has of a configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedphd_ray.config import Config, load_config
from fedphd_ray.errors import ConfigError


@dataclass(frozen=True)
class Contender:
    """A method in a comparison: a label, its strategy, and what else of the common configuration it changes (`key=value`)."""

    label: str
    strategy: str
    overrides: tuple[str, ...] = ()

    def config(self, base: Path, common: Sequence[str], seed: int) -> Config:
        """Its configuration. Hyper-parameters of the strategy are the common configuration's where that has the same strategy."""
        same = load_config(base, common).strategy.name == self.strategy
        own = () if same else (f"strategy={{name: {self.strategy}}}",)
        return load_config(base, [*common, *own, *self.overrides, f"seed={seed}"])


FLAT = ("hierarchy.tiers=null", "hierarchy.num_edges=0", "hierarchy.cloud_period=1")
DENSE = ("pruning.mode=none", "pruning.round=null", "pruning.rounds=[]", "pruning.again=[]")
SUBMODELS = {
    "heterofl": "{scheme: nested, widths: [1.0, 0.75, 0.5]}",
    "fedrolex": "{scheme: rolling, widths: [1.0, 0.75, 0.5]}",
}
WIRELESS = "{widths: [1.0, 0.75, 0.5], assignment: {name: wireless, deadline_seconds: 5.0}}"
INT8 = "{to_clients: int8, from_clients: {codec: int8, error_feedback: true}, cloud_to_edge: int8, edge_to_cloud: int8}"
THRESHOLD = "{from_clients: {codec: threshold}, edge_to_cloud: {codec: threshold}}"
PRESETS = (
    Contender("fedphd", "fedphd"),
    Contender("fedphd-os", "fedphd", ("pruning.mode=at_init", "pruning.round=null", "pruning.rounds=[]", "pruning.again=[]")),
    Contender("fedphd-dense", "fedphd", DENSE),
    Contender("hierfavg", "fedavg", DENSE),
    *(Contender(name, name, (*FLAT, *DENSE)) for name in ("fedavg", "fedprox", "scaffold", "moon", "feddyn", "fednova")),
    *(Contender(name, "fedavg", (*FLAT, *DENSE, f"server.optimizer={{name: {name}}}")) for name in ("fedavgm", "fedadam")),
    *(Contender(name, "fedavg", (*FLAT, *DENSE, f"submodels={own}")) for name, own in SUBMODELS.items()),
    Contender("fedphd-int8", "fedphd", (f"communication={INT8}",)),
    Contender("fedphd-fedclip", "fedphd", ("schedule.participation={name: fedclip}",)),
    Contender("sfedhp", "sfedhp", (*DENSE, f"communication={THRESHOLD}")),
    Contender("hfl-pruning", "fedavg", (*DENSE, f"submodels={WIRELESS}")),
    Contender("feddiffuse", "feddiffuse", (*FLAT, *DENSE)),
    *(
        Contender(f"feddiffuse-{mode}", "feddiffuse", (*FLAT, *DENSE, f"strategy.mode={mode}"))
        for mode in ("full", "usplit", "ulatdec", "udec")
    ),
)
"""Methods as their papers run them: FedPhD in its hierarchy with the configured pruning; HierFAVG, sFedHP and pruning over
wireless links in the hierarchy, dense; the others flat and dense."""


def contenders(names: str) -> list[Contender]:
    """Reads `fedphd,fedprox:strategy.mu=1`: labels of `PRESETS`, each with more overrides after colons.

    Raises:
        ConfigError: an unknown or repeated name.
    """
    presets = {preset.label: preset for preset in PRESETS}
    chosen = []
    for entry in split_outside_braces(names, ","):
        name, *more = split_outside_braces(entry.strip(), ":")
        if name not in presets:
            raise ConfigError("--strategies", expected=f"names among {', '.join(presets)}", found=repr(name))
        preset = presets[name]
        chosen.append(Contender(":".join([name, *more]), preset.strategy, (*preset.overrides, *more)))
    if len({contender.label for contender in chosen}) < len(chosen):
        raise ConfigError("--strategies", expected="every method once", found=names)
    return chosen


def split_outside_braces(told: str, separator: str) -> list[str]:
    """Splits at a character, but not within braces or brackets: `a=1,b={c: 2, d: 3}` has two values."""
    pieces, depth = [""], 0
    for character in told:
        depth += (character in "{[") - (character in "}]")
        if character == separator and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces
