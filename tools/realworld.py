#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs programs that nobody here wrote, without libgmem and with it preloaded, and compares what comes out.

usage: realworld.py LIBGMEM_SO [PATTERN] [--short] [--work FOLDER]

A program's exit statuses, its results and its messages have to be the same in both runs; what holds times is left
out. Each program has a function here, called once per run; what it needs beside itself lies in tools/realworld/.
The ratios (libgmem over without, of one run each) are for information: nothing depends on them.

That the library was in use is checked, too: each process says so as it ends (GMEM_STATS=1), or, where a program
reads the messages of its children, /proc has it among the mappings.

Exit status: 0 if nothing differs, 1 if something does, 77 if all that was asked for is skipped.
"""

import argparse
import dataclasses
import difflib
import hashlib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

# No .pyc files in the source tree.
sys.dont_write_bytecode = True

import run  # noqa: E402
import setup  # noqa: E402

INPUTS = pathlib.Path(__file__).resolve().parent / "realworld"
# As printed, or as git hands on the messages of a process at the other end.
STATS = re.compile(rb"(?:remote: )?libgmem: heap: [^\n]*\n")
# Seconds that one command may take: far more than any does, so that whoever waits for ever is noticed.
PATIENCE = {True: 120, False: 1200}


class Skip(Exception):
    """The program cannot be had, or fails by itself; says why."""


class Failed(Exception):
    """A run cannot go on; says what has happened."""


@dataclasses.dataclass
class Started:
    name: str
    process: subprocess.Popen
    began: float
    prefix: pathlib.Path
    stats: bool
    seen: bool = False


class Use:
    """One run of a program: what it costs and what comes out. library is None for the run without."""

    def __init__(self, library, folder, short):
        self.library = library
        self.folder = folder
        self.short = short
        self.results = []
        self.started = []
        self.wall = self.cpu = 0.0
        self.counted = 0.0  # until when, because processes run side by side
        self.peak = 0  # KiB, of the largest process
        self.heap = 0.0  # MiB in memory of the largest heap, as its process ended; small if its malloc is another
        self.witnesses = 0  # processes that are known to have had the library
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def note(self, *lines):
        """Something that has to be the same in both runs."""
        self.results += [str(line) for line in lines]

    def start(self, name, *words, stdin=None, executable=None, stats=True):
        env = {key: value for key, value in os.environ.items()
               if key not in ("LD_PRELOAD", "PYTHONPATH", "GMEM_STATS") and not key.startswith("GIT_")}
        env |= {"HOME": str(self.folder), "LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1",
                **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
                   for what, value in (("NAME", "A. N. Other"), ("EMAIL", "other@example.com"))}}
        if self.library:
            env["LD_PRELOAD"] = str(self.library)
            if stats:
                env["GMEM_STATS"] = "1"
        prefix = self.folder / f"{name}.{len(self.results)}"
        with open(f"{prefix}.out", "wb") as out, open(f"{prefix}.err", "wb") as err:
            process = subprocess.Popen(
                [str(word) for word in words], executable=executable, cwd=self.folder, env=env, stdout=out, stderr=err,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL, start_new_session=True)
        started = Started(name, process, time.monotonic(), prefix, stats)
        self.started.append(started)
        if stdin is not None:
            try:
                process.stdin.write(stdin)
                process.stdin.close()
            except BrokenPipeError:
                pass  # its status says more
        return started

    def _wait(self, started):
        """The exit status and what the process used, with its children."""
        pid = started.process.pid
        while True:
            gone = time.monotonic() - started.began
            if self.library and not started.seen and not started.stats:
                started.seen = maps(pid, self.library)
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                started.process.returncode = os.waitstatus_to_exitcode(status)
                return started.process.returncode, usage
            if gone > PATIENCE[self.short]:
                raise Failed(f"{started.name} had not ended after {PATIENCE[self.short]} s\n{backtraces(pid)}")
            time.sleep(min(0.001 + gone / 100, 0.05))

    def finish(self, started, messages=True, may_fail=False):
        """Wait for a process; returns what it printed. messages: whether stderr has to be the same."""
        status, usage = self._wait(started)
        now = time.monotonic()
        self.wall += now - max(started.began, self.counted)
        self.counted = now
        self.cpu += usage.ru_utime + usage.ru_stime
        self.peak = max(self.peak, usage.ru_maxrss)
        err = pathlib.Path(f"{started.prefix}.err").read_bytes()
        said = STATS.findall(err)
        err = STATS.sub(b"", err).decode(errors="replace").replace(str(self.folder), "FOLDER")
        if self.library:
            if status == 0 and not said and not started.seen:
                raise Failed(f"{started.name} ran without the library, though LD_PRELOAD named it: is it a static or a"
                             f" setuid program?\n{err}")
            self.witnesses += len(said) or int(started.seen)
            self.heap = max([self.heap, *(float(mib) for mib in re.findall(rb"resident ([0-9.]+)", b"".join(said)))])
        self.note(f"{started.name}: {ended(status)}")
        if messages:
            self.note(*err.splitlines())
        if status != 0 and not may_fail:
            raise Failed(f"{started.name}: {ended(status)}\n{err}")
        return pathlib.Path(f"{started.prefix}.out").read_text(errors="replace")

    def still_runs(self, started):
        if os.waitid(os.P_PID, started.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self.finish(started)
            raise Failed(f"{started.name} has ended by itself")

    def close(self):
        """End what is still running: they do not get the terminal's interrupt."""
        for started in self.started:
            if started.process.returncode is None:
                os.killpg(started.process.pid, signal.SIGKILL)
                started.process.wait()

    def run(self, name, *words, stdin=None, stats=True, **how):
        return self.finish(self.start(name, *words, stdin=stdin, stats=stats), **how)


