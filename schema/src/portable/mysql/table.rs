//! Tables of a SQLite database as MySQL and MariaDB would have them.
//!
//! Two values that SQLite tells apart are two values there: text is compared byte by byte, and a space at the end counts.

use std::collections::BTreeMap;

use litekeep_sql::{Declaration, DeclaredIndex, ForeignKey, IndexPart, Profile};
use serde::{Deserialize, Serialize};

use super::value::MyType;
use crate::portable::columns::{self, Notes, Written, is_number, written};
use crate::portable::{Level, Note};

/// Characters of the longest name.
const LONGEST_NAME: usize = 64;
/// Bytes that all columns of an index have room for together.
const KEY_BYTES: usize = 3072;
/// Characters of text that an index has which is not unique: enough to find rows by.
const PREFIX: usize = 191;

/// A table there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name in SQLite.
    pub source: String,
    /// Its name there.
    pub name: String,
    /// Its columns; virtual ones are left out.
    pub columns: Vec<Column>,
    /// Which of them are the primary key; empty: it has none.
    pub key: Vec<usize>,
    /// The column that gives itself numbers.
    pub identity: Option<usize>,
    /// Its indexes.
    pub indexes: Vec<Index>,
    /// Statements that make its foreign keys.
    #[serde(default)]
    pub foreign_keys: Vec<String>,
}

/// A column there.
pub type Column = columns::Column<MyType>;

/// What a user wants otherwise. A schema is a database there.
pub type Options = columns::Options<MyType>;

/// An index there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Its name, which no other of the table has.
    pub name: String,
    /// Values are unique.
    pub is_unique: bool,
    /// What it is ordered by.
    pub parts: Vec<Part>,
}

/// A column of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which of the table's.
    pub column: usize,
    /// Only so many characters or bytes of it.
    pub prefix: Option<u16>,
    /// From great to small.
    pub is_descending: bool,
}

/// Which of the two servers it is: they name the collation differently that compares text as SQLite does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// MySQL, from 8.0.17 on.
    Mysql,
    /// MariaDB, from 10.2 on.
    Mariadb,
}

impl Flavor {
    /// By code point, where a space at the end counts.
    pub fn collation(self) -> &'static str {
        match self {
            Flavor::Mysql => "utf8mb4_0900_bin",
            Flavor::Mariadb => "utf8mb4_nopad_bin",
        }
    }
}

/// A name as SQL has it.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The whole name of a table.
pub fn path(name: &str, options: &Options) -> String {
    match &options.schema {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(name)),
        None => quoted(name),
    }
}

/// The table that is the like of a declared one with such values, and what it lacks. With a note of [`Level::Table`] it must
/// not be made.
pub fn map(declared: &Declaration, profiles: &[Profile], options: &Options) -> (Table, Vec<Note>) {
    let mut notes = Notes::of(&declared.name);
    let name = options.names.get(&declared.name).unwrap_or(&declared.name).clone();
    check_name(&mut notes, None, &name);
    for column in &declared.columns {
        check_name(&mut notes, Some(&column.name), &column.name);
    }
    let columns = columns::columns(declared, profiles, options, default, &mut notes);
    for column in &columns {
        let is_json = declared.columns[column.source].declared.to_ascii_uppercase().contains("JSON");
        if is_json && column.kind == MyType::Text {
            let message = "is JSON and stays text: the type JSON there would write it anew";
            notes.add(Some(&column.name), Level::Info, message);
        }
    }
    let key = columns::key(declared, profiles, &columns, &mut notes);
    let mut table = Table {
        source: declared.name.clone(),
        name,
        columns,
        key,
        identity: None,
        indexes: vec![],
        foreign_keys: vec![],
    };
    let longest: Vec<u64> = table.columns.iter().map(|column| profiles[column.source].longest).collect();
    if let Err(nth) = table.make_room(&table.key.clone(), &longest) {
        let message = format!(
            "is in the primary key and up to {} bytes long, and a key there has room for {KEY_BYTES}: so there is none there",
            longest[nth]
        );
        notes.add(Some(&table.columns[nth].name), Level::Rule, message);
        table.key = vec![];
    }
    if table.key.is_empty() {
        notes.add(None, Level::Info, columns::NO_KEY);
    } else {
        table.identity = declared.rowid_alias.and_then(|source| table.place(source));
    }
    // What is unique first: it says how long the columns can be.
    let (unique, others): (Vec<_>, Vec<_>) = declared.indexes.iter().partition(|index| index.is_unique);
    for index in unique.into_iter().chain(others) {
        match table.index(declared, index, &longest) {
            Ok(index) => table.indexes.push(index),
            Err(why) => {
                notes.add(None, Level::Rule, format!("its index `{}` is not translated: {why}", index.name));
            }
        }
    }
    for key in &declared.foreign_keys {
        match table.foreign_key(declared, key, &longest, options) {
            Ok(statement) => table.foreign_keys.push(statement),
            Err(why) => {
                let message = format!("its foreign key to `{}` is not translated: {why}", key.parent);
                notes.add(None, Level::Rule, message);
            }
        }
    }
    (table, notes.notes)
}

