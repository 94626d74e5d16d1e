//! Which of many rows a server refuses, where it only says that it refuses one.

/// Rows on their way: a group that is refused comes again in halves, until the row that is to blame stands alone.
///
/// Rows that exchange a unique value can only go together, and halves may tear them apart. So those that are refused for such a value are
/// tried once more, all together.
#[derive(Debug)]
pub struct Halves<'a, R> {
    waiting: Vec<Vec<&'a R>>,
    blamed: Vec<(&'a R, Blame)>,
    is_second: bool,
}

/// Why a server refuses rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// What it says.
    pub reason: String,
    /// Another row has what must be unique.
    pub is_about_uniqueness: bool,
}

impl<'a, R> Halves<'a, R> {
    /// All of them at first.
    pub fn of(rows: &'a [R]) -> Halves<'a, R> {
        Halves { waiting: vec![rows.iter().collect()], blamed: vec![], is_second: false }
    }

    /// The next group to write; `None`: all have been tried.
    pub fn next_group(&mut self) -> Option<Vec<&'a R>> {
        while let Some(rows) = self.waiting.pop() {
            if !rows.is_empty() {
                return Some(rows);
            }
        }
        if std::mem::replace(&mut self.is_second, true) {
            return None;
        }
        let (again, final_ones): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.blamed).into_iter().partition(|(_, blame)| blame.is_about_uniqueness);
        self.blamed = final_ones;
        if again.len() < 2 {
            self.blamed.extend(again);
            return None;
        }
        Some(again.into_iter().map(|(row, _)| row).collect())
    }

    /// The server has refused this group.
    pub fn refused(&mut self, mut rows: Vec<&'a R>, blame: Blame) {
        match rows[..] {
            [only] => self.blamed.push((only, blame)),
            _ => {
                let second = rows.split_off(rows.len() / 2);
                self.waiting.push(second);
                self.waiting.push(rows);
            }
        }
    }

    /// The rows that cannot be written.
    pub fn blamed(self) -> Vec<(&'a R, Blame)> {
        self.blamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blame(is_about_uniqueness: bool) -> Blame {
        Blame { reason: "no".to_owned(), is_about_uniqueness }
    }

    #[test]
    fn only_those_to_blame_are_left() {
        let rows: Vec<u32> = (0..1000).collect();
        let mut halves = Halves::of(&rows);
        let (mut written, mut groups): (Vec<&u32>, u32) = (vec![], 0);
        while let Some(group) = halves.next_group() {
            groups += 1;
            match group.iter().any(|row| [7, 8, 999].contains(*row)) {
                true => halves.refused(group, blame(false)),
                false => written.extend(group),
            }
        }
        let blamed: Vec<u32> = halves.blamed().into_iter().map(|(row, _)| *row).collect();
        assert_eq!(blamed, [7, 8, 999]);
        assert!(written.is_sorted() && written.len() == 997 && groups < 60, "{groups}");
    }

    /// 1 and 6 exchange a unique value, 3 cannot be written at all.
    #[test]
    fn those_that_can_only_go_together_do() {
        let rows: Vec<u32> = (0..8).collect();
        let mut halves = Halves::of(&rows);
        let mut written = vec![];
        while let Some(group) = halves.next_group() {
            let has = |n: u32| group.contains(&&n);
            match (has(3), has(1) != has(6)) {
                (true, _) => halves.refused(group, blame(false)),
                (_, true) => halves.refused(group, blame(true)),
                _ => written.extend(group.into_iter().copied()),
            }
        }
        assert_eq!(halves.blamed().into_iter().map(|(row, _)| *row).collect::<Vec<_>>(), [3]);
        written.sort_unstable();
        assert_eq!(written, [0, 1, 2, 4, 5, 6, 7]);
    }
}
