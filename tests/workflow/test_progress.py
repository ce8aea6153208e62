"""One line a stage: what it says, how well it foresees the end, and that it never breaks a run."""

import heapq
import importlib
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from toy import TINY

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "lib"))
closing, forecast, progress = map(importlib.import_module, ("closing", "forecast", "progress"))
Job, Forecast = forecast.Job, forecast.Forecast


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def simulate(jobs, seconds, slots, look):
    """Run jobs side by side on a simulated clock; what was looked at after every end, and when."""
    state = Forecast(jobs, 0.0, slots)
    waiting, running, now, seen = list(jobs), [], 0.0, []
    ended = set()
    while waiting or running:
        for number in [one for one in waiting if jobs[one].needs <= ended]:
            if len(running) < slots:
                waiting.remove(number)
                heapq.heappush(running, (now + seconds[number], number))
                state.begin(number, now)
        now, number = heapq.heappop(running)
        state.finish(number, now)
        ended.add(number)
        seen.append((now, look(state, now)))
    return now, seen


def alike(number, expected, stage="train", first=0, needs=frozenset()):
    return {first + k: Job(stage, str(k), 1, expected, needs=needs) for k in range(number)}


@pytest.mark.parametrize("slots", [1, 2, 16])
@pytest.mark.parametrize("expected", [1.0, 10.0, 100.0])
def test_half_way_the_time_left_is_right_to_a_fifth(slots, expected):
    rng = np.random.default_rng(0)
    number = 40 + 10 * slots
    seconds = dict(enumerate(10 * rng.uniform(0.7, 1.3, number)))
    end, seen = simulate(alike(number, expected), seconds, slots, Forecast.left)
    middle = [(left, end - now) for now, left in seen if 0.4 * end < now < 0.6 * end]
    assert len(middle) > 5
    assert all(left == pytest.approx(truth, rel=0.2) for left, truth in middle)


def test_a_faster_machine_is_noticed_by_stages_that_have_not_begun():
    jobs = alike(20, 60.0) | alike(20, 30.0, "spectra", first=20)
    seconds = {number: 6.0 if number < 20 else 3.0 for number in jobs}
    end, seen = simulate(jobs, seconds, 2, Forecast.left)
    now, left = seen[3]
    assert left == pytest.approx(end - now, rel=0.2)


def test_before_anything_has_ended_it_is_what_others_took():
    state = Forecast(alike(10, 20.0), 0.0, 4)
    assert state.left(0.0) == pytest.approx(10 * 20 / 4)
    state.begin(0, 0.0)
    assert state.left(15.0) == pytest.approx((10 * 20 - 15) / 4)


def test_one_after_another_is_not_faster_on_more_cores():
    jobs = {k: Job("chain", str(k), 1, 10.0, needs=frozenset({k - 1} - {-1})) for k in range(5)}
    assert Forecast(jobs, 0.0, 16).left(0.0) == pytest.approx(50)


def test_a_stage_has_its_own_pace_and_no_more_left_than_the_run():
    jobs = alike(4, 10.0) | alike(4, 10.0, "spectra", first=4)
    stages = []

    def look(state, now):
        stages.append((now, state.stage_left("train", now)))
        assert stages[-1][1] <= state.left(now)

    simulate(jobs, dict.fromkeys(jobs, 10.0), 2, look)
    now, left = stages[1]
    assert (now, left) == (10.0, pytest.approx(10))


def test_members_of_a_group_do_not_count_twice():
    """On a cluster they begin and end together: ten groups of five, two groups at a time."""
    jobs = {k: Job("figure", str(k), 1, 4.0) for k in range(50)}
    state = Forecast(jobs, 0.0)
    for pair in range(3):
        for k in range(10 * pair, 10 * pair + 10):
            state.begin(k, 20.0 * pair)
        for k in range(10 * pair, 10 * pair + 10):
            state.finish(k, 20.0 * pair + 20)
    assert state.left(60.0) == pytest.approx(40)


def test_what_rests_on_a_failed_job_is_not_waited_for():
    jobs = alike(1, 10.0) | alike(3, 10.0, "spectra", first=1, needs=frozenset({0}))
    state = Forecast(jobs, 0.0, 1)
    state.begin(0, 0.0)
    state.fail(0)
    assert state.left(5.0) == 0
    state.begin(0, 5.0)  # again
    assert state.left(5.0) == pytest.approx(40)


# ------------------------------------------------------------------------------------ what is shown


def board(jobs, clock, live=False):
    said = io.StringIO()
    console = Console(file=said, width=80, force_terminal=live, _environ={})
    return progress.Board(Forecast(jobs, 0.0, 2), console, live, clock), said


