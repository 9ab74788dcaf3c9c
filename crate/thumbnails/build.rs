//! Bounds the memory of the module for browsers.

/// Bytes: a decoder's memory ([`Limits`](src/lib.rs)), the file, and what is made of it.
const MEMORY: u32 = 256 << 20;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        println!("cargo::rustc-cdylib-link-arg=--max-memory={MEMORY}");
    }
}
