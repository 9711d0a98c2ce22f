"""One page in several phases, as the followees grow: a chapter's pain and its cure are measured alike."""

from collections.abc import Mapping, Sequence

from bson import ObjectId

from app.walkthrough.lab import Lab, in_turn
from app.walkthrough.result import Bar, Chart, Check, Sample
from phases import PHASES
from phases.base import Phase

FOLLOWEES = (10, 100, 1_000)
FEW_FOLLOWEES = (10, 50)  # on stand-ins
HISTORY = 10  # statuses of each followee
ROUNDS, FEW_ROUNDS = 9, 2
LIMIT = 20
WARMED = 10  # reads at most, until what is kept is there

Pages = Mapping[tuple[str, int], Sample]  # by phase and followees


async def pages(lab: Lab, phases: Sequence[Phase]) -> tuple[Pages, list[Check]]:
    """Return the milliseconds of a page, for a reader who was here just now, by phase and number of followees."""
    counts = FOLLOWEES if lab.real else FEW_FOLLOWEES
    lab.say(f"Writing {HISTORY} statuses of {counts[-1]:,} people")
    authors = [lab.person() for _ in range(counts[-1])]
    await lab.history(authors, HISTORY)
    readers = {n: lab.person() for n in counts}
    for n, reader in readers.items():
        await lab.insert("follows", [{"_id": ObjectId(), "follower": reader, "followee": one} for one in authors[:n]])

    async def page(slug: str, n: int) -> str:
        return (await lab.timelines.page(readers[n], phase=slug, limit=LIMIT)).source

    try:
        warm = [await _warmed(lab, phase, reader) for phase in phases if phase.keeps for reader in readers.values()]
        lab.say(f"Reading pages in phases {', '.join(phase.slug for phase in phases)}")
        works = {(p.slug, n): lambda p=p, n=n: page(p.slug, n) for p in phases for n in counts}
        samples = await in_turn(works, ROUNDS if lab.real else FEW_ROUNDS)
        asked = {n: [await page_ids(lab, phase, reader) for phase in phases] for n, reader in readers.items()}
    finally:
        await lab.forget_lists(list(readers.values()))
    same = all(page == pages[0] for pages in asked.values() for page in pages)
    check = Check(
        what="The pages that were timed: from what is kept, and the same in each phase?",
        found=f"{'yes' if all(warm) else 'no'}, and {'yes' if same else 'no'}",
        as_told=all(warm) and same,
    )
    return samples, [check]


async def page_ids(lab: Lab, phase: Phase, reader: ObjectId) -> list[ObjectId]:
    return [row.id for row in (await lab.timelines.page(reader, phase=phase.slug, limit=LIMIT)).statuses]


async def _warmed(lab: Lab, phase: Phase, reader: ObjectId) -> bool:
    for _ in range(WARMED):
        if (await lab.timelines.page(reader, phase=phase.slug, limit=LIMIT)).source == "list":
            return True
    return False


def pages_chart(samples: Pages) -> Chart:
    slugs = list(dict.fromkeys(slug for slug, _ in samples))
    counts = list(dict.fromkeys(n for _, n in samples))
    bars: list[Bar] = [
        samples[slug, n].bar(f"{n:,} followees", series) for n in counts for series, slug in enumerate(slugs)
    ]
    return Chart(title=f"One page of {LIMIT}", unit="ms", bars=tuple(bars), series=tuple(map(numbered, slugs)))


def numbered(slug: str) -> str:
    return f"phase {1 + [phase.slug for phase in PHASES].index(slug)}"
