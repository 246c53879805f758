# SPDX-License-Identifier: Apache-2.0
"""The tests of a build folder as commands, to run them in other ways than ctest does."""

import collections
import json
import subprocess

Test = collections.namedtuple("Test", "name command environment seconds")


def listed(build, pattern):
    """The tests whose names match a regular expression."""
    found = subprocess.run(["ctest", "--show-only=json-v1", "-R", pattern], cwd=build, check=True, capture_output=True, text=True)
    for test in json.loads(found.stdout)["tests"]:
        properties = {one["name"]: one["value"] for one in test["properties"]}
        if "command" in test and not properties.get("DISABLED", False):
            environment = dict(one.split("=", 1) for one in properties.get("ENVIRONMENT", []))
            yield Test(test["name"], test["command"], environment, float(properties.get("TIMEOUT", 300)))
