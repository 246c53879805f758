# SPDX-License-Identifier: Apache-2.0
"""Random inputs with new seeds: range calls, calls of malloc, and texts for the parsers, one third of the time each."""

import os
import random
import secrets
import time

import run

# Options of jemalloc that take other paths through the heap.
OPTIONS = ("narenas:1", "narenas:16", "percpu_arena:percpu", "percpu_arena:phycpu", "dirty_decay_ms:0", "dirty_decay_ms:-1",
           "muzzy_decay_ms:0", "background_thread:true", "tcache:false", "tcache_max:64", "tcache_max:65536",
           "tcache_nslots_small_max:1", "junk:true", "zero:true", "hpa:true", "metadata_thp:always", "thp:never", "retain:false",
           "oversize_threshold:1048576", "lg_extent_max_active_fit:0", "slab_sizes:1-4096:17", "xmalloc:true")


def _environment(**variables):
    return {**os.environ, **variables}


def ranges(program, seconds):
    """Calls on random mappings, beside a model."""
    seed = secrets.randbelow(1 << 32)
    run.step(f"range calls for {seconds} seconds, from seed {seed} on")
    run.command(program, "--seed", seed, "--seconds", seconds)


def malloc(program, seconds):
    """Blocks beside a model, under random settings of jemalloc."""
    seed = secrets.randbelow(1 << 32)
    run.step(f"calls of malloc for {seconds} seconds, from seed {seed} on")
    choose, end, sequences = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        settings = ",".join(choose.sample(OPTIONS, choose.randint(1, 3)))
        done = run.command(program, 4, seed + sequences, env=_environment(GMEM_MALLOC_CONF=settings), quiet=True, check=False)
        if done.returncode != 0:
            run.fail(f"{done.stdout}\nGMEM_MALLOC_CONF={settings} {program} 4 {seed + sequences}: status {done.returncode}")
        sequences += 4
    print(f"malloc: {sequences} sequences, no difference", flush=True)


def parsers(cargo, seconds):
    """Mangled texts for each parser (src/mangled.rs), all of them at the same time."""
    seed = secrets.randbelow(1 << 32)
    run.step(f"texts for the parsers for {seconds} seconds, from seed {seed} on")
    cargo("test", "--lib", "mangled", "--", "--test-threads=32",
          env=_environment(GMEM_FUZZ_SEED=str(seed), GMEM_FUZZ_SECONDS=str(seconds)))
