"""A run of the simulator whose requests are stated, not drawn from a mix."""

from collections.abc import Mapping, Sequence

from difs.simulation.scenario import Scenario, Wish
from difs.simulation.tables import Model
from difs.simulation.world import World


class Replay(World):
    """A run in which wish after wish comes, each at its time."""

    def __init__(
        self,
        scenario: Scenario,
        models: Mapping[str, Model],
        times: Sequence[float],
        wishes: Sequence[Wish],
    ) -> None:
        """See World; the scenario's own arrivals and mix are not used."""
        self._wishes = wishes
        super().__init__(scenario, models, times=times)

    def _wish(self, number: int) -> Wish:
        return self._wishes[number]
