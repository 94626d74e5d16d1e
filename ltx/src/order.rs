use crate::header::Header;
use crate::{PageSize, Pgno};

/// Which pages a file may hold, and in which order: ascending, none beyond the database's end, never the lock page;
/// a snapshot holds all of them.
#[derive(Debug)]
pub(crate) struct PageOrder {
    commit: u32,
    lock_page: u32,
    snapshot: bool,
    last: u32,
    pages: u64,
}

impl PageOrder {
    pub(crate) fn new(header: &Header) -> PageOrder {
        PageOrder {
            commit: header.commit,
            lock_page: header.page_size.lock_page().get(),
            snapshot: header.is_snapshot(),
            last: 0,
            pages: 0,
        }
    }

    /// Takes the next page, or says why it must not be next.
    pub(crate) fn accept(&mut self, pgno: Pgno) -> Result<(), String> {
        let next = pgno.get();
        if next <= self.last {
            return Err(format!("page {next} after page {}", self.last));
        }
        if next > self.commit {
            return Err(format!("page {next} of a database of {} pages", self.commit));
        }
        if next == self.lock_page {
            return Err(format!("page {next} is the lock page, which is never stored"));
        }
        if self.snapshot && u64::from(next) != self.due() {
            return Err(format!("page {next} where the snapshot needs page {}", self.due()));
        }
        self.last = next;
        self.pages += 1;
        Ok(())
    }

    /// Whether the file may end here.
    pub(crate) fn finish(&self) -> Result<(), String> {
        if self.snapshot && self.due() <= u64::from(self.commit) {
            return Err(format!("a snapshot of {} pages ends before page {}", self.commit, self.due()));
        }
        Ok(())
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// The page that a snapshot has next.
    fn due(&self) -> u64 {
        let next = u64::from(self.last) + 1;
        if next == u64::from(self.lock_page) { next + 1 } else { next }
    }
}

/// How many pages a snapshot of `commit` pages holds.
pub(crate) fn pages_of_snapshot(page_size: PageSize, commit: u32) -> u64 {
    u64::from(commit) - u64::from(commit >= page_size.lock_page().get())
}
