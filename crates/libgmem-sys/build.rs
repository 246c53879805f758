//! Builds libgmem with its own CMakeLists.txt, installs it below OUT_DIR, and links the shared library.
//!
//! The core is Rust as well, but Cargo must not link it into a Rust program: the core needs a standard library,
//! a panic hook and an allocator of its own. The shared library keeps them to itself.

use std::path::Path;
use std::{env, io};

/// What libgmem is built from, relative to its folder.
const SOURCES: [&str; 8] =
    [".cargo", "CMakeLists.txt", "Cargo.lock", "Cargo.toml", "cmake", "cpp", "include", "src"];

/// CMake options of the same names.
const OPTIONS: [&str; 3] = ["LIBGMEM_CARGO_OFFLINE", "LIBGMEM_CARGO_TARGET_DIR", "LIBGMEM_DEVICE"];

fn main() -> io::Result<()> {
    let package = variable("CARGO_MANIFEST_DIR")?;
    let source = Path::new(&package).ancestors().nth(2).unwrap_or(Path::new("/"));
    if !source.join("CMakeLists.txt").is_file() {
        return Err(io::Error::other(format!(
            "{} does not hold libgmem's sources: depend on libgmem-sys by path or by git, \
             so that the whole repository is there",
            source.display()
        )));
    }
    for path in SOURCES {
        println!("cargo::rerun-if-changed={}", source.join(path).display());
    }

    let mut libgmem = cmake::Config::new(source);
    libgmem
        // Always optimised: an unoptimised malloc would slow every debug build of a program.
        .profile("Release")
        // The flags that CMake itself would take. Other ones, as the crate adds by itself, would compile the core
        // again in a shared LIBGMEM_CARGO_TARGET_DIR.
        .define("CMAKE_C_FLAGS", env::var_os("CFLAGS").unwrap_or_default())
        .define("CMAKE_CXX_FLAGS", env::var_os("CXXFLAGS").unwrap_or_default())
        .define("CMAKE_INSTALL_LIBDIR", "lib")
        .define("LIBGMEM_CARGO", variable("CARGO")?)
        .define("LIBGMEM_RUST_TARGET", variable("TARGET")?)
        .define("LIBGMEM_INSTALL", "ON");
    for part in ["TESTS", "EXAMPLES", "BENCHES"] {
        libgmem.define(format!("LIBGMEM_BUILD_{part}"), "OFF");
    }
    for option in OPTIONS {
        println!("cargo::rerun-if-env-changed={option}");
        if let Some(value) = env::var_os(option) {
            libgmem.define(option, value);
        }
    }
    let prefix = libgmem.build();

    let library = if env::var_os("CARGO_FEATURE_MALLOC").is_some() { "gmem" } else { "gmem_api" };
    println!("cargo::rustc-link-search=native={}", prefix.join("lib").display());
    println!("cargo::rustc-link-lib=dylib={library}");
    // For the build scripts of direct dependents: DEP_GMEM_INCLUDE, DEP_GMEM_LIB and DEP_GMEM_ROOT.
    println!("cargo::metadata=include={}", prefix.join("include").display());
    println!("cargo::metadata=lib={}", prefix.join("lib").display());
    Ok(())
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| {
        io::Error::other(format!("{name}: {error}; Cargo sets it for build scripts"))
    })
}
