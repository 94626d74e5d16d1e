//! Everything random: names that need quotes, values that meet the edges of SQLite's encodings, sizes around a page.

use std::sync::{Arc, Mutex};

use fastrand::Rng;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::Value;

/// The declared types of new columns. `FLOATING POINT` has INTEGER affinity: it contains `INT`.
pub(super) const TYPES: &[&str] = &[
    "INTEGER",
    "REAL",
    "TEXT",
    "BLOB",
    "NUMERIC",
    "",
    "DOUBLE PRECISION",
    "VARCHAR(10)",
    "FLOAT",
    "INT",
    "FLOATING POINT",
];

/// What a STRICT table may declare.
pub(super) const STRICT_TYPES: &[&str] = &["INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"];

/// Beginnings of names, nearly all of which need quotes. None has a parenthesis: a definition is cut at its first one.
const NAMES: &[&str] =
    &["t", "T", "a b", "tab\"le", "it's", "Größe", "漢字", "x.y", "[z]", "select", "1", "--", "%s", "ab\\c"];

const KEYWORDS: &[&str] = &["order", "table", "group", "index", "values", "rowid"];

/// The one source of chance: what a seed gives depends on nothing else.
pub(super) struct Chance {
    random: Rng,
    names: u32,
    page_size: usize,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), names: 0, page_size: 4096 }
    }

    /// Values are sized around pages of `page_size` bytes.
    pub(super) fn set_page_size(&mut self, page_size: usize) {
        self.page_size = page_size.min(4096);
    }

    pub(super) fn percent(&mut self, percent: u32) -> bool {
        self.random.u32(..100) < percent
    }

    pub(super) fn choose<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.random.usize(..among.len())]
    }

    /// A number from `from` to `to`, both included.
    pub(super) fn between(&mut self, from: i64, to: i64) -> i64 {
        self.random.i64(from..=to)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.random.usize(..limit.max(1))
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        self.random.shuffle(items);
    }

    /// A name that no table, column or index has had; seldom a bare keyword, which one may have.
    pub(super) fn name(&mut self) -> String {
        if self.percent(4) {
            return (*self.choose(KEYWORDS)).to_owned();
        }
        let beginning = *self.choose(NAMES);
        self.unique(beginning)
    }

    /// A name with this beginning that nothing has had.
    pub(super) fn unique(&mut self, beginning: &str) -> String {
        self.names += 1;
        format!("{beginning}{}", self.names)
    }

    /// A value for a column that was declared as `declared`; one in ten of another type, one in twenty NULL.
    pub(super) fn value(&mut self, declared: &str) -> Value {
        if self.percent(5) {
            return Value::Null;
        }
        match self.storage_class(declared) {
            0 => Value::Integer(self.integer()),
            1 => Value::Real(self.real()),
            2 => Value::Text(self.long_text()),
            _ => Value::Blob(self.long_blob()),
        }
    }

    /// A value for a column of a key: mostly short, so that keys meet. Never -0.0, which is the same key as 0.0, nor the
    /// largest rowid: behind it SQLite chooses rowids by a chance of its own, or calls the table full.
    pub(super) fn key(&mut self, declared: &str) -> Value {
        if self.percent(3) {
            return match self.value(declared) {
                Value::Integer(value) => Value::Integer(value / 2),
                Value::Real(value) => Value::Real(value + 0.0),
                other => other,
            };
        }
        let length = self.below(12) + 1;
        match self.storage_class(declared) {
            0 if self.percent(70) => Value::Integer(self.between(-20, 3000)),
            0 => Value::Integer(self.between(-(1 << 40), 1 << 40)),
            1 => Value::Real(self.between(-2000, 2000) as f64 / 4.0),
            2 => Value::Text(self.text(length)),
            _ => Value::Blob(self.bytes(length)),
        }
    }

    /// Rows of a table that has 0..300 as ids, or NULL.
    pub(super) fn reference(&mut self) -> Value {
        if self.percent(50) { Value::Null } else { Value::Integer(self.between(0, 300)) }
    }

    /// 0 integer, 1 real, 2 text, 3 blob.
    fn storage_class(&mut self, declared: &str) -> usize {
        if self.percent(10) {
            return self.below(4);
        }
        match declared {
            "INTEGER" | "INT" | "FLOATING POINT" => 0,
            "REAL" | "FLOAT" | "DOUBLE PRECISION" => 1,
            "TEXT" | "VARCHAR(10)" => 2,
            "BLOB" => 3,
            _ => self.below(4),
        }
    }

    /// Integers of every width that a record knows.
    fn integer(&mut self) -> i64 {
        match self.below(6) {
            0 => self.between(0, 1),
            1 => self.between(-130, 130),
            2 => self.between(-40_000, 40_000),
            3 => self.between(-9_000_000, 9_000_000),
            4 => self.between(-150_000_000_000_000, 150_000_000_000_000),
            _ => *[i64::MIN, i64::MAX, self.random.i64(..)].get(self.below(3)).expect("below its length"),
        }
    }

    /// Reals, among them those that a REAL column stores as integers, subnormal ones and infinity.
    fn real(&mut self) -> f64 {
        match self.below(6) {
            0 => self.between(-50, 50) as f64,
            1 => self.between(-1_000_000_000, 1_000_000_000) as f64 / 1e3,
            2 => self.between(-(1 << 50), 1 << 50) as f64,
            3 => *self.choose(&[-0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE / 2.0, 1e300]),
            4 => self.random.f64(),
            _ => f64::from_bits(self.random.u64(..) & 0xffef_ffff_ffff_ffff),
        }
    }

    fn long_text(&mut self) -> String {
        let length = self.length();
        self.text(length)
    }

    fn long_blob(&mut self) -> Vec<u8> {
        let length = self.length();
        if self.percent(20) { vec![0; length] } else { self.bytes(length) }
    }

    /// Mostly short; up to several overflow pages.
    fn length(&mut self) -> usize {
        let page = self.page_size;
        match self.below(100) {
            0..=59 => self.below(24),
            60..=84 => self.below(page / 4),
            85..=95 => self.below(2 * page),
            96..=98 => self.below(6 * page),
            _ => self.below(14 * page),
        }
    }

    /// Texts that NOCASE and RTRIM take for the same are frequent; some have characters of all UTF-8 widths, few a NUL.
    pub(super) fn text(&mut self, characters: usize) -> String {
        let alphabet: &[char] = match self.below(50) {
            0 => &['a', 'B', '\0'],
            1..=10 => &['a', 'B', 'é', '漢', '😀', ' ', 'z', '\u{ffff}', '\u{e000}'],
            _ => &['a', 'A', 'b', 'B', 'c', ' '],
        };
        (0..characters).map(|_| *self.choose(alphabet)).collect()
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.random.fill(&mut bytes);
        bytes
    }

    /// Replaces SQL's `random()` and `randomblob(N)` by `chance()` and `chance_blob(N)`, which follow from the seed.
    pub(super) fn register(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let source = Arc::new(Mutex::new(self.random.fork()));
        let of_blobs = Arc::clone(&source);
        db.create_scalar_function("chance", 0, FunctionFlags::SQLITE_UTF8, move |_| {
            Ok(source.lock().expect("no panic inside").i64(0..i64::MAX))
        })?;
        db.create_scalar_function("chance_blob", 1, FunctionFlags::SQLITE_UTF8, move |arguments| {
            let mut bytes = vec![0; arguments.get::<u32>(0)? as usize];
            of_blobs.lock().expect("no panic inside").fill(&mut bytes);
            Ok(bytes)
        })
    }
}
