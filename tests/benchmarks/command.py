"""`feedlab bench` in the process of the test."""

from click.testing import CliRunner, Result

from app.cli import main


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])
