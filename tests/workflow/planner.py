"""Plan configurations by Snakemake, one after the other in one process: a second is then enough.

``python planner.py CONFIGURATIONS PLANS``, in a copy of the project: a JSON file with a list of
whole configurations, and one to write the jobs of each plan into, by rule.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    Quietness,
    ResourceSettings,
)


def plan(config: dict[str, Any]) -> Counter[str]:
    """Number of jobs by rule, of the whole study, as ``snakemake --dry-run`` plans it."""
    output = OutputSettings(dryrun=True, quiet={Quietness.ALL})
    with SnakemakeApi(output) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(config=config, replace_workflow_config=True),
            snakefile=Path("Snakefile"),
        )
        workflow.dag(dag_settings=DAGSettings()).execute_workflow(executor="dryrun")
        return Counter(job.rule.name for job in workflow._workflow.dag.jobs)


if __name__ == "__main__":
    configurations, plans = map(Path, sys.argv[1:])
    found = [plan(config) for config in json.loads(configurations.read_text())]
    plans.write_text(json.dumps(found))