fn check_name(notes: &mut Notes<'_>, column: Option<&str>, name: &str) {
    let count = name.chars().count();
    if count == 0 || count > LONGEST_NAME {
        let message = format!("its name has {count} characters, and those there have 1 to {LONGEST_NAME}");
        notes.add(column, Level::Table, message);
    } else if name.ends_with(' ') || name.chars().any(|c| c == '\0' || c > '\u{ffff}') {
        let message =
            "its name ends with a space, or holds a character that names there cannot, such as an emoji";
        notes.add(column, Level::Table, message);
    }
}

/// What a column has by default there; `None`: it has no like.
fn default(text: &str, my: MyType) -> Option<String> {
    let word = match written(text) {
        // Whatever a backslash means to the one who reads the table's definition.
        Written::Quoted(text) if my == MyType::Text && !text.contains('\\') => return Some(quoteless(text)),
        Written::Quoted(_) => return None,
        Written::Word(word) => word,
    };
    match (my, word.as_str()) {
        (_, "NULL") => Some("NULL".to_owned()),
        (MyType::Bigint | MyType::Decimal | MyType::Boolean, "TRUE") => Some("1".to_owned()),
        (MyType::Bigint | MyType::Decimal | MyType::Boolean, "FALSE") => Some("0".to_owned()),
        (MyType::Boolean, "0" | "1") => Some(word),
        (MyType::Bigint, number) if number.parse::<i64>().is_ok() => Some(word),
        (MyType::Double | MyType::Decimal, number) if is_number(number) => Some(word),
        (MyType::Text, "CURRENT_TIMESTAMP") => {
            Some("date_format(utc_timestamp(), '%Y-%m-%d %H:%i:%s')".to_owned())
        }
        (MyType::Text, "CURRENT_DATE") => Some("date_format(utc_timestamp(), '%Y-%m-%d')".to_owned()),
        (MyType::Text, "CURRENT_TIME") => Some("date_format(utc_timestamp(), '%H:%i:%s')".to_owned()),
        (MyType::Date, "CURRENT_DATE") => Some("utc_date()".to_owned()),
        // SQLite's has no fraction.
        (MyType::Datetime(form), "CURRENT_TIMESTAMP") if form.fraction == 0 => {
            Some("utc_timestamp()".to_owned())
        }
        _ => None,
    }
}

/// A text without a quote in it: MySQL keeps it with a backslash before, and then takes that for one itself.
fn quoteless(quoted: &str) -> String {
    let parts: Vec<String> =
        quoted[1..quoted.len() - 1].split("''").map(|part| format!("'{part}'")).collect();
    match &parts[..] {
        [only] => only.clone(),
        _ => format!("concat({})", parts.join(", char(39 using utf8mb4), ")),
    }
}

impl Table {
    /// Its whole name.
    pub fn path(&self, options: &Options) -> String {
        path(&self.name, options)
    }

    /// The statement that makes it, without indexes. InnoDB, whose transactions it needs.
    pub fn create(&self, options: &Options, flavor: Flavor) -> String {
        self.create_with(&[], options, flavor)
    }

    /// The same with its indexes, so that both are there or neither.
    pub fn create_whole(&self, options: &Options, flavor: Flavor) -> String {
        self.create_with(&self.indexes, options, flavor)
    }

