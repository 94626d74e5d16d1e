//! Parses whatever libFuzzer makes up, with the body that the tests of `litekeep-format` run as well.
//! `cargo +nightly fuzz run any_bytes` in `format`.
#![no_main]

#[path = "../../tests/it/any_bytes.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::any_bytes(data));
