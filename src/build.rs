//! Compiles the C++ half of the bridge and hands its header to CMake.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Where CMake wants the generated header (`libgmem/detail/bridge.hpp` below it).
const GENERATED_INCLUDE_DIR: &str = "GMEM_GENERATED_INCLUDE_DIR";

fn main() -> io::Result<()> {
    check_page_source()?;
    generate_heap_constants()?;
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

/// Without the renaming the heap would work, but on pages of its own: better no build than that.
fn check_page_source() -> io::Result<()> {
    println!("cargo:rerun-if-env-changed=CPPFLAGS");
    let flags = env::var("CPPFLAGS").unwrap_or_default();
    if flags.contains("-Dmmap=gmem_pages_mmap") {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "CPPFLAGS is {flags:?} and does not rename jemalloc's mmap; \
         run cargo below the folder with libgmem's .cargo/config.toml, which sets it"
    )))
}

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
