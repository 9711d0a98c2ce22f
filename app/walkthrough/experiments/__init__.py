"""The experiments of the walkthrough, one a chapter, in story order."""

from app.walkthrough.experiments.base import Experiment
from app.walkthrough.experiments.e0_index import MissingIndex
from app.walkthrough.experiments.e1_cliff import Cliff
from app.walkthrough.experiments.e2_fan_out import FanOut
from app.walkthrough.experiments.e3_acknowledged import Acknowledged
from app.walkthrough.experiments.e4_active import ActiveShare
from app.walkthrough.experiments.e5_told import Told
from app.walkthrough.experiments.e6_celebrity import Celebrity
from app.walkthrough.experiments.e7_live import Pushed
from app.walkthrough.experiments.e8_conversations import Once

EXPERIMENTS: dict[str, Experiment] = {
    each.slug: each
    for each in (
        MissingIndex(),
        Cliff(),
        FanOut(),
        Acknowledged(),
        ActiveShare(),
        Told(),
        Celebrity(),
        Pushed(),
        Once(),
    )
}
