# SPDX-License-Identifier: Apache-2.0
"""Conan recipe of libgmem: in this folder, `conan create .` builds the package and its test package.

The build runs cargo, which takes the crates from its registry or cache; in the source archive they are vendored.
"""

import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir

# What the build reads.
SOURCES = (".cargo/*", "Cargo.*", "CMakeLists.txt", "LICENSE", "README.md", "cmake/*", "cpp/*", "docs/man/*", "include/*",
           "src/*", "tests/panic/boundary.rs", "vendor/*")


class Libgmem(ConanFile):
    name = "libgmem"
    license = "Apache-2.0"
    description = "Memory shared by a CPU and its accelerators: prefetch, eager free and a huge-page heap"
    topics = ("memory", "allocator", "numa", "accelerator")
    package_type = "shared-library"
    settings = "os", "arch", "compiler", "build_type"
    # Empty: the build's own default.
    options = {"device": ["", "ANY"]}
    default_options = {"device": ""}

    def _root(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        self.version = re.search(r'^version = "(.*)"$', load(self, os.path.join(self._root(), "Cargo.toml")), re.M)[1]

    def export_sources(self):
        for pattern in SOURCES:
            copy(self, pattern, self._root(), self.export_sources_folder)

    def validate(self):
        if self.settings.os != "Linux":
            raise ConanInvalidConfiguration(f"libgmem is for Linux, and this profile is for {self.settings.os}")

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "EXAMPLES", "BENCHES"):
            toolchain.cache_variables[f"LIBGMEM_BUILD_{part}"] = False
        if self.options.device:
            toolchain.cache_variables["LIBGMEM_DEVICE"] = str(self.options.device)
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()
        rmdir(self, os.path.join(self.package_folder, "lib", "pkgconfig"))

    def package_info(self):
        # Users get the targets of libgmem's own CMake package, which is found by a component's folder.
        self.cpp_info.set_property("cmake_find_mode", "none")
        # Other generators: a component for each flavour, with the names of the files for pkg-config.
        for component, library in {"libgmem": "gmem", "api": "gmem_api", "static": "gmem_static"}.items():
            part = self.cpp_info.components[component]
            part.libs = [library]
            part.builddirs = [os.path.join("lib", "cmake", "libgmem")]
            part.set_property("pkg_config_name", "libgmem" if component == "libgmem" else f"libgmem-{component}")
            part.system_libs = ["pthread", "dl", "m"]
        self.cpp_info.components["static"].exelinkflags = ["-Wl,--undefined=malloc"]
        self.cpp_info.components["static"].system_libs.append("stdc++")
