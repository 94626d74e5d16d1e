//! Where in the log something is.

use std::collections::BTreeMap;
use std::fmt;

/// What has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// MySQL's transactions by their numbers, of each server and tag those from one to another.
    Executed(BTreeMap<String, Vec<(u64, u64)>>),
    /// MariaDB's: the last one of each domain, by its server and number.
    Domains(BTreeMap<u32, (u32, u64)>),
    /// Up to a place in a file.
    File { name: String, offset: u64 },
}

/// A transaction that has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gtid {
    Mysql { source: String, number: u64 },
    Mariadb { domain: u32, server: u32, number: u64 },
}

/// What is written where nothing has come.
const NOTHING: &str = "nothing";

impl Position {
    /// Of a text as the server or [`Display`](fmt::Display) writes it.
    pub(crate) fn parse(text: &str) -> Option<Position> {
        if text == NOTHING {
            return Some(Position::Domains(BTreeMap::new()));
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        executed(&text).or_else(|| domains(&text)).or_else(|| file(&text))
    }

    /// Of what a server of MySQL says.
    pub(crate) fn executed(text: &str) -> Option<Position> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if text.is_empty() { Some(Position::Executed(BTreeMap::new())) } else { executed(&text) }
    }

    /// The numbers that sessions of a server of MySQL own at the moment, each with the number of its session: `uuid:5#20`.
    pub(crate) fn owned(text: &str) -> Vec<Gtid> {
        let mut owned = vec![];
        for set in text.split(',') {
            let mut parts = set.trim().split(':');
            let Some(uuid) = parts.next() else { continue };
            let mut source = uuid.to_ascii_lowercase();
            for part in parts {
                match part.split('#').next().map(str::parse) {
                    Some(Ok(number)) => owned.push(Gtid::Mysql { source: source.clone(), number }),
                    _ => source = format!("{}:{}", uuid.to_ascii_lowercase(), part.to_ascii_lowercase()),
                }
            }
        }
        owned
    }

    /// Of what a server of MariaDB says.
    pub(crate) fn domains(text: &str) -> Option<Position> {
        if text.is_empty() { Some(Position::Domains(BTreeMap::new())) } else { domains(text) }
    }

    fn is_nothing(&self) -> bool {
        match self {
            Position::Executed(sets) => sets.is_empty(),
            Position::Domains(domains) => domains.is_empty(),
            Position::File { .. } => false,
        }
    }

