//! Compiles the C++ half against the headers that libgmem-sys installed.

use std::env;

fn main() {
    let include = env::var("DEP_GMEM_INCLUDE").expect("libgmem-sys says where its headers are");
    let lib = env::var("DEP_GMEM_LIB").expect("libgmem-sys says where its library is");
    println!("cargo::rerun-if-changed=src/scale.cpp");
    cc::Build::new().cpp(true).std("c++17").include(include).file("src/scale.cpp").compile("scale");
    // The program then finds the library without LD_LIBRARY_PATH.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}