def test_where_lines_stay_a_stage_has_two_and_a_few_between(tmp_path):
    clock, log = Clock(), tmp_path / "train.log"
    jobs = alike(3, 40.0) | {3: Job("joint moments", "", 1, 5.0, needs=frozenset({0, 1, 2}))}
    jobs[0].log = str(log)
    shown, said = board(jobs, clock)
    for number in (0, 1, 2):
        shown.begin(number)
        log.write_text(f"train sigmoid {number}: part 6 of 9, 31 s left\nan unfinished line")
        for _ in range(39):
            clock.now += 1
            shown.tick()
        clock.now += 1
        shown.finish(number)
    shown.begin(3)
    clock.now += 4
    shown.tick()
    shown.finish(3)
    assert said.getvalue().splitlines() == [
        "0:00:00 in all        0 of 4      2 stages, about 1 min",
        "0:00:00 train         0 of 3      begins, 1 min left",
        "0:00:30 train         0 of 3      0: part 6 of 9; 1 min 30 s left; 1 min 40 s left in all",
        "0:01:00 train         1 of 3      1; 1 min left; 1 min left in all",
        "0:01:30 train         2 of 3      2; 30 s left; 35 s left in all",
        "0:02:00 train         3 of 3      done, 40 s each; 5 s left in all",
        "0:02:00 joint moments 0 of 1      begins, 5 s left",
        "0:02:04 joint moments 1 of 1      done in 4 s",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_no_line_is_longer_than_it(width, monkeypatch):
    clock = Clock()
    shown, said = board({0: Job("x" * 21, "y" * 200, 1, 1e6)}, clock, live=True)
    shown.console.width = width
    shown.begin(0)
    clock.now = 1e5
    shown.tick()
    shown.close()
    for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.getvalue()).splitlines():
        assert len(line) <= width
        assert "left" in line or not line.strip()


class Planned:
    """As much of a job of Snakemake as is looked at."""

    def __init__(self, number, rule, log="", **wildcards):
        self.number, self.wildcards_dict = number, wildcards
        self.rule = SimpleNamespace(name=rule)
        self.output, self.log, self.threads = ["file"], [log], 1


class Dag:
    """The same of a plan of jobs that need nothing."""

    def __init__(self, *jobs):
        self.jobs = {job.number: job for job in jobs}

    def needrun_jobs(self):
        return self.jobs.values()

    def toposorted(self, jobs):
        return [jobs]

    def jobid(self, job):
        return job.number

    @property
    def dependencies(self):
        return {job: () for job in self.jobs.values()}


PEAKS = {"train": (1000, 45), "toy": (300, 10)}


class Run:
    """A run that is followed, by records as Snakemake logs them."""

    def __init__(self, monkeypatch, *jobs, **settings):
        self.terminal = io.StringIO()
        monkeypatch.setattr(sys, "stderr", self.terminal)
        self.logger = logging.getLogger("snakemake.logging")
        own = logging.StreamHandler(self.terminal)
        own.name = "DefaultStreamHandler"
        monkeypatch.setattr(self.logger, "handlers", [own])
        monkeypatch.setattr(self.logger, "level", logging.INFO)
        asked = {"dryrun": False, "verbose": False, "printshellcmds": False, "quiet": None}
        workflow = SimpleNamespace(
            is_main_process=True,
            dag=Dag(*jobs),
            output_settings=SimpleNamespace(**asked | {"nocolor": False} | settings),
        )
        self.follower = progress.follow(workflow, PEAKS, lambda: ["where the report is"])

    def log(self, event=None, text="of Snakemake", level=logging.INFO, **more):
        self.logger.log(level, text, extra=({"event": event} if event else {}) | more)

    def start(self):
        self.log("workflow_started")
        self.log("resources_info", cores=2)
        self.log("run_info")

    def begin(self, number, indent=False):
        self.log("job_info", jobid=number, indent=indent)

    def fail(self, number, indent=False, **more):
        self.log("job_error", level=logging.ERROR, jobid=number, indent=indent, **more)

    @property
    def said(self):
        return self.terminal.getvalue().splitlines()


@pytest.fixture
def run(monkeypatch):
    runs = []

    def make(*jobs, **settings):
        runs.append(Run(monkeypatch, *jobs, **settings))
        return runs[-1]

    yield make
    for one in runs:
        if one.follower:
            one.follower.close()


def test_snakemake_is_silent_and_heard(run):
    one = run(
        Planned(0, "train", network="sigmoid", replicate=0),
        Planned(1, "experiment", experiment="toy", replicate=0),
    )
    one.start()
    for number in (0, 1):
        one.begin(number)
        one.log("job_finished", job_id=number)
    one.log("progress", done=2, total=2)
    one.log(text="a warning", level=logging.WARNING)
    one.follower.end()
    assert [line[8:] for line in one.said] == [
        "in all         0 of 2      2 stages, about 45 s",
        "train          0 of 1      begins, 45 s left",
        "train          1 of 1      done in 0 s; 0 s left in all",
        "toy experiment 0 of 1      begins, 0 s left",
        "toy experiment 1 of 1      done in 0 s",
        "g",
    ]
    assert one.follower.done() == "done: 2 jobs in 0 s"


