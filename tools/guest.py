#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs one program in a virtual machine with three memory nodes (see virtual_machine.py).

usage: guest.py [--arch x86_64|aarch64] [--kernel 6.12|6.1|...] [--hugepages N] [--tiers] [--swap MIB] [--gmem] [--env NAME=VALUE]...
                [--file PATH=SOURCE]... [--timeout SECONDS] PROGRAM [ARGUMENT...]

--arch, --kernel  the machine (machines.py lists them)
--hugepages N  N pages of hugetlb on each node
--tiers        node 2 is a slower tier, to which the kernel demotes cold pages
--swap MIB     swap space
--gmem         the kernel behaves like openEuler's GMEM kernel (tests/standins/gmem_kernel)
--file         a further file in the guest

The program's output is printed, and its exit status is returned; 77, with the reason in the last line, where there can be no
such machine.
"""

import argparse
import pathlib
import sys

sys.dont_write_bytecode = True
import machines  # noqa: E402
import virtual_machine  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=machines.ARCHITECTURES, default="x86_64")
    parser.add_argument("--kernel", default="6.12")
    parser.add_argument("--hugepages", type=int, default=0)
    parser.add_argument("--tiers", action="store_true")
    parser.add_argument("--swap", type=int, metavar="MIB", default=0)
    parser.add_argument("--gmem", action="store_true")
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--file", metavar="PATH=SOURCE", action="append", default=[])
    parser.add_argument("--timeout", type=int, default=240)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    architecture = machines.ARCHITECTURES[args.arch]
    if args.kernel not in architecture.kernels:
        parser.error(f"--kernel is {args.kernel!r}; for {args.arch} it is one of {', '.join(architecture.kernels)}")
    machine = virtual_machine.Machine(args.kernel, architecture, args.tiers, args.gmem, args.hugepages, args.swap)
    files = tuple((path, pathlib.Path(source)) for path, source in (file.split("=", 1) for file in args.file))
    program = virtual_machine.Program(args.program.name, args.program, tuple(args.arguments), tuple(args.env), files)
    outcomes = []
    try:
        virtual_machine.run_programs(machine, [program], args.timeout, outcomes.append)
    except machines.Unavailable as why:
        print(f"guest: no virtual machine: {why}")
        sys.exit(77)
    print(outcomes[0].output, end="")
    sys.exit(outcomes[0].status)


main()
