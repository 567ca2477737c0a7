"""Runs everything that makes the results, a row of ROWS on each task with each seed: `bash benchmarks.sh` calls it.

Only the standard library is needed. What a run starts from is made before it. Finished runs are skipped, and stopped
ones are resumed; what a run prints goes to logs/ in the folder of the runs. After a failure the other runs continue;
in the end what failed is listed with its log file, the finished runs are collected, and their tables are printed.
"""

import json
import os
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ".venv/bin/python"
TASKS = ["maze_fo", "maze_po", "text_nav_fo", "text_nav_po", "wordle", "chess", "endgames", "twenty_questions",
         "guess_city", "car_dealer"]
MAZES_AND_HOUSES = TASKS[:4]
DIALOGUES = TASKS[7:]

# experiment (`--exp-name`), script, flags, tasks: the tiny models, with the values that the scripts have for them
ROWS = [
    ("bc_maze", "bc_maze", "", TASKS),
    ("filtered_bc", "bc_maze", "--success-only", MAZES_AND_HOUSES),
    ("filtered_bc", "bc_maze", "--success-only --num-iterations 10", ["endgames"]),
    ("filtered_bc", "bc_maze", "--success-only --num-iterations 4", ["chess"]),
    ("filtered_bc", "bc_maze", "--top-fraction 0.3 --num-iterations 44", ["wordle"]),
    ("filtered_bc", "bc_maze", "--top-fraction 0.1", DIALOGUES),
    ("mc_twenty_questions", "mc_twenty_questions", "", TASKS),
    ("ilql_wordle", "ilql_wordle", "", TASKS),
    ("online_filtered_bc_text_nav", "online_filtered_bc_text_nav", "", TASKS),
    ("ppo_car_dealer", "ppo_car_dealer", "", TASKS),
    ("grpo_wordle", "grpo_wordle", "", [task for task in TASKS if task != "wordle"]),
    ("grpo_wordle", "grpo_wordle", "--num-iterations 160", ["wordle"]),
    ("archer_twenty_questions", "archer_twenty_questions", "", TASKS),
]
# The same with PROFILE=gpu. The others start from these runs and see that the model is not one of ours: they take the
# paper's values.
GPU_ROWS = [
    ("bc_maze", "bc_maze", "--model gpt2", TASKS[:7]),
    ("bc_maze", "bc_maze", "--model gpt2-medium", ["twenty_questions", "guess_city"]),
    ("bc_maze", "bc_maze", "--model gpt2-xl", ["car_dealer"]),
    ("filtered_bc", "bc_maze", "--success-only --model gpt2", [*MAZES_AND_HOUSES, "chess", "endgames"]),
    ("filtered_bc", "bc_maze", "--top-fraction 0.3 --model gpt2", ["wordle"]),
    ("filtered_bc", "bc_maze", "--top-fraction 0.1 --model gpt2-medium", ["twenty_questions", "guess_city"]),
    ("filtered_bc", "bc_maze", "--top-fraction 0.1 --model gpt2-xl", ["car_dealer"]),
    *[row for row in ROWS if row[1] != "bc_maze"],
]
START_FROM_FILTERED_BC = ["wordle", "twenty_questions", "guess_city"]  # elsewhere runs start from bc_maze
QUICK = ["bc_maze", "filtered_bc", "ilql_wordle", "ppo_car_dealer"]
EXPERIMENTS = list(dict.fromkeys(row[0] for row in ROWS))

# start: the name of the run that it starts from, or None
Job = namedtuple("Job", "name task experiment command start")


# --- What is to be run ---


