//! What of SQL that is written for SQLite another server refuses, or answers otherwise.
//!
//! Statements are read by their words, for there is no server to ask: what depends on tables and values (a type, a collation, whether a
//! division is one of integers) is told where it may be so. Each rule is held against the servers themselves by a test, with statements
//! that SQLite answers (`sync/tests/conformance/dialect.rs`).

use crate::words::{Word, words};

/// Who shall understand it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL, from 14 on.
    Postgres,
    /// MySQL, from 8.0 on.
    Mysql,
    /// MariaDB, from 10.5 on.
    Mariadb,
}

/// What becomes of it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server refuses the statement.
    Refused,
    /// The statement runs, and may answer or do something else.
    Otherwise,
}

/// Something that is not there as it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What, as it is written.
    pub what: String,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, and what to write instead.
    pub instead: &'static str,
}

use Dialect::{Mariadb, Mysql, Postgres};
use Fate::{Otherwise, Refused};

const ALL: &[Dialect] = &[Postgres, Mysql, Mariadb];
const PG: &[Dialect] = &[Postgres];
const MY: &[Dialect] = &[Mysql, Mariadb];

/// A function of SQLite's, where it is not, and what stands for it.
type Function = (&'static str, &'static [Dialect], Fate, &'static str);

const FUNCTIONS: &[Function] = &[
    ("strftime", ALL, Refused, "Postgres has to_char(), MySQL date_format()"),
    ("datetime", PG, Refused, "a literal of the type, `TIMESTAMP '...'`, or CURRENT_TIMESTAMP"),
    ("datetime", MY, Refused, "CAST(... AS DATETIME), or CURRENT_TIMESTAMP"),
    ("julianday", ALL, Refused, "take the difference of two dates"),
    ("unixepoch", ALL, Refused, "Postgres has extract(epoch FROM ...), MySQL unix_timestamp()"),
    ("ifnull", PG, Refused, "coalesce(), which all have"),
    ("iif", &[Postgres, Mysql, Mariadb], Refused, "CASE WHEN ... THEN ... ELSE ... END, which all have"),
    ("group_concat", PG, Refused, "string_agg()"),
    ("json_group_array", ALL, Refused, "Postgres has json_agg(), MySQL json_arrayagg()"),
    ("json_group_object", ALL, Refused, "Postgres has json_object_agg(), MySQL json_objectagg()"),
    ("json_extract", PG, Refused, "the operators -> and ->>, or jsonb_path_query_first()"),
    ("json_extract", MY, Otherwise, "text comes in its quotes: json_unquote(json_extract(...))"),
    ("json_array_length", MY, Refused, "json_length()"),
    (
        "last_insert_rowid",
        ALL,
        Refused,
        "Postgres has RETURNING, MySQL last_insert_id(), and every driver its own way",
    ),
    ("changes", ALL, Refused, "the driver tells the count of rows"),
    ("total_changes", ALL, Refused, "the driver tells the count of rows"),
    ("typeof", ALL, Refused, "a column has one type there"),
    ("printf", ALL, Refused, "put text together by concat() and cast()"),
    ("total", ALL, Refused, "coalesce(sum(...), 0)"),
    ("random", MY, Refused, "rand(), from 0 to 1"),
    ("random", PG, Otherwise, "from 0 to 1: floor(random() * n) for a whole number"),
    ("randomblob", ALL, Refused, "Postgres has gen_random_bytes() (pgcrypto), MySQL random_bytes()"),
    ("zeroblob", ALL, Refused, "repeat() of a zero byte"),
    ("hex", PG, Refused, "encode(..., 'hex')"),
    ("instr", PG, Refused, "strpos()"),
    ("unicode", ALL, Refused, "ascii() for what is ASCII"),
    ("glob", ALL, Refused, "LIKE"),
    ("sqlite_version", ALL, Refused, "version()"),
    ("length", MY, Otherwise, "it counts bytes: char_length()"),
];

/// Types that Postgres has not.
const TYPES: &[(&str, &str)] = &[
    ("BLOB", "bytea"),
    ("DATETIME", "timestamp or timestamptz"),
    ("TINYINT", "smallint"),
    ("MEDIUMINT", "integer"),
    ("LONGTEXT", "text"),
    ("NVARCHAR", "varchar"),
];

/// What a server does not understand of a statement as SQLite does, each once.
#[must_use]
pub fn findings(statement: &str, dialect: Dialect) -> Vec<Found> {
    let words = words(statement);
    let mut text = Text { dialect, words: &words, found: vec![] };
    for at in 0..words.len() {
        text.functions(at);
        text.signs(at);
        text.keywords(at);
    }
    text.statement();
    text.found
}

struct Text<'a> {
    dialect: Dialect,
    words: &'a [Word<'a>],
    found: Vec<Found>,
}