    fn create_with(&self, indexes: &[Index], options: &Options, flavor: Flavor) -> String {
        let mut lines: Vec<String> = (0..self.columns.len()).map(|nth| self.definition(nth, "")).collect();
        if !self.key.is_empty() {
            let names: Vec<String> = self.key.iter().map(|nth| quoted(&self.columns[*nth].name)).collect();
            lines.push(format!("PRIMARY KEY ({})", names.join(", ")));
        }
        for index in indexes {
            let unique = if index.is_unique { "UNIQUE " } else { "" };
            lines.push(format!("{unique}INDEX {} ({})", quoted(&index.name), self.parts(index)));
        }
        format!(
            "CREATE TABLE {} (\n    {}\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE={}",
            self.path(options),
            lines.join(",\n    "),
            flavor.collation()
        )
    }

    /// The statement that adds a column.
    pub fn add_column(&self, nth: usize, options: &Options, flavor: Flavor) -> String {
        // A table that was there may have another collation.
        let collation = match self.columns[nth].kind.is_text() {
            true => format!(" CHARACTER SET utf8mb4 COLLATE {}", flavor.collation()),
            false => String::new(),
        };
        format!("ALTER TABLE {} ADD COLUMN {}", self.path(options), self.definition(nth, &collation))
    }

    fn definition(&self, nth: usize, collation: &str) -> String {
        let column = &self.columns[nth];
        let is_identity = self.identity == Some(nth);
        let is_not_null = column.is_not_null || self.key.contains(&nth);
        let not_null = if is_not_null { " NOT NULL" } else { "" };
        let identity = if is_identity { " AUTO_INCREMENT" } else { "" };
        let default = column.default.as_ref().filter(|_| !is_identity);
        // In parentheses, for that is how text has one.
        let default = default.map_or(String::new(), |text| format!(" DEFAULT ({text})"));
        format!("{} {}{collation}{not_null}{identity}{default}", quoted(&column.name), column.kind.sql())
    }

    /// The statement that makes an index.
    pub fn create_index(&self, index: &Index, options: &Options) -> String {
        let unique = if index.is_unique { "UNIQUE " } else { "" };
        let (name, path) = (quoted(&index.name), self.path(options));
        format!("CREATE {unique}INDEX {name} ON {path} ({})", self.parts(index))
    }