def maps(pid, library):
    try:
        return str(library) in pathlib.Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def ended(status):
    return f"exit status {status}" if status >= 0 else f"died of {signal.Signals(-status).name}"


def backtraces(pid):
    """Where the threads of a process that hangs are."""
    if shutil.which("gdb") is None:
        return "(with gdb installed, the stacks of its threads would follow)"
    done = subprocess.run(["gdb", "-batch", "-p", str(pid), "-ex", "thread apply all bt 12"], text=True,
                          capture_output=True, check=False)
    return "\n".join(line for line in done.stdout.splitlines() if re.match(r"#|Thread", line))


def need(program, package):
    """The path of a program, from the distribution if it is missing."""
    found = setup.tool(program)
    if found is None and setup.apt(package):
        found = setup.tool(program)
    if found is None:
        raise Skip(f"no {program} here: apt-get install {package}")
    return found


# ---- CPython's own tests ------------------------------------------------------------------------------

def python_with_tests(module):
    """An interpreter that has its test suite, which distributions pack apart."""
    def has(python):
        probe = f"import test.{module}, test.libregrtest, sys; assert sys.version_info >= (3, 9); print(sys.executable)"
        done = subprocess.run([python, "-c", probe], text=True, capture_output=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    candidates = [path for path in (sys.executable, setup.tool("python3"), "/usr/bin/python3") if path]
    found = next(filter(None, map(has, candidates)), None)
    if found is None and os.path.exists("/usr/bin/python3"):
        version = subprocess.run(["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                                 text=True, capture_output=True, check=True).stdout.strip()
        found = setup.apt(f"libpython{version}-testsuite") and has("/usr/bin/python3")
    if not found:
        raise Skip("no Python here has its test suite: apt-get install libpython3.11-testsuite (your version's)")
    return found


def python(module, *short_options):
    def program(use):
        report = use.folder / "report.xml"
        # Its tests look at what their children say, so those must not print statistics.
        said = use.run(module, python_with_tests(module), "-m", "test", "--junit-xml", report, module,
                       *(short_options if use.short else []), stats=False, messages=False, may_fail=True)
        if not report.exists():
            raise Failed(f"{module} ended early: {use.results[-1]}\n{said[-2000:]}")
        cases = list(xml.etree.ElementTree.parse(report).getroot().iter("testcase"))
        # A test that fails without the library may fail with it, not otherwise.
        use.note(*sorted(f"{case.get('name')}: {next((child.tag for child in case if 'system' not in child.tag), 'ok')}"
                         for case in cases), f"{len(cases)} tests")
        return f"{len(cases)} tests"
    return program


# ---- Redis --------------------------------------------------------------------------------------------

def redis(use):
    """A server and its benchmark, with a background save (a fork that reads the whole heap) meanwhile."""
    client, benchmark = need("redis-cli", "redis-tools"), need("redis-benchmark", "redis-tools")
    # The server's package starts one for the whole machine. The same program, which looks at the name that it is
    # called by, is in the tools' package.
    program = setup.tool("redis-server") or need("redis-check-rdb", "redis-tools")
    socket = use.folder / "socket"

    def serve():
        server = use.start("server", "redis-server", "--port", "0", "--unixsocket", "socket", "--save", "",
                           "--appendonly", "no", "--enable-debug-command", "local", "--activerehashing", "yes",
                           executable=program)
        for _ in range(500):
            if socket.exists() and ask("PING") == "PONG":
                return server
            use.still_runs(server)
            time.sleep(0.02)
        raise Failed("redis-server did not answer within 10 s")

    def ask(*words):
        # Without the library and outside the count: these are the questions of the test.
        done = subprocess.run([client, "-s", "socket", *map(str, words)], cwd=use.folder, text=True,
                              capture_output=True, check=False)
        return done.stdout.strip()

    def saved():
        for _ in range(3000):
            use.still_runs(server)
            info = ask("INFO", "persistence")
            if "rdb_bgsave_in_progress:0" in info:
                return re.search(r"rdb_last_bgsave_status:(\w+)", info)[1]
            time.sleep(0.02)
        raise Failed("BGSAVE did not end within 60 s")

    def digest():
        # The benchmark's own keys are random; these are not.
        return [ask("DEBUG", "DIGEST-VALUE", *(f"own:{kind}:{index}" for index in range(50)))
                for kind in ("text", "list", "hash", "set", "sorted", "stream")]

    server = serve()
    use.run("fill", client, "-s", "socket", "--pipe", stdin=redis_commands(), messages=False)
    requests = 20000 if use.short else 200000
    load = use.start("benchmark", benchmark, "-s", "socket", "-q", "-n", requests, "-r", 50000, "-d", 300, "-P", 16,
                     "-t", "set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset")
    time.sleep(0.3)
    use.note(ask("BGSAVE"), saved())
    use.finish(load)
    use.note(*digest(), ask("LLEN", "mylist"))
    # The server asks the jemalloc that it was made for, which has nothing to do now.
    use.note(ask("MEMORY", "PURGE"))
    use.note(ask("BGSAVE"), saved())
    # The benchmark's keys are random: what is walked over is what is counted.
    use.note(ask("DBSIZE") == ask("EVAL", "return #redis.call('KEYS', '*')", 0))
    ask("SHUTDOWN", "NOSAVE")
    use.finish(server)
    server = serve()
    use.note(*digest(), ask("LLEN", "mylist"))
    ask("SHUTDOWN", "NOSAVE")
    use.finish(server)
    return f"{requests} requests of a kind"


def redis_commands():
    """Keys of each type, in Redis's protocol."""
    rng = random.Random(1)
    text = bytearray()

    def command(*words):
        text.extend(b"*%d\r\n" % len(words))
        for word in (str(word).encode() for word in words):
            text.extend(b"$%d\r\n%s\r\n" % (len(word), word))
    for index in range(50):
        command("SET", f"own:text:{index}", "x" * rng.randrange(1 << rng.randrange(4, 18)))
        for item in range(200):
            size = rng.randrange(200)
            command("RPUSH", f"own:list:{index}", "l" * size)
            command("HSET", f"own:hash:{index}", item, "h" * size)
            command("SADD", f"own:set:{index}", "s" * size)
            command("ZADD", f"own:sorted:{index}", size, "z" * rng.randrange(200))
            command("XADD", f"own:stream:{index}", f"{item + 1}-1", "field", "f" * size)
    return text


def digest_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# ---- the others ---------------------------------------------------------------------------------------

def sqlite3(use):
    program = need("sqlite3", "sqlite3")
    rows = 50000 if use.short else 200000
    text = (INPUTS / "sqlite3.sql").read_bytes().replace(b"200000", str(rows).encode())
    use.note(*use.run("sqlite3", program, "-batch", "data.db", stdin=text).splitlines())
    use.note(digest_of(use.folder / "data.db"))
    return f"{rows} rows"


def compiler(use):
    """Compiles, links, and runs; the object file is the same byte for byte."""
    program = need("g++", "g++")
    instances, options = (1, ["-O0"]) if use.short else (12, ["-O2", "-g"])
    # A relative name: the folder's must not get into the object file.
    shutil.copy(INPUTS / "compiler.cpp", use.folder / "compiler.cpp")
    use.run("compile", program, "-std=c++17", *options, f"-DINSTANCES={instances}", f"-ffile-prefix-map={use.folder}=.",
            "-gno-record-gcc-switches", "-c", "compiler.cpp", "-o", "compiler.o")
    use.note("object file: " + digest_of(use.folder / "compiler.o"))
    use.run("link", program, "compiler.o", "-o", "compiled", "-pthread")
    use.note(use.run("compiled", "./compiled"))
    return f"{instances} instances, {' '.join(options)}"


def git(use):
    program = need("git", "git")
    commits = 30 if use.short else 400
    # Our own sources, which are wherever this is.
    use.note(*use.run("git", need("sh", "dash"), INPUTS / "git.sh", setup.ROOT / "src", commits).splitlines())
    version = subprocess.run([program, "--version"], text=True, capture_output=True, check=True).stdout.split()[2]
    return f"{commits} commits, git {version}"


def z3(use):
    program = need("z3", "z3")
    problems = z3_problems(holes=7 if use.short else 9)
    for name, problem in problems.items():
        (use.folder / f"{name}.smt2").write_text(problem)
        use.note(*use.run(name, program, "-smt2", f"{name}.smt2").splitlines())
    # Several threads: which model they find, and how soon, is chance; whether there is one is not.
    use.note(use.run("parallel", program, "parallel.enable=true", "-smt2", "factors.smt2").splitlines()[0])
    return ", ".join(problems)


def z3_problems(holes):
    """SMT-LIB texts for different parts of the solver; each further hole makes the first ten times as hard."""
    pigeons = [f"(declare-const p{i}_{j} Bool)" for i in range(holes + 1) for j in range(holes)]
    pigeons += [f"(assert (or {' '.join(f'p{i}_{j}' for j in range(holes))}))" for i in range(holes + 1)]
    pigeons += [f"(assert (not (and p{a}_{j} p{b}_{j})))"
                for j in range(holes) for a in range(holes + 1) for b in range(a)]
    factors = ["(declare-const a (_ BitVec 32))", "(declare-const b (_ BitVec 32))",
               f"(assert (= (bvmul a b) (_ bv{40009 * 50021} 32)))", "(assert (bvult a b))",
               "(assert (bvult b #x00010000))", "(assert (bvugt a #x00000001))"]
    rng = random.Random(7)
    integers = [f"(declare-const x{i} Int)\n(assert (<= 0 x{i} 50))" for i in range(14)]
    integers += ["(assert (= (+ " + " ".join(f"(* {rng.randrange(1, 99)} x{i})" for i in range(14)) + f") {total}))"
                 for total in (5003, 6007, 7001)]
    arrays = ["(declare-const m (Array Int Int))", *(f"(declare-const i{k} Int)" for k in range(9)),
              f"(assert (distinct {' '.join(f'i{k}' for k in range(9))}))"]
    there = back = "m"
    for k in range(9):
        there, back = f"(store {there} i{k} {k})", f"(store {back} i{8 - k} {8 - k})"
    arrays.append(f"(assert (not (= {there} {back})))")
    texts = {"pigeons": (pigeons, False), "factors": (factors, True), "integers": (integers, True),
             "arrays": (arrays, False)}
    return {name: "\n".join(lines + ["(check-sat)"] + ["(get-model)"] * satisfiable) + "\n"
            for name, (lines, satisfiable) in texts.items()}


def node(use):
    program = need("node", "nodejs")
    workers, rounds = (2, 300) if use.short else (4, 4000)
    use.note(*use.run("node", program, INPUTS / "node.js", workers, rounds).splitlines())
    return f"{workers} workers"


PROGRAMS = {
    "python_json": python("test_json"),
    "python_threading": python("test_threading", "-m", "LockTests", "-m", "ThreadTests"),
    "python_mmap": python("test_mmap"),
    "python_multiprocessing": python("test_multiprocessing_fork", "-m", "WithProcessesTestProcess"),
    "redis": redis,
    "sqlite3": sqlite3,
    "compiler": compiler,
    "git": git,
    "z3": z3,
    "node": node,
}


# ---- comparing ----------------------------------------------------------------------------------------

def compare(name, library, work, short):
    """Run it both ways and print its line; returns what is wrong, or None."""
    program = PROGRAMS[name]
    without = Use(None, work / name / "without", short)
    try:
        what = program(without)
    except Failed as why:
        raise Skip(f"it fails without libgmem, too: {why}") from why
    finally:
        without.close()
    loaded = Use(library, work / name / "libgmem", short)
    trouble = None
    try:
        program(loaded)
    except Failed as why:
        trouble = str(why)
    else:
        if loaded.results != without.results:
            lines = list(difflib.unified_diff(without.results, loaded.results, "without", "libgmem", lineterm="", n=1))
            trouble = "\n".join(["the results differ:", *(line[:200] for line in lines[:60]),
                                 *([f"({len(lines) - 60} more lines)"] if len(lines) > 60 else [])])
    finally:
        loaded.close()
    # The kernel counts what this Python had when it started a process as that process's peak.
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = f"{loaded.peak / without.peak:8.2f}x" if min(loaded.peak, without.peak) > floor else f"{'-':>9}"
    heap = f", heap {loaded.heap:.0f} MiB" if loaded.heap else ""
    size = f"{without.peak >> 10:5}" if without.peak > floor else f" <{floor >> 10:3}"
    print(f"{name:24}{'FAILED' if trouble else 'same':8}{loaded.wall / without.wall:7.2f}x"
          f"{loaded.cpu / max(without.cpu, 0.001):7.2f}x{peak}  {without.wall:6.1f} s {size} MiB  {what};"
          f" libgmem in {loaded.witnesses} processes{heap}", flush=True)
    if trouble is None:
        shutil.rmtree(work / name)
        return None
    return f"{trouble}\nall output: {work / name}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=pathlib.Path, metavar="LIBGMEM_SO")
    parser.add_argument("pattern", nargs="?", default="", help="only programs whose name this expression matches")
    parser.add_argument("--short", action="store_true", help="less of each, for ./dev test")
    parser.add_argument("--work", type=pathlib.Path, default=setup.ROOT / "build" / "realworld")
    args = parser.parse_args()
    if not args.library.exists():
        run.fail(f"no library {args.library}: ./dev build makes it, as build/Release/libgmem.so")
    names = [name for name in PROGRAMS if re.search(args.pattern, name)]
    if not names:
        run.fail(f"no program matches {args.pattern!r}; they are {', '.join(PROGRAMS)}")

    print(f"{'':24}{'':8}{'wall':>8}{'CPU':>8}{'peak RSS':>9}   without libgmem: wall, peak", flush=True)
    failed, skipped = {}, {}
    for name in names:
        try:
            trouble = compare(name, args.library.resolve(), args.work.resolve(), args.short)
        except Skip as why:
            skipped[name] = " ".join(str(why).split())
            print(f"{name:24}skipped: {skipped[name]}", flush=True)
        else:
            if trouble:
                failed[name] = trouble
                print(trouble, flush=True)
    print(f"{len(names) - len(failed) - len(skipped)} the same, {len(failed)} failed, {len(skipped)} skipped")
    if failed:
        sys.exit(1)
    if len(skipped) == len(names):
        # The last line is the reason, for the summary of ./dev test.
        print("; ".join(skipped.values()))
        sys.exit(77)


try:
    main()
except KeyboardInterrupt:
    sys.exit(130)
