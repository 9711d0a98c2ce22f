"""The directives of a chapter: a line that begins with `::` asks for something that is read or measured.

    ::diagram NAME        a picture (app/walkthrough/drawing.py)
    ::listing DOTTED      the real source, without imports; ::aside DOTTED folded away
    ::above DOTTED        where a piece of it stands, which a listing above has shown
    ::phases              what each waits for and keeps
    ::costs PHASE         its claims in commands, from its row
    ::pain EXPERIMENT     what the phase before costs, in the recorded run
    ::checks EXPERIMENT WORD   the checks of the recorded run that begin with the word
    ::question WORDS      a question; its answer is the text up to the next directive

The Markdown is ours, HTML and all. Text from somewhere else is escaped.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from app.walkthrough.costs import ACTIONS, example
from app.walkthrough.drawing import Drawing, chart_drawing, diagram
from app.walkthrough.experiments import EXPERIMENTS
from app.walkthrough.result import Check, Result, figure, recorded
from app.walkthrough.source import Listing, listing
from phases import PHASES


def expanded(text: str) -> str:
    """Return the text with its directives replaced.

    Raises KeyError for an unknown directive, and what a directive raises.
    """
    before, *rest = re.split(r"^::(\w+) ?(.*)\n", text, flags=re.MULTILINE)
    directives = zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    blocks = [before]
    for kind, what, after in directives:
        blocks += [_folded(what, after)] if kind == "question" else [DIRECTIVES[kind](what), after]
    return "\n\n".join(filter(None, (block.strip("\n") for block in blocks)))


def escaped(text: str) -> str:
    r"""Return text from elsewhere as Markdown that shows it: `a|b` -> `a\|b`."""
    return re.sub(r"([\\`*\[\]<>&|])", r"\\\1", text)


def _diagram(name: str) -> str:
    return _image(name, diagram(name))


def _image(name: str, drawing: Drawing) -> str:
    return f"![{escaped(drawing.about)}]({name}.svg)"


def _listing(dotted: str) -> str:
    return _code(listing(dotted))


def _aside(dotted: str) -> str:
    one = listing(dotted)
    named = f"`{one.name}`" if one.name else f"`{one.path}`"
    return _folded(f"{named}, {one.code.count(chr(10))} lines", _code(one))


def _above(dotted: str) -> str:
    one = listing(dotted)
    return f"`{one.name}` is shown [above](#the-code), in {_link(one)}."


def _code(one: Listing) -> str:
    """Return a listing as Markdown, with a link to its file, where the imports are."""
    where = f"`{one.name}` in {_link(one)}:" if one.name else f"{_link(one)}, without its imports:"
    return f"{where}\n\n```python\n{one.code}```"


def _link(one: Listing) -> str:
    return f"[{one.path}](../../{one.path}#L{one.first_line})"


def _folded(words: str, text: str) -> str:
    """Return Markdown for a question whose answer is folded away. Only code is marked up in the question itself."""
    summary = re.sub("`([^`]+)`", r"<code>\1</code>", words)
    return f"<details><summary>{summary}</summary>\n\n{text.strip()}\n\n</details>"


def _phases(_: str) -> str:
    rows = [
        (f"{n} `{one.slug}`", one.poster_waits, one.reader_waits, one.kept_where) for n, one in enumerate(PHASES, 1)
    ]
    return _table(("Phase", "The poster waits for", "The reader waits for", "Kept"), *rows)


def _costs(slug: str) -> str:
    phase = {phase.slug: phase for phase in PHASES}[slug]
    rows = [(ACTIONS[claim.action], claim.words, example(phase, claim)) for claim in phase.costs]
    return _table(("What", "Commands", "For example"), *rows)


def _table(*rows: tuple[str, ...]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def _pain(slug: str) -> str:
    """Return what the phase before costs, in the recorded run; older recordings have no such sentence."""
    pain, below = recorded(slug).result.pain, "[The experiment](#measure-it) measures this, and its cure."
    return f"> {escaped(pain)}\n\n{below}" if pain else below


def _checks(what: str) -> str:
    """Return the recorded run's checks that begin with the word. Raises LookupError where there is none."""
    slug, word = what.split()
    found = [check for check in recorded(slug).result.checks if check.what.startswith(f"{word}: ")]
    if not found:
        raise LookupError(f"{slug} finds nothing of {word}")
    return _checked("In the recorded run", found)