impl Text<'_> {
    fn note(&mut self, dialects: &[Dialect], fate: Fate, what: impl Into<String>, instead: &'static str) {
        let what = what.into();
        if dialects.contains(&self.dialect) && !self.found.iter().any(|found| found.what == what) {
            self.found.push(Found { what, fate, instead });
        }
    }

    fn refuse(&mut self, dialects: &[Dialect], what: impl Into<String>, instead: &'static str) {
        self.note(dialects, Refused, what, instead);
    }

    /// Whether the words from here on are these.
    fn is(&self, at: usize, keywords: &[&str]) -> bool {
        let rest = self.words.get(at..).unwrap_or_default();
        rest.len() >= keywords.len() && rest.iter().zip(keywords).all(|(word, keyword)| word.is(keyword))
    }

    fn has(&self, keywords: &[&str]) -> bool {
        (0..self.words.len()).any(|at| self.is(at, keywords))
    }

    /// Two signs that stand together.
    fn sign(&self, at: usize, sign: &str) -> bool {
        let begin = self.words[at].at;
        sign.char_indices().enumerate().all(|(n, (offset, c))| {
            self.words.get(at + n).is_some_and(|word| {
                word.at == begin + offset && word.text.starts_with(c) && word.text.len() == c.len_utf8()
            })
        })
    }

    /// How many arguments the call that begins here has.
    fn arguments(&self, at: usize) -> usize {
        let inside: Vec<&Word<'_>> =
            self.words[at + 2..].iter().take_while(|word| word.depth > self.words[at].depth).collect();
        let commas = inside.iter().filter(|word| word.text == "," && word.depth == self.words[at].depth + 1);
        if inside.is_empty() { 0 } else { 1 + commas.count() }
    }

    fn functions(&mut self, at: usize) {
        if !self.is(at + 1, &["("]) || (at > 0 && self.words[at - 1].text == ".") {
            return;
        }
        let name = self.words[at].text.to_ascii_lowercase();
        let what = format!("{name}()");
        for (_, dialects, fate, instead) in FUNCTIONS.iter().filter(|(function, ..)| *function == name) {
            self.note(dialects, *fate, &*what, instead);
        }
        let (count, first) = (self.arguments(at), self.words.get(at + 2).map_or("", |word| word.text));
        match &*name {
            "max" | "min" if count > 1 => {
                self.refuse(
                    ALL,
                    format!("{name}() of several values"),
                    "greatest() and least(), which are NULL in MySQL where one value is",
                );
            }
            "date" | "time" if count > 1 => {
                self.refuse(
                    ALL,
                    format!("{what} with modifiers"),
                    "add an interval: `+ INTERVAL '1 day'`, in MySQL `+ INTERVAL 1 DAY`",
                );
            }
            "date" | "time" if first.eq_ignore_ascii_case("'now'") => {
                self.note(MY, Otherwise, format!("{name}('now')"), "it is NULL: current_date, current_time");
            }
            "date" | "time" => {}
            "group_concat" if count > 1 => {
                self.note(
                    MY,
                    Otherwise,
                    "group_concat() with a separator",
                    "it puts both together: group_concat(x SEPARATOR ',')",
                );
            }
            "format" => {
                self.refuse(PG, "format()", "Postgres's knows %s, %I and %L only");
                self.note(
                    MY,
                    Otherwise,
                    "format()",
                    "it writes numbers with commas: put text together by concat()",
                );
            }
            "concat" | "concat_ws" => {}
            "filter" => self.refuse(MY, "FILTER", "count(CASE WHEN ... THEN 1 END)"),
            _ => {}
        }
    }

    fn signs(&mut self, at: usize) {
        let word = self.words[at];
        let next = self.words.get(at + 1);
        match word.text.chars().next() {
            Some('`') => self.refuse(PG, "a name in `…`", "\"…\""),
            Some('[') => self.refuse(ALL, "a name in […]", "\"…\", in MySQL `…`"),
            Some('"') => self.note(
                MY,
                Otherwise,
                "\"…\"",
                "it is text, unless sql_mode has ANSI_QUOTES: `…` for names, '…' for text",
            ),
            Some('|') if self.sign(at, "||") => {
                self.note(MY, Otherwise, "||", "it is OR, unless sql_mode has PIPES_AS_CONCAT: concat()");
            }
            Some('=') if self.sign(at, "==") => self.refuse(ALL, "==", "="),
            Some('-') if self.sign(at, "->") => self.arrow(at),
            Some('/') => self.note(MY, Otherwise, "/", "of two whole numbers it has a fraction: DIV"),
            Some('x' | 'X')
                if word.text.len() == 1
                    && next.is_some_and(|next| next.text.starts_with('\'') && next.at == word.at + 1) =>
            {
                self.note(PG, Otherwise, "x'…'", "it is a string of bits: '\\x…'::bytea");
            }
            _ => {}
        }
    }

    fn arrow(&mut self, at: usize) {
        let length = if self.sign(at, "->>") { 3 } else { 2 };
        let is_path = self.words.get(at + length).is_some_and(|path| path.text.starts_with("'$"));
        let what = if length == 3 { "->>" } else { "->" };
        // A key by its name is alike, in a column that is json.
        if is_path {
            self.note(
                PG,
                Otherwise,
                what,
                "the path is the name of one key there: CAST(doc AS jsonb) ->> 'a'",
            );
        }
        self.refuse(&[Mariadb], what, "json_value(), json_query()");
        if !is_path {
            self.refuse(&[Mysql], what, "the path must begin with `$`: ->> '$.a'");
        }
    }

    fn keywords(&mut self, at: usize) {
        let is = |keywords: &[&str]| self.is(at, keywords);
        let after = |keywords: &[&str]| at > 0 && self.is(at - 1, keywords);
        let insert = "Postgres has INSERT ... ON CONFLICT, MySQL INSERT IGNORE and ON DUPLICATE KEY UPDATE";
        if is(&["AUTOINCREMENT"]) {
            self.refuse(
                ALL,
                "AUTOINCREMENT",
                "Postgres says GENERATED BY DEFAULT AS IDENTITY, MySQL AUTO_INCREMENT",
            );
        } else if is(&["INSERT", "OR"]) || is(&["UPDATE", "OR"]) {
            self.refuse(ALL, "OR REPLACE, OR IGNORE and the like", insert);
        } else if at == 0 && is(&["REPLACE"]) {
            self.refuse(PG, "REPLACE", insert);
        } else if is(&["ON", "CONFLICT"]) && self.has(&["INSERT"]) {
            self.refuse(MY, "ON CONFLICT", "ON DUPLICATE KEY UPDATE");
        } else if is(&["GLOB"]) && !self.is(at + 1, &["("]) {
            self.refuse(ALL, "GLOB", "LIKE, or a regular expression");
        } else if is(&["LIKE"]) {
            self.note(PG, Otherwise, "LIKE", "it tells capitals from small letters: ILIKE");
        } else if is(&["IS"]) {
            self.compares_by_is(at);
        } else if is(&["NULLS", "FIRST"]) || is(&["NULLS", "LAST"]) {
            self.refuse(MY, "NULLS FIRST and LAST", "ORDER BY x IS NULL, x");
        } else if is(&["FULL", "JOIN"]) || is(&["FULL", "OUTER"]) {
            self.refuse(MY, "FULL JOIN", "a UNION of LEFT JOIN and RIGHT JOIN");
        } else if is(&["LIMIT"]) && self.is(at + 2, &[","]) {
            self.refuse(PG, "LIMIT a, b", "LIMIT b OFFSET a, which all have");
        } else if is(&["INDEXED", "BY"]) || is(&["NOT", "INDEXED"]) {
            self.refuse(ALL, "INDEXED BY", "leave it away");
        } else if is(&["COLLATE", "NOCASE"]) {
            self.refuse(
                ALL,
                "COLLATE NOCASE",
                "Postgres has lower() or citext, MySQL a collation with `_ci`",
            );
        } else if is(&["COLLATE", "RTRIM"]) {
            self.refuse(ALL, "COLLATE RTRIM", "rtrim()");
        } else if is(&["ROWID"]) && !after(&["WITHOUT"]) || is(&["_ROWID_"]) || is(&["OID"]) {
            self.refuse(ALL, "rowid", "the column of the primary key");
        }
    }

    fn compares_by_is(&mut self, at: usize) {
        let next = at + 1 + usize::from(self.is(at + 1, &["NOT"]));
        let known = ["NULL", "TRUE", "FALSE", "UNKNOWN"].iter().any(|word| self.is(next, &[word]));
        if self.is(next, &["DISTINCT", "FROM"]) {
            self.refuse(MY, "IS DISTINCT FROM", "NOT (a <=> b)");
        } else if !known {
            self.refuse(ALL, "IS between values", "Postgres has IS NOT DISTINCT FROM, MySQL <=>");
        }
    }

    /// What a statement is as a whole.
    fn statement(&mut self) {
        let depth_0 = |keyword: &str| self.words.iter().any(|word| word.depth == 0 && word.is(keyword));
        let (is_update, from) = (self.is(0, &["UPDATE"]), depth_0("FROM"));
        let returning = depth_0("RETURNING");
        let strict =
            self.words.iter().rev().take_while(|word| word.text != ")").any(|word| word.is("STRICT"));
        let creates_table = self.is(0, &["CREATE", "TABLE"]);
        if is_update && from {
            self.refuse(MY, "UPDATE ... FROM", "UPDATE a JOIN b ON ... SET ...");
        }
        if returning {
            self.refuse(&[Mysql], "RETURNING", "a SELECT in the same transaction");
            if is_update {
                self.refuse(&[Mariadb], "UPDATE ... RETURNING", "a SELECT in the same transaction");
            }
        }
        if self.is(0, &["PRAGMA"]) || self.is(0, &["ATTACH"]) || self.is(0, &["DETACH"]) {
            self.refuse(ALL, self.words[0].text.to_ascii_uppercase(), "leave it away");
        }
        if self.is(0, &["VACUUM"]) {
            self.refuse(MY, "VACUUM", "OPTIMIZE TABLE");
        }
        if self.is(0, &["BEGIN"])
            && ["IMMEDIATE", "EXCLUSIVE", "DEFERRED"].iter().any(|kind| self.is(1, &[kind]))
        {
            self.refuse(ALL, "BEGIN IMMEDIATE and the like", "BEGIN, and SELECT ... FOR UPDATE");
        }
        if self.is(0, &["CREATE", "VIRTUAL", "TABLE"]) {
            self.refuse(
                ALL,
                "a virtual table",
                "Postgres has full-text search by tsvector, MySQL by FULLTEXT indexes",
            );
        }
        if self.is(0, &["CREATE"]) && self.has(&["TRIGGER"]) {
            self.refuse(PG, "a trigger with statements", "EXECUTE FUNCTION");
            if !self.has(&["FOR", "EACH", "ROW"]) {
                self.refuse(
                    MY,
                    "a trigger without FOR EACH ROW",
                    "FOR EACH ROW before BEGIN, which SQLite understands, too",
                );
            }
        }
        if self.is(0, &["DROP", "INDEX"]) && !self.has(&["ON"]) {
            self.refuse(MY, "DROP INDEX without its table", "DROP INDEX i ON t");
        }
        let creates_index = self.is(0, &["CREATE", "INDEX"]) || self.is(0, &["CREATE", "UNIQUE", "INDEX"]);
        if creates_index && self.has(&["IF", "NOT", "EXISTS"]) {
            self.refuse(&[Mysql], "CREATE INDEX IF NOT EXISTS", "leave IF NOT EXISTS away");
        }
        if creates_index && depth_0("WHERE") {
            self.refuse(MY, "an index of some rows", "an index of all rows");
        }
        if creates_table {
            self.table(strict);
        }
        for at in 0..self.words.len() {
            if self.is(at, &["CAST", "("]) {
                self.cast(at);
            }
        }
    }

    fn table(&mut self, is_strict: bool) {
        if is_strict {
            self.refuse(ALL, "STRICT", "leave it away: the others are");
        }
        if self.has(&["WITHOUT", "ROWID"]) {
            self.refuse(ALL, "WITHOUT ROWID", "leave it away");
        }
        for (name, instead) in TYPES {
            // A type stands after a name.
            if (1..self.words.len()).any(|at| {
                self.is(at, &[name])
                    && self.words[at].depth == 1
                    && !["(", ","].contains(&self.words[at - 1].text)
            }) {
                self.refuse(PG, *name, instead);
            }
        }
    }

    fn cast(&mut self, at: usize) {
        let depth = self.words[at].depth + 1;
        let Some(of) =
            (at + 2..self.words.len()).find(|&n| self.words[n].depth == depth && self.is(n, &["AS"]))
        else {
            return;
        };
        if self.is(of + 1, &["TEXT"]) {
            self.refuse(MY, "CAST(... AS TEXT)", "CAST(... AS CHAR)");
        } else if self.is(of + 1, &["INTEGER"]) || self.is(of + 1, &["INT"]) {
            self.refuse(&[Mysql], "CAST(... AS INTEGER)", "CAST(... AS SIGNED)");
        } else if self.is(of + 1, &["BLOB"]) {
            self.refuse(PG, "CAST(... AS BLOB)", "CAST(... AS bytea)");
            self.refuse(MY, "CAST(... AS BLOB)", "CAST(... AS BINARY)");
        } else if self.is(of + 1, &["REAL"]) {
            self.refuse(&[Mariadb], "CAST(... AS REAL)", "CAST(... AS DOUBLE)");
        }
    }
}
