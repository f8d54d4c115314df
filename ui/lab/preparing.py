"""From the form to a sweep, what it costs, and what stands in its way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chats.errors import UserError
from chats.models.choices import ModelChoice
from chats.sweeps.config import SweepConfig
from chats.sweeps.plan import Cost, cost
from chats.sweeps.store import SweepStore
from ui.compare.values import find_model
from ui.forms.checking import check
from ui.lab.form import LabForm
from ui.services import Services

NO_PAIR = (
    "α steers what CHATS does with a preference pair, and this model has none. Train one in Train, "
    "or start the program with --pair FOLDER."
)


@dataclass(frozen=True)
class PreparedSweep:
    """A sweep that can be made, or all that is wrong with it."""

    config: SweepConfig | None
    problems: Mapping[str, str] = field(default_factory=dict)
    obstacle: str = ""
    """What no setting is at."""
    cost: Cost | None = None
    seconds: float | None = None
    """About how long it takes; none if nothing like it was made before."""
    num_done: int = 0
    """Pictures that are there from an earlier start."""

    @property
    def all_problems(self) -> str:
        """Everything that is wrong, a line for each."""
        lines = [f"{name}: {text}" if name else text for name, text in self.problems.items()]
        return "\n".join([*([self.obstacle] if self.obstacle else []), *lines])


def prepare(
    services: Services, form: LabForm, inputs: Mapping[str, Any], *, model: str
) -> PreparedSweep:
    """Judge what a form says."""
    settings, problems = form.settings.read(inputs)
    try:
        chosen = find_model(model, services.models())
    except UserError as error:
        return PreparedSweep(None, problems, str(error))
    checked = check(
        SweepConfig,
        form.settings.groups,
        {**settings, "model": chosen.name, "pair": chosen.pair},
        choices=form.choices,
    )
    obstacle = "" if chosen.has_pair else NO_PAIR
    problems = {**checked.problems, **problems}
    if problems or checked.config is None:
        return PreparedSweep(None, problems, obstacle)
    return _counted(services.lab.store, checked.config, chosen, obstacle=obstacle)


def _counted(
    store: SweepStore, config: SweepConfig, model: ModelChoice, *, obstacle: str
) -> PreparedSweep:
    found = cost(config, default_num_steps=model.num_steps)
    pace = store.seconds_per_prediction(config)
    num_done = store.num_done(config)
    left = 1 - num_done / config.num_pictures
    seconds = None if pace is None else pace * found.num_predictions * left
    return PreparedSweep(config, obstacle=obstacle, cost=found, seconds=seconds, num_done=num_done)