def _checked(head: str, checks: Iterable[Check]) -> str:
    doubt = {True: "", False: " **Not as this chapter says.**"}
    rows = [(escaped(check.what), escaped(check.found) + doubt[check.as_told]) for check in checks]
    return _table((head, "Found"), *rows)


DIRECTIVES: dict[str, Callable[[str], str]] = {
    "diagram": _diagram,
    "listing": _listing,
    "aside": _aside,
    "above": _above,
    "phases": _phases,
    "costs": _costs,
    "pain": _pain,
    "checks": _checks,
}


def charts(slug: str, result: Result) -> dict[str, Drawing]:
    """Return the charts of a result, by the names that `findings` gives them."""
    return {f"measured-{slug}-{n}": chart_drawing(chart) for n, chart in enumerate(result.charts, 1)}


def findings(slug: str, when: str, values: Mapping[str, int], result: Result) -> str:
    """Return what an experiment found, as Markdown. `when`: when and where it was measured."""
    return "\n\n".join(_findings(slug, when, values, result))


def beside_the_recorded(slug: str, result: Result) -> str:
    """Return a run and the recorded one, in one table of what both have."""
    run = recorded(slug)
    theirs = dict(_figures(run.result))
    rows = [(escaped(name), here, theirs[name]) for name, here in _figures(result) if name in theirs]
    told = f"Recorded on {run.when}, on {run.where} ({_knobs(slug, run.values)}). In brackets: the middle half of runs."
    return "\n\n".join(
        [
            f"**Your run beside the recorded one.** {escaped(told)}",
            f"> {escaped(' '.join(filter(None, (run.result.pain, run.result.sentence))))}",
            *([_table(("What", "Here", "Recorded"), *rows)] if rows else []),
        ]
    )


def _figures(result: Result) -> Iterator[tuple[str, str]]:
    for chart in result.charts:
        for bar in chart.bars:
            series = chart.series[bar.series : bar.series + 1]
            yield ", ".join((chart.title, bar.label, *series)), f"{figure(bar)} {chart.unit}".strip()


def _knobs(slug: str, values: Mapping[str, int]) -> str:
    knobs = (f"{knob.label.lower()}: {values[knob.name]:,} {knob.unit}".strip() for knob in EXPERIMENTS[slug].knobs)
    return "; ".join(knobs)


def _findings(slug: str, when: str, values: Mapping[str, int], result: Result) -> Iterator[str]:
    yield f"{escaped(when)} ({_knobs(slug, values)}):"
    if result.meaningless:
        yield "**Measured on stand-ins inside this process: the times mean nothing, the answers below do.**"
    yield "\n>\n".join(f"> {escaped(words)}" for words in (result.pain, result.sentence) if words)
    if result.charts:
        yield "\n".join(_image(name, drawing) for name, drawing in charts(slug, result).items())
    if result.checks:
        yield _checked("Whatever the machine", result.checks)


def recorded_findings(slug: str, told: str) -> str:
    """Return the findings of the recorded run, as Markdown, without those that the text before them has `told`."""
    run = recorded(slug)
    pain, checks = run.result.pain, run.result.checks
    new = {
        "pain": "" if escaped(pain) in told else pain,
        "checks": tuple(check for check in checks if escaped(check.what) not in told),
    }
    return findings(slug, f"Recorded on {run.when}, on {run.where}", run.values, run.result.model_copy(update=new))
