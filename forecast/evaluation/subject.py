"""What is audited: a configuration, or a run with what it forecasts and trades.

Opening it executes nothing that only a run's folder asks for, unless it is allowed by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forecast.config import ForecastError
from forecast.models.choice import states_positions
from forecast.prices import load_prices
from forecast.prices.frame import Prices
from forecast.run import Run, load_run


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is audited.

    Attributes
    ----------
    config : mapping
        The configuration that was given, or that of the run.
    run : Run, optional
        That trained or scored; of a portfolio, the one it traded.
    portfolio : Run, optional
        That traded.
    prices : Prices, optional
        None until they are loaded, and where nothing was done but to score given tables.
    """

    config: Mapping[str, Any]
    run: Run | None = None
    portfolio: Run | None = None
    prices: Prices | None = None

    @property
    def named(self) -> Run | None:
        """The run that was asked for."""
        return self.portfolio or self.run

    @property
    def trained(self) -> bool:
        """Whether networks were, or are to be, trained; else tables were given."""
        return "head" in self.config

    @property
    def positions(self) -> bool:
        """Whether the networks state positions."""
        return self.trained and states_positions(self.config)

    @property
    def rules(self) -> Mapping[str, Mapping[str, Any]]:
        """The strategy's rules, by label."""
        return dict(self.config.get("strategy", {}).get("rules", {}))

    @property
    def networks(self) -> list[str]:
        """Models of the run that are somebody's own, not baselines."""
        if self.run is None:
            return [self.config["model"]["cell"]]
        return list(self.run.metrics.get("networks") or [self.config["model"]["cell"]])

    def with_prices(self) -> Subject:
        """The same with the prices that it was made of, or is to be, where any are needed."""
        if not self.trained and not self.rules:
            return self
        return replace(self, prices=load_prices(self.config["data"]))


def prices_of(run: Run, *, in_memory: bool | None = None) -> Prices:
    """The prices of a run; of a source that went on, as far as the run has seen them.

    Parameters
    ----------
    in_memory : None: they lie where the run's lay.
    """
    section, data = run.config["data"], run.data
    if in_memory is not None:
        section = {**section, "in_memory": in_memory}
    prices = load_prices(section)
    if prices.sha256 != data["sha256"] and section.get("end") is None:
        prices = load_prices({**section, "end": data["dates"]["last"]})
    return prices


def open_subject(
    config: Mapping[str, Any], run: str | None, *, outputs: str, allow: Sequence[str]
) -> Subject:
    """Read a run, or take the configuration; without prices yet.

    Parameters
    ----------
    run : name or path; None for the configuration itself.
    allow : dotted names of own parts of the run that may be executed.

    Raises
    ------
    ForecastError
        There is no such run, the one that a portfolio traded is gone, or the run uses code of
        somebody's own that is not in `allow`.
    """
    subject = Subject(config=config)
    if run is not None:
        found = load_run(run, outputs, allow=allow)
        subject = Subject(config=found.config, run=found)
        if "source_run" in found.data:
            name = found.data["source_run"]
            source = load_run(name, found.path.parent, allow=allow) if name else None
            subject = replace(subject, run=source, portfolio=found)
        rules = [str(entry.get("rule")) for entry in subject.rules.values()]
        executed = subject.config if subject.trained or subject.rules else {}
        require_own(executed, found.name, allow, option="audit.allow", others=rules)
    return subject


def require_own(
    config: Mapping[str, Any],
    name: str,
    allow: Sequence[str],
    *,
    option: str,
    others: Sequence[str] = (),
) -> None:
    """Refuse to execute what only a run's folder asks for.

    Parameters
    ----------
    config : mapping
        Of the run.
    name : str
        The run's.
    option : str
        By which a user allows it.
    others : sequence of str
        Dotted names of what else would be executed.
    """
    asked = list(others)
    if "head" in config:
        asked = [*config["features"]["own"], str(config["head"]["name"]), *asked]
    asked = [part for part in asked if "." in part]
    if "data" in config:
        source = str(config["data"]["_target_"])
        asked += [] if source.startswith("forecast.prices.") else [source]
    for part in asked:
        if part not in allow:
            raise ForecastError(
                f"{name} uses {part}, which this command would execute. If you trust it: "
                f"{option}=[{','.join(asked)}]."
            )
