//! What a child has started, ended with it.

use std::time::{Duration, Instant};

use super::Pid;

/// The group of a child that leads one and is not reaped yet. Dropped, it is ended: by SIGTERM, and what outlives that by SIGKILL;
/// the drop waits until nobody of it runs.
#[derive(Debug)]
pub struct Group(Pid);

/// How long a group has after SIGTERM, and how long SIGKILL may take.
const PATIENCE: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(2)];

impl Group {
    /// That of this child.
    pub fn led_by(leader: Pid) -> Group {
        Group(leader)
    }

    /// Lets it be.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Whether somebody of it still runs; zombies do not.
    fn runs(&self) -> bool {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<Pid>().ok());
        pids.any(|pid| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Behind the name, which may have anything in it: the state, the parent and the group.
            let after_name =
                stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
            let text = String::from_utf8_lossy(after_name);
            let mut fields = text.split_whitespace();
            let (state, group) = (fields.next(), fields.nth(1));
            state.is_some_and(|state| !matches!(state, "Z" | "X")) && group == Some(&self.0.to_string())
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for (signal, patience) in [libc::SIGTERM, libc::SIGKILL].into_iter().zip(PATIENCE) {
            // SAFETY: a plain system call; the leader is not reaped, so the group is its own.
            unsafe { libc::kill(-self.0, signal) };
            let end = Instant::now() + patience;
            while self.runs() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            if !self.runs() {
                break;
            }
        }
    }
}
