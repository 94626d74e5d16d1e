//! glibc's memory allocator, set for a process that must stay small.
//!
//! By default glibc gives each busy thread an arena of its own and keeps in it what was freed. A thousand databases that
//! start one after the other on a pool of threads leave 184 MB behind that way; with two arenas, and with buffers from
//! 64 KiB on given back at once, it is 108 MB.

#![allow(unsafe_code)] // mallopt has no safe form in std

/// Arenas for all threads together.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// Bytes from which on an allocation is a mapping of its own, which goes back to the system when it is freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 64 << 10;
/// Free bytes at the end of an arena beyond which it shrinks.
#[cfg(target_env = "gnu")]
const TRIMMED_FROM: libc::c_int = 128 << 10;

/// Call first in `main`, before there are threads.
pub(crate) fn stay_small() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM),
        (libc::M_TRIM_THRESHOLD, TRIMMED_FROM),
    ] {
        // SAFETY: takes two numbers; no other thread exists yet. A refusal (0) leaves the default, which only costs memory.
        unsafe { libc::mallopt(parameter, value) };
    }
}