    /// Whether all that another one has has come.
    pub(crate) fn is_at(&self, goal: &Position) -> bool {
        if goal.is_nothing() {
            return true;
        }
        match (self, goal) {
            (Position::Executed(sets), Position::Executed(goals)) => goals.iter().all(|(source, goals)| {
                let has = |goal: &(u64, u64)| {
                    sets.get(source)
                        .is_some_and(|ranges| ranges.iter().any(|has| has.0 <= goal.0 && goal.1 <= has.1))
                };
                goals.iter().all(has)
            }),
            (Position::Domains(domains), Position::Domains(goals)) => goals
                .iter()
                .all(|(domain, (_, goal))| domains.get(domain).is_some_and(|(_, number)| number >= goal)),
            (Position::File { name, offset }, Position::File { name: goal, offset: end }) => {
                match (numbered(name), numbered(goal)) {
                    (Some((base, number)), Some((other, goal))) => {
                        base == other && (number, offset) >= (goal, end)
                    }
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// A transaction has come.
    pub(crate) fn add(&mut self, gtid: &Gtid) {
        match (self, gtid) {
            (Position::Executed(sets), Gtid::Mysql { source, number }) => {
                match sets.get_mut(source) {
                    Some(ranges) => add(ranges, *number),
                    None => drop(sets.insert(source.clone(), vec![(*number, *number)])),
                };
            }
            (Position::Domains(domains), Gtid::Mariadb { domain, server, number }) => {
                domains.insert(*domain, (*server, *number));
            }
            _ => {}
        }
    }
}

fn add(ranges: &mut Vec<(u64, u64)>, number: u64) {
    let at = ranges.partition_point(|(_, end)| *end < number);
    if ranges.get(at).is_some_and(|(begin, _)| *begin <= number) {
        return;
    }
    let follows = at.checked_sub(1).filter(|before| ranges[*before].1.checked_add(1) == Some(number));
    let precedes = ranges.get(at).is_some_and(|(begin, _)| number.checked_add(1) == Some(*begin));
    match (follows, precedes) {
        (Some(before), true) => {
            ranges[before].1 = ranges[at].1;
            ranges.remove(at);
        }
        (Some(before), false) => ranges[before].1 = number,
        (None, true) => ranges[at].0 = number,
        (None, false) => ranges.insert(at, (number, number)),
    }
}

fn executed(text: &str) -> Option<Position> {
    let mut sets: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for set in text.split(',') {
        let mut parts = set.split(':');
        let uuid = parts.next()?.to_ascii_lowercase();
        let is_uuid = uuid.len() == 36 && uuid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        if !is_uuid {
            return None;
        }
        // Tags stand before the numbers that have them.
        let mut source = uuid.clone();
        let mut any = false;
        for part in parts {
            if part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                source = format!("{uuid}:{}", part.to_ascii_lowercase());
                continue;
            }
            let (begin, end) = part.split_once('-').unwrap_or((part, part));
            let range: (u64, u64) = (begin.parse().ok()?, end.parse().ok()?);
            if range.0 == 0 || range.1 < range.0 {
                return None;
            }
            sets.entry(source.clone()).or_default().push(range);
            any = true;
        }
        if !any {
            return None;
        }
    }
    sets.values_mut().for_each(|ranges| ranges.sort_unstable());
    Some(Position::Executed(sets))
}

fn domains(text: &str) -> Option<Position> {
    let one = |gtid: &str| {
        let mut parts = gtid.split('-');
        let (domain, server, number) = (parts.next()?, parts.next()?, parts.next()?);
        let gtid = (domain.parse().ok()?, (server.parse().ok()?, number.parse().ok()?));
        parts.next().is_none().then_some(gtid)
    };
    text.split(',').map(one).collect::<Option<BTreeMap<_, _>>>().map(Position::Domains)
}

fn file(text: &str) -> Option<Position> {
    let (name, offset) = text.rsplit_once(':')?;
    numbered(name)?;
    Some(Position::File { name: name.to_owned(), offset: offset.parse().ok()? })
}

/// The parts of a file's name.
fn numbered(name: &str) -> Option<(&str, u64)> {
    let (base, number) = name.rsplit_once('.')?;
    Some((base, number.parse().ok()?))
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str(NOTHING);
        }
        let comma = |nth: usize| if nth > 0 { "," } else { "" };
        match self {
            Position::Executed(sets) => {
                for (nth, (source, ranges)) in sets.iter().enumerate() {
                    write!(f, "{}{source}", comma(nth))?;
                    for (begin, end) in ranges {
                        match begin == end {
                            true => write!(f, ":{begin}")?,
                            false => write!(f, ":{begin}-{end}")?,
                        }
                    }
                }
                Ok(())
            }
            Position::Domains(domains) => {
                for (nth, (domain, (server, number))) in domains.iter().enumerate() {
                    write!(f, "{}{domain}-{server}-{number}", comma(nth))?;
                }
                Ok(())
            }
            Position::File { name, offset } => write!(f, "{name}:{offset}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn positions_are_written_as_servers_do() {
        for text in [
            format!("{UUID}:1-5:7"),
            format!("{UUID}:1-5,{UUID}:litekeep:1-2"),
            "0-1-20".to_owned(),
            "0-1-20,5-2-7".to_owned(),
            "binlog.000012:157".to_owned(),
            "nothing".to_owned(),
        ] {
            assert_eq!(Position::parse(&text).unwrap().to_string(), text);
        }
        for damaged in ["", "0-1", "0-1-2-3", "binlog:4", "binlog.x:4", "a.1:b", &format!("{UUID}:0"), UUID] {
            assert_eq!(Position::parse(damaged), None, "{damaged}");
        }
        let of_two_lines = Position::executed(&format!("{UUID}:1-3,\n{UUID}:litekeep:1")).unwrap();
        assert_eq!(of_two_lines.to_string(), format!("{UUID}:1-3,{UUID}:litekeep:1"));
    }

    #[test]
    fn owned_numbers_are_read() {
        let of = |source: &str, number| Gtid::Mysql { source: source.to_owned(), number };
        assert_eq!(Position::owned(""), []);
        assert_eq!(Position::owned(&format!("{UUID}:5#20")), [of(UUID, 5)]);
        let other = UUID.replace('3', "4");
        let tagged = format!("{UUID}:tag");
        assert_eq!(
            Position::owned(&format!("{UUID}:5#20:6#21:tag:1#7,\n{other}:9#22")),
            [of(UUID, 5), of(UUID, 6), of(&tagged, 1), of(&other, 9)]
        );
    }

    #[test]
    fn positions_are_compared() {
        let of = |text: &str| Position::parse(text).unwrap();
        let is_at = |a: &str, b: &str| of(a).is_at(&of(b));
        assert!(
            is_at("0-1-20", "0-2-20") && is_at("0-1-20,1-1-1", "1-1-1") && !is_at("0-1-20", "0-1-20,1-1-1")
        );
        assert!(is_at("0-1-20", "nothing") && !is_at("nothing", "0-1-20"));
        assert!(is_at("b.9:5", "b.9:5") && is_at("b.000010:4", "b.000009:99") && !is_at("c.10:4", "b.9:4"));
        let (some, more) = (format!("{UUID}:1-5:7"), format!("{UUID}:1-7"));
        assert!(is_at(&more, &some) && !is_at(&some, &more) && !is_at(&more, "0-1-1"));
        assert!(!is_at(&more, &format!("{UUID}:x:1")));
    }

    proptest! {
        #[test]
        fn numbers_in_any_order_become_ranges(mut numbers in prop::collection::vec(1_u64..40, 1..60)) {
            let mut position = Position::executed("").unwrap();
            for number in &numbers {
                position.add(&Gtid::Mysql { source: UUID.to_owned(), number: *number });
            }
            numbers.sort_unstable();
            numbers.dedup();
            let Position::Executed(sets) = &position else { unreachable!() };
            let all: Vec<u64> = sets[UUID].iter().flat_map(|(begin, end)| *begin..=*end).collect();
            prop_assert_eq!(all, numbers);
            prop_assert!(sets[UUID].windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            prop_assert_eq!(Position::parse(&position.to_string()), Some(position));
        }
    }
}