def test_a_users_mistake_is_one_line(run, tmp_path):
    log = tmp_path / "train.log"
    one = run(Planned(0, "train", str(log), network="sigmoid"))
    one.start()
    one.begin(0)
    log.write_text(
        "train sigmoid: begins\nerror: train sigmoid: x.nc: is no file; mend it\nerror: cut"
    )
    one.log("error", "RuleException:\nCalledProcessError in file x", logging.ERROR)
    one.fail(0, rule_msg=None, log=[str(log)])
    one.log(text="Exiting because a job execution failed. Look above", level=logging.ERROR)
    assert one.said[2:] == ["error: train sigmoid: x.nc: is no file; mend it"]
    assert one.follower.stopped() == (
        "stopped after 0 s: 0 of 1 jobs are done and kept; mend what is said above, and run the "
        "same again"
    )


def test_another_failure_says_where_to_look_and_a_second_attempt_that_it_is_one(run, tmp_path):
    log = tmp_path / "train.log"
    one = run(Planned(0, "train", str(log), network="sigmoid"))
    one.start()
    one.begin(0)
    one.fail(0, rule_msg=None, log=[str(log)])
    one.begin(0)
    log.write_text("Traceback\nRuntimeError: out of luck\n")
    one.fail(0, rule_msg=None, log=[str(log)])
    one.begin(0)
    one.fail(0, rule_msg="SLURM status is: OUT_OF_MEMORY", log=[str(log), "slurm.log"])
    one.begin(0)
    one.log("job_finished", job_id=0)
    assert one.said[2:7] == [
        f"failed: train sigmoid: it ended without a word; see {log}",
        "again: train sigmoid",
        f"failed: train sigmoid: RuntimeError: out of luck; see {log}",
        "again: train sigmoid",
        f"failed: train sigmoid: SLURM status is: OUT_OF_MEMORY; see {log}, slurm.log",
    ]


def test_a_group_that_fails_is_one_line_and_its_mistakes(run, tmp_path):
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    one = run(*(Planned(k, "train", str(log), replicate=k) for k, log in enumerate(logs)))
    one.start()
    for _ in range(2):
        for number in range(3):
            one.begin(number, indent=True)
        logs[1].write_text("error: train 1: there is no GPU; ask for one\n")
        info = [{"jobid": number} for number in range(3)]
        one.log("group_error", level=logging.ERROR, job_error_info=info, aux_logs=["slurm.log"])
        for number in range(3):
            one.fail(number, indent=True, rule_msg=None, log=[str(logs[number])])
    lines = [
        "failed: a group of 3 jobs; see slurm.log",
        "error: train 1: there is no GPU; ask for one",
    ]
    assert one.said[2:] == 2 * lines


def test_jobs_that_ctrl_c_ends_have_not_failed(run):
    one = run(Planned(0, "train", network="sigmoid"), Planned(1, "train", network="relu"))
    one.start()
    for number in (0, 1):
        one.begin(number)
    one.log("job_finished", job_id=0)
    one.log(text="Terminating processes on user request, this might take some time.")
    one.fail(1, rule_msg=None, log=["train.log"])
    assert "Terminating" in one.said[-1]
    assert one.follower.stopped() == (
        "stopped after 0 s: 1 of 2 jobs are done and kept; run the same again"
    )


def test_where_nothing_is_to_be_done_the_results_are_named(run):
    one = run()
    one.log("workflow_started")
    one.log(text="Nothing to be done (all requested files are present and up to date).")
    assert one.said[1:] == ["where the report is"]


@pytest.mark.parametrize(
    "event",
    [
        {"event": "job_info"},  # without the number of the job
        {"event": "job_error", "jobid": 0, "rule_msg": None},  # without its logs
    ],
)
def test_other_events_than_expected_give_the_word_back_to_snakemake(run, event):
    one = run(Planned(0, "train", network="sigmoid"))
    one.start()
    one.log(**event)
    assert not one.follower.active
    one.log("job_finished", "Finished jobid: 0", job_id=0)
    assert one.said[-1] == "Finished jobid: 0"


def test_a_plan_that_is_not_understood_leaves_snakemake_its_word(run):
    one = run(Planned(0, "a rule of another workflow"))
    one.start()
    one.log("job_info", "rule of another workflow", jobid=0)
    assert one.said[-1] == "rule of another workflow"