    /// What an index is ordered by, as SQL has it.
    fn parts(&self, index: &Index) -> String {
        let parts = index.parts.iter().map(|part| {
            let prefix = part.prefix.map_or(String::new(), |most| format!("({most})"));
            let descending = if part.is_descending { " DESC" } else { "" };
            format!("{}{prefix}{descending}", quoted(&self.columns[part.column].name))
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    fn place(&self, source: usize) -> Option<usize> {
        self.columns.iter().position(|column| column.source == source)
    }

    /// How many bytes each column of unlimited length can have where these are an index; `None`: all have room.
    fn share(&self, columns: &[usize]) -> Option<usize> {
        let (mut open, mut rest) = (0, KEY_BYTES);
        for nth in columns {
            match self.columns[*nth].kind {
                kind if is_open(kind) => open += 1,
                MyType::Decimal => rest = rest.saturating_sub(30),
                _ => rest = rest.saturating_sub(9),
            }
        }
        // Those that stand alone have all of it; with others each also has its length there.
        (open > 0).then(|| if columns.len() == 1 { rest } else { rest / open - 3 })
    }

    /// Limits the columns of a key to what it has room for. `Err`: one has a value that is longer.
    fn make_room(&mut self, key: &[usize], longest: &[u64]) -> Result<(), usize> {
        let Some(share) = self.share(key) else { return Ok(()) };
        let limits: BTreeMap<usize, MyType> =
            key.iter().map(|nth| (*nth, limited(self.columns[*nth].kind, share))).collect();
        let room = |kind: MyType| match kind {
            MyType::Varchar(most) | MyType::Varbinary(most) => u64::from(most),
            _ => u64::MAX,
        };
        if let Some((nth, _)) = limits.iter().find(|(nth, kind)| longest[**nth] > room(**kind)) {
            return Err(*nth);
        }
        limits.into_iter().for_each(|(nth, kind)| self.columns[nth].kind = kind);
        Ok(())
    }

    fn index(
        &mut self,
        declared: &Declaration,
        index: &DeclaredIndex,
        longest: &[u64],
    ) -> Result<Index, String> {
        if index.is_partial {
            return Err("it has only some of the rows".to_owned());
        }
        let place = |part: &Option<IndexPart>| {
            let part = part.as_ref().ok_or("it is on an expression")?;
            let nth = self.place(part.column).ok_or("it is on a column that is not there")?;
            let kind = self.columns[nth].kind;
            if kind == MyType::Tagged {
                return Err("it is on JSON");
            }
            if kind.is_text() && !part.collation.eq_ignore_ascii_case("BINARY") {
                return Err("it is in a collation that has no like");
            }
            Ok((nth, part.is_descending))
        };
        let parts = index.parts.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let columns: Vec<usize> = parts.iter().map(|(nth, _)| *nth).collect();
        let mut prefix = None;
        if index.is_unique {
            self.make_room(&columns, longest).map_err(|nth| {
                let name = &self.columns[nth].name;
                format!(
                    "`{name}` is up to {} bytes long, and an index there has room for {KEY_BYTES}",
                    longest[nth]
                )
            })?;
        } else if let Some(share) = self.share(&columns) {
            prefix = Some((share / 4).min(PREFIX));
        }
        let part = |(column, is_descending): (usize, bool)| {
            let is_longer = match self.columns[column].kind {
                MyType::Text | MyType::Blob => true,
                MyType::Varchar(most) | MyType::Varbinary(most) => {
                    prefix.is_some_and(|prefix| usize::from(most) > prefix)
                }
                _ => false,
            };
            let prefix = prefix.filter(|_| is_longer).and_then(|prefix| u16::try_from(prefix).ok());
            Part { column, prefix, is_descending }
        };
        let parts = parts.into_iter().map(part).collect();
        Ok(Index { name: self.index_name(declared, index), is_unique: index.is_unique, parts })
    }

    fn foreign_key(
        &mut self,
        declared: &Declaration,
        key: &ForeignKey,
        longest: &[u64],
        options: &Options,
    ) -> Result<String, String> {
        let columns: Option<Vec<usize>> = key.columns.iter().map(|nth| self.place(*nth)).collect();
        let columns = columns.ok_or("it is on a column that is not there")?;
        let names_of =
            |columns: &[String]| columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let refers: Vec<String> = columns.iter().map(|nth| self.columns[*nth].name.clone()).collect();
        if key.parent_columns.is_empty() {
            return Err(format!(
                "it does not say which columns of `{}`, which must be said there",
                key.parent
            ));
        }
        let action = |what: &str, action: &str| match action {
            "NO ACTION" => Ok(String::new()),
            "SET DEFAULT" => Err("there is no SET DEFAULT there"),
            action => Ok(format!(" ON {what} {action}")),
        };
        let actions = format!("{}{}", action("UPDATE", &key.on_update)?, action("DELETE", &key.on_delete)?);
        self.make_room(&columns, longest).map_err(|nth| {
            format!(
                "`{}` is up to {} bytes long, and a key there has room for {KEY_BYTES}",
                self.columns[nth].name, longest[nth]
            )
        })?;
        let parent = options.names.get(&key.parent).unwrap_or(&key.parent);
        let name = format!("{}_{}_fkey", declared.name, refers.join("_"));
        Ok(format!(
            "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}){actions}",
            self.path(options),
            quoted(columns::cut(&name, LONGEST_NAME, |_| 1).trim_end()),
            names_of(&refers),
            path(parent, options),
            names_of(&key.parent_columns),
        ))
    }

    /// A name that no other index of the table has, and that is not the primary key's.
    fn index_name(&self, declared: &Declaration, index: &DeclaredIndex) -> String {
        let wanted = columns::index_name(&self.name, declared, index);
        let cut = |name: &str, longest| columns::cut(name.trim_end(), longest, |_| 1);
        let is_taken = |name: &String| {
            name.is_empty()
                || ["PRIMARY", "GEN_CLUST_INDEX"].iter().any(|own| name.eq_ignore_ascii_case(own))
                || self.indexes.iter().any(|other| other.name.eq_ignore_ascii_case(name))
        };
        let plain = cut(&wanted, LONGEST_NAME);
        let numbered = (2..).map(|nth: u32| format!("{}_{nth}", cut(&wanted, LONGEST_NAME - 11)));
        std::iter::once(plain.trim_end().to_owned())
            .chain(numbered)
            .find(|name| !is_taken(name))
            .unwrap_or_default()
    }
}

fn is_open(kind: MyType) -> bool {
    matches!(kind, MyType::Text | MyType::Blob | MyType::Varchar(_) | MyType::Varbinary(_))
}

/// The same type with room for at most so many bytes; a character can have four.
fn limited(kind: MyType, bytes: usize) -> MyType {
    let most = |n: usize, before: Option<u16>| {
        let n = u16::try_from(n).unwrap_or(u16::MAX);
        before.map_or(n, |before| before.min(n))
    };
    match kind {
        MyType::Text => MyType::Varchar(most(bytes / 4, None)),
        MyType::Varchar(before) => MyType::Varchar(most(bytes / 4, Some(before))),
        MyType::Blob => MyType::Varbinary(most(bytes, None)),
        MyType::Varbinary(before) => MyType::Varbinary(most(bytes, Some(before))),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(sql: &str, longest: u64) -> (Table, Vec<Note>) {
        let declared = Declaration::read("t", sql).unwrap();
        let profile = Profile { texts: 1, longest, other_shapes: 1, ..Profile::default() };
        let profiles = vec![profile; declared.columns.len()];
        map(&declared, &profiles, &Options::default())
    }

    #[test]
    fn what_is_unique_has_room_in_its_index() {
        let (table, notes) =
            mapped("CREATE TABLE t(k TEXT PRIMARY KEY, a TEXT UNIQUE, b TEXT, UNIQUE (a, b))", 9);
        let sql: Vec<_> = table.columns.iter().map(|column| column.kind.sql()).collect();
        assert_eq!(sql, ["varchar(768)", "varchar(383)", "varchar(383)"]);
        assert_eq!(notes, []);
        let (table, notes) = mapped("CREATE TABLE t(k TEXT PRIMARY KEY, a TEXT UNIQUE)", 800);
        let shown: Vec<String> = notes.iter().map(ToString::to_string).collect();
        assert!(table.key.is_empty() && table.indexes.is_empty(), "{table:?}");
        assert!(shown[0].starts_with("t.k: is in the primary key and up to 800 bytes long"), "{shown:#?}");
        assert!(shown[2].contains("`a` is up to 800 bytes long"), "{shown:#?}");
        assert_eq!(table.columns[0].kind, MyType::Text);
    }

    #[test]
    fn each_index_has_a_name_of_its_own() {
        let long = "x".repeat(70);
        let sql =
            format!("CREATE TABLE t(a INT, {long} INT, b TEXT, UNIQUE ({long}, a), UNIQUE ({long}, b))");
        let names: Vec<String> = mapped(&sql, 9).0.indexes.into_iter().map(|index| index.name).collect();
        assert_eq!(names[0], format!("t_{}", "x".repeat(62)));
        assert_eq!(names[1], format!("t_{}_2", "x".repeat(51)));
    }

    #[test]
    fn names_that_cannot_be_there_are_told() {
        let (_, notes) = mapped("CREATE TABLE t(\"a \" INT, \"b😀\" INT, b INT)", 0);
        let levels: Vec<Level> =
            notes.iter().map(|note| note.level).filter(|level| *level == Level::Table).collect();
        assert_eq!(levels.len(), 2, "{notes:?}");
    }

    #[test]
    fn statements_are_quoted() {
        let declared = Declaration::read(
            "t`",
            "CREATE TABLE \"t`\"(id INTEGER PRIMARY KEY, \"a`b\" TEXT NOT NULL DEFAULT 'it''s', n INT)",
        )
        .unwrap();
        let profiles = vec![Profile::default(); 3];
        let (table, _) = map(&declared, &profiles, &Options::default());
        let sql = table.create(&Options::default(), Flavor::Mariadb);
        let expected = "CREATE TABLE `t``` (\n    `id` bigint NOT NULL AUTO_INCREMENT,\n    \
                        `a``b` longtext NOT NULL DEFAULT (concat('it', char(39 using utf8mb4), 's')),\n    `n` bigint,\n    PRIMARY KEY (`id`)\n\
                        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin";
        assert_eq!(sql, expected);
        assert!(
            table
                .add_column(1, &Options::default(), Flavor::Mysql)
                .contains("longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL")
        );
    }
}
