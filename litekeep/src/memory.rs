//! What keeps a process small that runs for months: glibc's memory allocator, and the pages of the program itself.
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

/// Lets go of the pages of the program that only its start has needed. The kernel brings those back that run again, from the file, and
/// drops nothing that has been written to: these are mappings that cannot be.
pub(crate) fn let_go_of_start() {
    let (Ok(maps), Ok(program)) = (std::fs::read_to_string("/proc/self/maps"), std::env::current_exe())
    else {
        return;
    };
    for (start, len) in maps.lines().filter_map(|line| unwritten(line, &program)) {
        // SAFETY: a mapping of this program's file, which nothing has written to, reads the same after it.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), len, libc::MADV_DONTNEED) };
    }
}

/// Where a mapping is that holds nothing but the program's file: its code, and the constants before it. What follows the code is
/// written to by the loader.
fn unwritten(line: &str, program: &std::path::Path) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, offset, path) = (fields.next()?, fields.next()?, fields.next()?, fields.nth(2)?);
    let is_constant = rights == "r-xp" || (rights == "r--p" && offset.bytes().all(|digit| digit == b'0'));
    if !is_constant || std::path::Path::new(path) != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_loader_has_not_written_is_let_go_of() {
        let program = std::path::Path::new("/usr/bin/litekeep");
        let of = |line| unwritten(line, program);
        assert_eq!(of("1000-3000 r--p 00000000 fe:00 7    /usr/bin/litekeep"), Some((0x1000, 0x2000)));
        assert_eq!(of("3000-9000 r-xp 00002000 fe:00 7    /usr/bin/litekeep"), Some((0x3000, 0x6000)));
        for other in [
            "9000-a000 r--p 00008000 fe:00 7    /usr/bin/litekeep",
            "a000-b000 rw-p 00009000 fe:00 7    /usr/bin/litekeep",
            "b000-c000 r-xp 00000000 fe:00 9    /usr/lib/libc.so.6",
            "c000-d000 rw-p 00000000 00:00 0",
            "d000-e000 r-xp 00000000 00:00 0    [vdso]",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on_afterwards() {
        let (maps, program) =
            (std::fs::read_to_string("/proc/self/maps").unwrap(), std::env::current_exe().unwrap());
        assert_eq!(maps.lines().filter_map(|line| unwritten(line, &program)).count(), 2, "{maps}");
        let_go_of_start();
        assert_eq!(std::fs::read_to_string("/proc/self/maps").unwrap().lines().next(), maps.lines().next());
    }
}