@pytest.mark.parametrize(
    "settings",
    [
        {"dryrun": True},
        {"verbose": True},
        {"printshellcmds": True},
        {"quiet": [SimpleNamespace(name="PROGRESS")]},
    ],
)
def test_snakemake_keeps_its_word_where_it_is_asked_for(run, settings):
    one = run(Planned(0, "train", network="sigmoid"), **settings)
    assert one.follower is None
    one.log("job_info", "rule train:", jobid=0)
    assert one.said == ["rule train:"]


# ---------------------------------------------------------------------------------------- real runs


@pytest.mark.workflow
def test_the_terminal_of_the_study(finished):
    """Two lines a stage, one each half minute, no block of Snakemake's, and what was found."""
    lines = (finished.root / "terminal.txt").read_text().splitlines()
    assert not [line for line in lines if re.match(r"\s*(local)?rule |\s+input: |\[", line)]
    timed = [line for line in lines if re.match(r"\d+:\d\d:\d\d ", line)]
    first = re.search(r" 0 of (\d+) +(\d+) stages?, about ", timed[0])
    jobs, stages = map(int, first.groups())
    begun, ended = (
        [match[1] for line in timed if (match := re.match(rf"\S+ (.+?) +\d+ of \d+ +{how}", line))]
        for how in ("begins, ", "done(,| in) ")
    )
    assert len(begun) == len(set(begun)) == stages
    assert sorted(begun) == sorted(ended)
    hours, minutes, seconds = map(int, timed[-1].split()[0].split(":"))
    between = (3600 * hours + 60 * minutes + seconds) // 30
    assert len(timed) <= 1 + 2 * stages + between
    assert all(" left" in line for line in timed[1:-1])
    end = lines[lines.index(timed[-1]) + 1 :]
    assert re.fullmatch(f"done: {jobs} jobs in .*", end[1])
    content = json.loads((finished.results / "headlines.json").read_text())["headlines"]
    assert len(content) == 5
    assert len(lines) <= len(timed) + 20
    text = " ".join(" ".join(end).split())
    for one in content:
        assert f"{one['title']} {one['value']}" in text
    for path in ("paper/report.pdf", "explorer.html"):
        assert f"{TINY['results']}/{path}" in text
    assert "snakemake --report results/tiny/report.html --configfile tiny.yaml" in text
    assert all(len(line) <= 80 for line in end)


@pytest.mark.workflow
def test_a_run_without_work_says_the_same(finished):
    run = finished.snakemake("--cores", "1")
    assert run.returncode == 0, run.stderr[-4000:]
    assert "Nothing to be done" in run.stderr
    assert "results/tiny/paper/report.pdf" in run.stderr


@pytest.mark.workflow
def test_a_failing_job_is_one_line(finished):
    path = finished.results / "networks" / "sigmoid" / "0" / "comparison.nc"
    target = "results/tiny/summaries/sigmoid.nc"
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    run = finished.snakemake(target, "--cores", "1")
    path.write_bytes(content)
    again = finished.snakemake(target, "--cores", "1")
    assert run.returncode == 1
    assert again.returncode == 0
    said = [line for line in run.stderr.splitlines() if "comparison.nc" in line]
    (line,) = said
    assert line.startswith(
        "error: summary sigmoid: results/tiny/networks/sigmoid/0/comparison.nc: "
    )
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("stopped after ")
    assert again.stderr.splitlines()[-1] == f"  {target}"


@pytest.mark.workflow
def test_on_a_terminal_lines_are_redrawn_and_it_is_left_clean(finished):
    target = finished.results / "paper" / "tex-version.txt"
    target.unlink()
    leader, follower = pty.openpty()
    with subprocess.Popen(
        ["snakemake", "results/tiny/paper/tex-version.txt", "--cores=1", "--configfile=tiny.yaml"],
        cwd=finished.root,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TERM": "xterm",
            "COLUMNS": "80",
        },
    ) as run:
        os.close(follower)
        said = read_all(leader)
    assert run.returncode == 0, said
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1  # the cursor is hidden and shown
    drawn, after = said.split("\x1b[?25h")
    assert "in all" in drawn
    assert "so far" in drawn
    assert "tex 1 of 1 done in" in " ".join(drawn.split())
    assert "in all" not in after
    assert "results/tiny/paper/tex-version.txt" in after


def read_all(terminal):
    parts = []
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how a terminal ends on Linux
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


@pytest.mark.workflow
def test_the_claims_are_counted_as_in_the_report(finished):
    page = (finished.results / "paper" / "report.tex").read_text()
    total, *counts = map(
        int,
        re.search(
            r"Of (\d+) claims that we could put to a test, (\d+) are reproduced in every "
            r"replicate, (\d+) are not, and (\d+) are corrected",
            page,
        ).groups(),
    )
    content = json.loads((finished.results / "headlines.json").read_text())["headlines"][0]
    assert list(content["numbers"].values()) == counts
    assert sum(counts) == total
