"""Record the experiments on servers of their own: `python -m app.walkthrough.recording [SLUG ...]`, all without a slug.

The machine has to be at rest.
"""

import asyncio
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from app.config import Config
from app.servers.borrow import running_servers
from app.walkthrough.experiments import EXPERIMENTS
from app.walkthrough.laboratory import run_once
from app.walkthrough.result import MEASURED


def main() -> None:
    config, named = Config(), sys.argv[1:] or list(EXPERIMENTS)
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    origin = {"where": machine, "when": f"{datetime.now(UTC):%Y-%m-%d}"}
    measured = json.loads(MEASURED.read_text("utf-8"))
    with TemporaryDirectory() as directory, running_servers(Path(directory), config) as addresses:
        for slug in named:
            experiment = EXPERIMENTS[slug]
            values = experiment.values({})
            result = asyncio.run(run_once(addresses, config, experiment, values))
            measured["results"][slug] = origin | {"values": values, "result": result.model_dump()}
            sys.stdout.write(f"{slug}: {result.sentence}\n")
    MEASURED.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