def choose(words, profile, seeds):
    """The jobs that the words of the command line select, each after the one that it starts from.

    Exits with 2 if a word is neither a task nor an experiment.
    """
    tasks, experiments = [], []
    default_experiments, default_seeds = EXPERIMENTS, "1 2 3"
    for word in words:
        if word == "quick":
            tasks.append("maze_fo")
            default_experiments, default_seeds = QUICK, "1"
        elif word in TASKS:
            tasks.append(word)
        elif word in EXPERIMENTS:
            experiments.append(word)
        else:
            print(f"neither a task nor an experiment: {word}; bash benchmarks.sh --help", file=sys.stderr)
            sys.exit(2)
    tasks = list(dict.fromkeys(tasks)) or TASKS
    jobs = []
    for task in tasks:
        for seed in (seeds or default_seeds).split():
            jobs += jobs_of(task, seed, experiments or default_experiments, profile)
    return jobs


def jobs_of(task, seed, experiments, profile):
    """The jobs of a task and a seed: of these experiments, and of what they start from."""
    start = "filtered_bc" if task in START_FROM_FILTERED_BC else "bc_maze"
    is_made = {"bc_maze", "filtered_bc"}
    wanted = set(experiments)
    if wanted - is_made:
        wanted.add(start)
    jobs = []
    for experiment, script, flags, tasks in GPU_ROWS if profile == "gpu" else ROWS:
        if task in tasks and experiment in wanted:
            command = [PYTHON, f"algos/{script}.py", "--env-id", task, "--exp-name", experiment, "--seed", seed]
            starts_from = None if experiment in is_made else f"{task}__{start}__{seed}"
            name = f"{task}__{experiment}__{seed}"
            jobs.append(Job(name, task, experiment, command + flags.split(), starts_from))
    return jobs


def minutes_of(folder):
    """The minutes that a finished run took; None if the run is not finished."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return None
    for line in path.read_text(encoding="utf-8").splitlines():
        if '"test/episodic_return"' in line:
            return json.loads(line).get("charts/minutes", 0.0)
    return None


def known_minutes():
    """By (task, experiment): the minutes of a run of the committed results."""
    known = {}
    path = ROOT / "results" / "runs.jsonl"
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        line = json.loads(text)
        if line["model"] == "tiny":
            known[line["task"], line["experiment"]] = line["minutes"]
    return known


# --- Running ---


def find_devices():
    """The numbers of the GPUs that may be used; none without one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(listed.stdout.splitlines()))]


