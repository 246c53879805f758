//! Compiles the C++ half of the bridge and leaves its header where CMake finds it.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    check_page_source()?;
    generate_heap_constants()?;
    cxx_build::CFG.include_prefix = "libgmem";
    cxx_build::bridge("src/bridge.rs").include("include").std("c++17").compile("gmem_bridge");
    println!("cargo:rerun-if-changed=src/bridge.rs");
    println!("cargo:rerun-if-changed=include/libgmem/detail/task.hpp");

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let header = profile_dir(&out)?.join("include/libgmem/detail/bridge.hpp");
    copy_if_different(&out.join("cxxbridge/include/libgmem/src/bridge.rs.h"), &header)?;
    // Made again if it was deleted.
    println!("cargo:rerun-if-changed={}", header.display());
    Ok(())
}

/// Cargo's folder for this target and profile, which holds `build/<package>/out`. The header lies there, not in a folder
/// that the environment names: then every build folder of CMake with the same Cargo folder shares one compiled core.
fn profile_dir(out: &Path) -> io::Result<&Path> {
    let build = out.ancestors().find(|folder| folder.ends_with("build"));
    build.and_then(Path::parent).ok_or_else(|| {
        io::Error::other(format!("OUT_DIR is {}, which is not below Cargo's build/", out.display()))
    })
}

/// Without the renaming, jemalloc would take its pages from the kernel directly. That must not go unnoticed.
fn check_page_source() -> io::Result<()> {
    let target = env::var("TARGET").map_err(io::Error::other)?;
    // The name by which jemalloc's build script reads its preprocessor flags.
    let variable = format!("{}_CPPFLAGS", target.to_uppercase().replace('-', "_"));
    println!("cargo:rerun-if-env-changed={variable}");
    let flags = env::var(&variable).unwrap_or_default();
    if flags.contains("-Dmmap=gmem_pages_mmap") {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{variable} is {flags:?} and does not rename jemalloc's mmap; unset it and run cargo in libgmem's folder, \
         whose .cargo/config.toml sets it (a target that is not in that file has to be added there)"
    )))
}

/// Keeps the time stamp when nothing changed, so that no C++ is compiled again.
/// `#define GMEM_HEAP_NAME 1` in the header that the C and C++ sides read becomes `pub const NAME: usize = 1;`.
fn generate_heap_constants() -> io::Result<()> {
    const HEADER: &str = "cpp/heap_constants.h";
    println!("cargo:rerun-if-changed={HEADER}");
    let mut constants = String::new();
    for line in fs::read_to_string(HEADER)?.lines() {
        let Some((name, value)) =
            line.strip_prefix("#define GMEM_HEAP_").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let what = format!("`GMEM_HEAP_{name}` of `{HEADER}`.");
        constants += &format!("/// {what}\npub const {name}: usize = {value};\n");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    fs::write(out.join("heap_constants.rs"), constants)
}

/// Leaves the time stamp alone when nothing changed, so that C++ is not rebuilt for nothing.
fn copy_if_different(from: &Path, to: &Path) -> io::Result<()> {
    let new = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(to, new)
}
