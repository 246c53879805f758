//! Compiles the C++ half of the bridge and hands its header to CMake.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Where CMake wants the generated header (`libgmem/detail/bridge.hpp` below it).
const GENERATED_INCLUDE_DIR: &str = "GMEM_GENERATED_INCLUDE_DIR";

fn main() -> io::Result<()> {
    check_page_source()?;
    cxx_build::CFG.include_prefix = "libgmem";
    cxx_build::bridge("src/bridge.rs").include("include").std("c++17").compile("gmem_bridge");

    println!("cargo:rerun-if-changed=src/bridge.rs");
    println!("cargo:rerun-if-changed=include/libgmem/detail/task.hpp");
    println!("cargo:rerun-if-env-changed={GENERATED_INCLUDE_DIR}");
    // The default device is compiled in: option_env! in src/device/mod.rs.
    println!("cargo:rerun-if-env-changed=GMEM_DEFAULT_DEVICE");
    if let Some(directory) = env::var_os(GENERATED_INCLUDE_DIR) {
        let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
        let header = PathBuf::from(directory).join("libgmem/detail/bridge.hpp");
        copy_if_different(&out.join("cxxbridge/include/libgmem/src/bridge.rs.h"), &header)?;
        // A build folder that was emptied gets it again.
        println!("cargo:rerun-if-changed={}", header.display());
    }
    Ok(())
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