class Schedule:
    """The jobs and what has become of them. Several workers take jobs from it, each in a thread of its own."""

    def __init__(self, jobs, runs, num_workers, devices, known):
        self.jobs, self.runs, self.num_workers, self.devices, self.known = jobs, runs, num_workers, devices, known
        self.waiting = list(jobs)
        self.running = set()  # names
        self.finished = set()
        self.failed = {}  # name of the job: the reason
        self.changed = threading.Condition()

    def run(self):
        """Run all jobs; name those that have failed, and return how many there are."""
        workers = [threading.Thread(target=self.work, args=(number,)) for number in range(self.num_workers)]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:  # the scripts have got the signal as well
            with self.changed:
                self.waiting.clear()
            raise
        for name, reason in self.failed.items():
            print(f"failed: {name}: {reason}")
        return len(self.failed)

    def work(self, number):
        """Do one job after the other; with several GPUs, on this worker's."""
        environment = dict(os.environ, TQDM_DISABLE="1")  # no progress bars in the logs
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[number % len(self.devices)]
        elif self.num_workers > 1:
            threads = max(1, os.cpu_count() // self.num_workers)
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        while True:
            job = self.take()
            if job is None:
                return
            try:
                status = self.run_job(job, environment)
            except OSError as error:
                status = error
            with self.changed:
                self.done(job, status)
                self.changed.notify_all()

    def take(self):
        """The next job whose start is there; waits while it is being made. None if no job is left."""
        with self.changed:
            while self.waiting:
                for job in list(self.waiting):
                    if job.start in self.failed:
                        self.waiting.remove(job)
                        self.failed[job.name] = f"not started, since {job.start} has failed"
                    elif job.start is None or self.is_there(job.start):
                        self.waiting.remove(job)
                        self.running.add(job.name)
                        return job
                if self.waiting:
                    self.changed.wait()
            return None

    def is_there(self, name):
        """Whether the run is finished: here, or before."""
        return name in self.finished or name not in [job.name for job in self.jobs]

    def run_job(self, job, environment):
        """Run the job's script. Returns the exit status; None if the run was finished before."""
        folder = self.runs / job.name
        if minutes_of(folder) is not None:
            return None
        command = job.command + ["--resume"] * folder.is_dir()
        print(" ".join(command), flush=True)
        log = self.log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for line in process.stdout:
                file.write(line)
                file.flush()
                if self.num_workers == 1:  # of several, the lines would be mixed up
                    print(line.decode(errors="replace"), end="", flush=True)
            return process.wait()

    def log(self, job):
        """Where the job's output goes."""
        return self.runs / "logs" / f"{job.name}.log"

    def done(self, job, status):
        """Note how the job has ended, and print a line of progress."""
        self.running.remove(job.name)
        minutes = minutes_of(self.runs / job.name)
        if status or minutes is None:
            self.failed[job.name] = f"{status or 'no test'}, see {self.log(job)}"
            result = f"FAILED, see {self.log(job)}"
        else:
            self.finished.add(job.name)
            self.known[job.task, job.experiment] = minutes
            result = "finished before" if status is None else f"finished, {minutes:.1f} minutes"
        number = len(self.finished) + len(self.failed)
        print(f"# {number} of {len(self.jobs)}: {job.name}: {result}; {self.remaining()}", flush=True)

    def remaining(self):
        """How long the rest may take, by what the same rows have taken before."""
        left = [job for job in self.jobs if job in self.waiting or job.name in self.running]
        left = [job for job in left if minutes_of(self.runs / job.name) is None]
        minutes = [self.known.get((job.task, job.experiment)) for job in left]
        known = [value for value in minutes if value is not None]
        unknown = len(minutes) - len(known)
        text = f"about {sum(known) / self.num_workers:.0f} minutes remain"
        return text + (f", and {unknown} runs of unknown length" if unknown else "")


def main():
    """Run, or with DRY_RUN=1 print, what the command line and the environment ask for."""
    profile = os.environ.get("PROFILE") or "cpu"
    if profile not in ("cpu", "gpu"):
        print(f"PROFILE is cpu or gpu, not {profile}", file=sys.stderr)
        sys.exit(2)
    jobs = choose(sys.argv[1:], profile, os.environ.get("SEEDS"))
    runs = Path(os.environ.get("LMRL_RUNS") or "runs")
    collected = runs / "runs.jsonl"
    if profile == "gpu":
        runs = runs / "gpt2"
        os.environ["LMRL_RUNS"] = str(ROOT / runs)
    tasks = list(dict.fromkeys(job.task for job in jobs))
    collect = [PYTHON, "results/collect.py", "--runs", str(collected.parent), "--env-ids", *tasks]
    report = [PYTHON, "results/report.py", "--lines", str(collected), "--env-ids", *tasks]

    if os.environ.get("DRY_RUN"):
        setting = f"LMRL_RUNS={runs} " if profile == "gpu" else ""
        for job in jobs:
            folder = ROOT / runs / job.name
            if minutes_of(folder) is not None:
                print(f"# finished: {runs / job.name}")
            else:
                print(setting + " ".join(job.command + ["--resume"] * folder.is_dir()))
        print(" ".join(collect))
        print(" ".join(report))
        return

    devices = find_devices()
    num_workers = int(os.environ.get("WORKERS") or max(1, len(devices)))
    known = known_minutes() if profile == "cpu" else {}
    failed = Schedule(jobs, ROOT / runs, num_workers, devices, known).run()
    for command in (collect, report):
        failed += subprocess.run(command, cwd=ROOT).returncode != 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
