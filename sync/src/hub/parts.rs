//! Items that are kept in parts: what is long, as a row that could not be written may be, has no room in one piece there.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// What an item is then, with how many parts there are, and what their names begin with.
const PARTS: &str = "parts/";
const PART_OF: &str = "part/";

/// How many parts items have that are kept in some.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parted(HashMap<String, usize>);

impl Parted {
    /// Puts items together that are kept in parts.
    pub fn read(items: &mut BTreeMap<String, String>) -> Parted {
        let count = |content: &String| content.strip_prefix(PARTS)?.parse().ok();
        let parted: HashMap<String, usize> =
            items.iter().filter_map(|(item, content)| Some((item.clone(), count(content)?))).collect();
        for (item, count) in &parted {
            let content = (0..*count).filter_map(|nth| items.remove(&part_of(item, nth))).collect();
            items.insert(item.clone(), content);
        }
        Parted(parted)
    }

    /// What is kept, none of it longer than so many bytes, and what goes, when these are kept, and those go that are `None`.
    pub fn changed<'a>(
        &mut self,
        items: impl IntoIterator<Item = &'a (String, Option<String>)>,
        room: usize,
    ) -> (Vec<(String, Cow<'a, str>)>, Vec<String>) {
        let (mut kept, mut gone): (Vec<(String, Cow<'a, str>)>, Vec<String>) = (vec![], vec![]);
        for (item, content) in items {
            gone.extend((0..self.0.remove(item).unwrap_or(0)).map(|nth| part_of(item, nth)));
            match content {
                None => gone.push(item.clone()),
                Some(content) if content.len() <= room => kept.push((item.clone(), content.into())),
                Some(content) => {
                    let parts = parts(content, room);
                    self.0.insert(item.clone(), parts.len());
                    kept.push((item.clone(), format!("{PARTS}{}", parts.len()).into()));
                    kept.extend(
                        parts.iter().enumerate().map(|(nth, part)| (part_of(item, nth), (*part).into())),
                    );
                }
            }
        }
        (kept, gone)
    }
}

/// The name of a part of an item.
fn part_of(item: &str, nth: usize) -> String {
    format!("{PART_OF}{nth:06}/{item}")
}

/// A content in parts of so many bytes at most.
fn parts(content: &str, room: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (vec![], content);
    while !rest.is_empty() {
        let (part, more) = rest.split_at(rest.floor_char_boundary(room));
        parts.push(part);
        rest = more;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_kept_in_parts() {
        const ROOM: usize = 1 << 10;
        let long = "ä".repeat(ROOM);
        assert_eq!(parts(&long, ROOM).len(), 2);
        assert_eq!(parts(&format!("a{long}"), ROOM).len(), 3);
        let items =
            [("pending/t/1".to_owned(), Some(long.clone())), ("stage".to_owned(), Some("{}".to_owned()))];
        let mut parted = Parted::default();
        let (kept, gone) = parted.changed(&items, ROOM);
        assert!(gone.is_empty());
        assert!(kept.iter().all(|(_, content)| content.len() <= ROOM));
        let mut there: BTreeMap<String, String> =
            kept.into_iter().map(|(item, content)| (item, content.into_owned())).collect();
        assert_eq!(Parted::read(&mut there), parted);
        assert_eq!(there.keys().collect::<Vec<_>>(), ["pending/t/1", "stage"]);
        assert!(there["pending/t/1"] == long);
        let none = [("pending/t/1".to_owned(), None)];
        let (kept, gone) = parted.changed(&none, ROOM);
        assert!(kept.is_empty());
        assert_eq!(gone, ["part/000000/pending/t/1", "part/000001/pending/t/1", "pending/t/1"]);
    }
}
