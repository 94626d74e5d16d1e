//! What is done with bytes that may be no log: the body of the fuzz target, which a test runs, too.

use super::event::{self, Event};
use super::position::Position;
use super::row::{self, rows};
use super::statement::effect;
use super::stream::Stamp;
use super::table_map::TableMap;
use super::{Bytes, json};

/// Reads events, each after its type and two bytes for its length; the first byte says whether they are MariaDB's. Whatever they are,
/// nothing panics, ends never or takes much memory; how many rows were understood.
pub(crate) fn run(data: &[u8]) -> usize {
    let mut rest = Bytes(data);
    let is_mariadb = rest.byte().is_some_and(|byte| byte & 1 == 1);
    let stamp = Stamp { end: 4, time_s: 1, server: 1 };
    let (mut map, mut understood): (Option<TableMap>, usize) = (None, 0);
    while let (Some(kind), Some(length)) = (rest.byte(), rest.number(2)) {
        let body = rest.take((length as usize).min(rest.0.len())).unwrap_or_default();
        if let Some(text) = json::text(body) {
            assert!(text.len() <= json::most(body.len()), "{} of {}", text.len(), body.len());
        }
        match event::parse(kind, body, stamp) {
            Ok(Some(Event::Table(body))) => map = TableMap::parse(&body, is_mariadb),
            Ok(Some(Event::Rows { kind, body, has_extra })) => {
                let Some(map) = map.as_ref().filter(|map| row::table_of(&body) == Some(map.id)) else {
                    continue;
                };
                for row in rows(kind, &body, has_extra, map).unwrap_or_default() {
                    for image in [row.before, row.after].into_iter().flatten() {
                        assert_eq!(image.len(), map.columns.len());
                    }
                    understood += 1;
                }
            }
            Ok(Some(Event::Query { sql, .. })) => {
                let _ = effect(&sql);
                // A position is kept as it was written.
                if let Some(position) = Position::parse(&sql) {
                    assert_eq!(Position::parse(&position.to_string()), Some(position));
                }
            }
            _ => {}
        }
    }
    understood
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What servers have logged of rows of all types, made otherwise at random.
    #[test]
    fn damaged_logs_are_refused() {
        let seeds = ["mariadb", "mysql"]
            .map(|name| std::fs::read(format!("{}/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap());
        for seed in &seeds {
            assert!(run(seed) >= 6, "{}", run(seed));
        }
        let mut random = fastrand::Rng::with_seed(1);
        let mut whole = 0;
        for nth in 0..4_000 {
            let mut log = seeds[nth % 2].clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..log.len());
                match random.u8(0..5) {
                    0 => log[at] ^= 1 << random.u8(0..8),
                    1 => log[at] = random.u8(..),
                    2 => log[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(0..5)],
                    3 => log.truncate(at.max(1)),
                    _ => drop(log.splice(at..at, std::iter::repeat_n(random.u8(..), random.usize(1..20)))),
                }
            }
            whole += usize::from(run(&log) >= 6);
        }
        // Some are as good as before, most are not.
        assert!((400..3_600).contains(&whole), "{whole}");
    }

    #[test]
    fn events_of_nothing_end() {
        // A table without columns, and rows of it that have no bytes.
        let table = [1, 19, 17, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, b'd', 0, 1, b't', 0, 0, 0];
        let rows = [23, 10, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(run(&[&table[..], &rows].concat()), 0);
        // A time with more digits than there are, and an array of arrays.
        let of = |kind: u8, meta: &[u8]| {
            let head = [7, 0, 0, 0, 0, 0, 0, 0, 1, b'd', 0, 1, b't', 0, 1, kind, meta.len() as u8];
            [&head[..], meta, &[0]].concat()
        };
        assert!(TableMap::parse(&of(19, &[6]), false).is_some());
        assert!(TableMap::parse(&of(19, &[200]), false).is_none());
        assert!(TableMap::parse(&of(20, &[20; 200]), false).is_none());
        // An array of itself and itself.
        let itself = [json_of_two(0), json_of_two(4)];
        assert!(itself.iter().all(|document| json::text(document).is_none()));
    }

    fn json_of_two(at: u8) -> Vec<u8> {
        vec![2, 2, 0, 10, 0, 2, at, 0, 2, at, 0]
    }
}
