//! What a statement of the log does to tables.
//!
//! Rows come as rows; a statement comes for what has none: a table that is made, changed, emptied or gone, and the bounds of transactions.

/// A table by its names; without one of the database it is of the statement's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) database: Option<String>,
    pub(crate) table: String,
}

/// What a statement does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A transaction begins.
    Begin,
    /// A transaction ends.
    Commit,
    /// A transaction ends without effect.
    RollBack,
    /// A part of a transaction ends without effect.
    RollBackPart,
    /// Something within a transaction that changes nothing.
    Nothing,
    /// A transaction that was prepared before ends; its name as [`xa_name`](super::event::xa_name) has it.
    CommitPrepared { xa: String },
    /// The same without effect.
    RollBackPrepared { xa: String },
    /// Changes tables, or nothing that is a table.
    Definition(Vec<(Name, Alteration)>),
    /// A database is gone.
    DropDatabase(String),
    /// Rows that are changed by a statement.
    Rows,
}

/// What happens to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alteration {
    /// All rows are gone.
    Emptied,
    /// It is gone, or another one has its name.
    Gone,
    /// Its columns may be others, and the values in them.
    Columns,
    /// Its columns are the same: an index, a comment.
    Other,
    /// Rows of it came or went with a part of it.
    Parts,
}

/// What a statement does.
pub(crate) fn effect(sql: &str) -> Effect {
    let tokens = tokens(sql);
    let mut words = Words { tokens: &tokens };
    let Some(first) = words.word() else { return Effect::Nothing };
    match first.as_str() {
        "BEGIN" | "START" => Effect::Begin,
        "COMMIT" => Effect::Commit,
        "ROLLBACK" => match words.skip(&["WORK"]).is("TO") {
            true => Effect::RollBackPart,
            false => Effect::RollBack,
        },
        "SAVEPOINT" | "RELEASE" | "SET" | "USE" | "FLUSH" | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK"
        | "GRANT" | "REVOKE" | "INSTALL" | "UNINSTALL" | "#" => Effect::Nothing,
        "XA" => {
            let verb = words.word().unwrap_or_default();
            let xa: String = words.tokens.iter().map(|token| token.text.to_ascii_uppercase()).collect();
            match verb.as_str() {
                "START" | "BEGIN" => Effect::Begin,
                "COMMIT" if words.tokens.iter().any(|token| token.is("PHASE")) => Effect::Commit,
                "COMMIT" => Effect::CommitPrepared { xa },
                "ROLLBACK" => Effect::RollBackPrepared { xa },
                _ => Effect::Nothing,
            }
        }
        "TRUNCATE" => of_one(words.skip(&["TABLE"]), Alteration::Emptied),
        "RENAME" if words.is("TABLE") || words.is("TABLES") => rename(words),
        "DROP" => drop(words),
        "CREATE" => create(words),
        "ALTER" => alter(words),
        "DELETE" => {
            words = words.skip(&["FROM"]);
            let name = words.name().filter(|_| words.tokens.is_empty());
            // As the server empties a table that is in memory only.
            name.map_or(Effect::Rows, |name| Effect::Definition(vec![(name, Alteration::Emptied)]))
        }
        "INSERT" | "UPDATE" | "REPLACE" | "LOAD" | "MERGE" | "CALL" | "WITH" => Effect::Rows,
        _ => Effect::Definition(vec![]),
    }
}

fn of_one(mut words: Words<'_>, alteration: Alteration) -> Effect {
    Effect::Definition(words.name().map(|name| (name, alteration)).into_iter().collect())
}

/// Both names: what had the new one, if anything, had it taken before.
fn rename(mut words: Words<'_>) -> Effect {
    words.word();
    let mut found = vec![];
    let mut words = words.skip(&["IF", "EXISTS"]);
    while let Some(old) = words.name() {
        found.push((old, Alteration::Gone));
        words = words.skip(&["WAIT", "NOWAIT"]);
        if words.is("TO") {
            words.word();
            found.extend(words.name().map(|new| (new, Alteration::Gone)));
        }
        if !words.sign(',') {
            break;
        }
    }
    Effect::Definition(found)
}

fn drop(mut words: Words<'_>) -> Effect {
    let kind = words.word().unwrap_or_default();
    match kind.as_str() {
        "TABLE" | "TABLES" => {
            let mut words = words.skip(&["IF", "EXISTS"]);
            let mut found = vec![];
            while let Some(name) = words.name() {
                found.push((name, Alteration::Gone));
                if !words.sign(',') {
                    break;
                }
            }
            Effect::Definition(found)
        }
        "DATABASE" | "SCHEMA" => {
            let name = words.skip(&["IF", "EXISTS"]).name();
            name.map_or(Effect::Definition(vec![]), |name| Effect::DropDatabase(name.table))
        }
        // DROP INDEX name ON table
        "INDEX" => {
            while !words.tokens.is_empty() && !words.is("ON") {
                words.tokens = &words.tokens[1..];
            }
            words.word();
            of_one(words, Alteration::Other)
        }
        // Tables of one session, views and what runs by itself.
        _ => Effect::Definition(vec![]),
    }
}

fn create(words: Words<'_>) -> Effect {
    let mut words = words;
    let replaces = words.is("OR");
    words = words.skip(&["OR", "REPLACE"]);
    let is_index = ["UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR", "INDEX"].iter().any(|word| words.is(word));
    if is_index {
        while !words.tokens.is_empty() && !words.is("ON") {
            words.tokens = &words.tokens[1..];
        }
        words.word();
        return of_one(words, Alteration::Other);
    }
    match words.is("TABLE") {
        // Where it is there already, nothing is done.
        true if replaces => {
            words.word();
            of_one(words, Alteration::Gone)
        }
        _ => Effect::Definition(vec![]),
    }
}

fn alter(mut words: Words<'_>) -> Effect {
    words = words.skip(&["ONLINE", "OFFLINE", "IGNORE"]);
    if !words.is("TABLE") {
        return Effect::Definition(vec![]);
    }
    words.word();
    words = words.skip(&["IF", "EXISTS"]);
    let Some(name) = words.name() else { return Effect::Definition(vec![]) };
    let mut found = vec![];
    let mut worst = Alteration::Other;
    // What each part does, by its first words.
    for part in words.tokens.split(|token| token.depth == 0 && token.text == ",") {
        let mut part = Words { tokens: part };
        let verb = part.word().unwrap_or_default();
        let of_index = |part: &Words<'_>| {
            ["INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR", "CONSTRAINT", "FOREIGN", "CHECK"]
                .iter()
                .any(|word| part.is(word))
        };
        let has_parts = part.tokens.iter().any(|token| token.is("PARTITION") || token.is("TABLESPACE"));
        let alteration = match verb.as_str() {
            "RENAME" if part.is("INDEX") || part.is("KEY") => Alteration::Other,
            "RENAME" if !part.is("COLUMN") => {
                found.extend(part.skip(&["TO", "AS"]).name().map(|new| (new, Alteration::Gone)));
                Alteration::Gone
            }
            "EXCHANGE" => {
                let with = part.tokens.iter().position(|token| token.is("TABLE"));
                if let Some(with) = with {
                    let mut with = Words { tokens: &part.tokens[with + 1..] };
                    found.extend(with.name().map(|with| (with, Alteration::Parts)));
                }
                Alteration::Parts
            }
            "DROP" | "TRUNCATE" | "DISCARD" | "IMPORT" if has_parts => Alteration::Parts,
            "ADD" | "DROP" if of_index(&part) => Alteration::Other,
            "ADD" | "REORGANIZE" | "COALESCE" | "REMOVE" | "PARTITION" | "REBUILD" if has_parts => {
                Alteration::Other
            }
            "ALTER" if of_index(&part) => Alteration::Other,
            "ADD" | "DROP" | "CHANGE" | "MODIFY" | "RENAME" | "CONVERT" => Alteration::Columns,
            _ => Alteration::Other,
        };
        worst = match (worst, alteration) {
            (Alteration::Gone, _) | (_, Alteration::Gone) => Alteration::Gone,
            (Alteration::Parts, _) | (_, Alteration::Parts) => Alteration::Parts,
            (Alteration::Columns, _) | (_, Alteration::Columns) => Alteration::Columns,
            _ => Alteration::Other,
        };
    }
    found.insert(0, (name, worst));
    Effect::Definition(found)
}

/// A word, in capitals; a name or a text, as it is; or a sign.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    is_quoted: bool,
    is_sign: bool,
    depth: usize,
}

impl Token {
    fn is(&self, word: &str) -> bool {
        !self.is_quoted && self.text.eq_ignore_ascii_case(word)
    }
}

#[derive(Clone, Copy)]
struct Words<'a> {
    tokens: &'a [Token],
}

impl Words<'_> {
    fn is(&self, word: &str) -> bool {
        self.tokens.first().is_some_and(|token| token.is(word))
    }

    /// The next word, in capitals.
    fn word(&mut self) -> Option<String> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first.text.to_ascii_uppercase())
    }

    /// Without these words, where they are next.
    fn skip(mut self, words: &[&str]) -> Self {
        while words.iter().any(|word| self.is(word)) {
            self.tokens = &self.tokens[1..];
        }
        self
    }

    fn sign(&mut self, sign: char) -> bool {
        let is_next = self.tokens.first().is_some_and(|token| token.is_sign && token.text.starts_with(sign));
        if is_next {
            self.tokens = &self.tokens[1..];
        }
        is_next
    }

    fn name(&mut self) -> Option<Name> {
        let (first, rest) = self.tokens.split_first()?;
        if first.is_sign {
            return None;
        }
        self.tokens = rest;
        if !self.sign('.') {
            return Some(Name { database: None, table: first.text.clone() });
        }
        let (second, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(Name { database: Some(first.text.clone()), table: second.text.clone() })
    }
}

/// What is not a comment; what only some servers read is read.
fn tokens(sql: &str) -> Vec<Token> {
    let mut tokens = vec![];
    let (mut rest, mut depth) = (sql, 0_usize);
    while let Some(first) = rest.chars().next() {
        let line = |rest: &str| rest.find('\n').map_or(rest.len(), |end| end + 1);
        let length = match first {
            '/' if rest.starts_with("/*!") || rest.starts_with("/*M!") => {
                let bang = rest.find('!').unwrap_or(0) + 1;
                bang + rest[bang..].bytes().take_while(u8::is_ascii_digit).count()
            }
            '/' if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            '*' if rest.starts_with("*/") => 2,
            '#' => line(rest),
            '-' if rest.starts_with("-- ") || rest.starts_with("--\n") || rest.starts_with("--\t") => {
                line(rest)
            }
            c if c.is_whitespace() => c.len_utf8(),
            quote @ ('`' | '\'' | '"') => {
                let (text, length) = quoted(rest, quote);
                tokens.push(Token { text, is_quoted: true, is_sign: false, depth });
                length
            }
            c if is_part(c) => {
                let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                let text = rest[..length].to_owned();
                tokens.push(Token { text, is_quoted: false, is_sign: false, depth });
                length
            }
            c => {
                if c == ')' {
                    depth = depth.saturating_sub(1);
                }
                tokens.push(Token { text: c.to_string(), is_quoted: false, is_sign: true, depth });
                if c == '(' {
                    depth += 1;
                }
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    tokens
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// What is between quotes, and how long it is with them.
fn quoted(sql: &str, quote: char) -> (String, usize) {
    let mut text = String::new();
    let mut chars = sql.char_indices().skip(1).peekable();
    while let Some((_, c)) = chars.next() {
        match c {
            '\\' if quote != '`' => text.extend(chars.next().map(|(_, c)| c)),
            c if c == quote => match chars.next_if(|(_, next)| *next == quote) {
                Some(_) => text.push(quote),
                None => break,
            },
            c => text.push(c),
        }
    }
    let length = chars.next().map_or(sql.len(), |(at, _)| at);
    (text, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Vec<(String, Alteration)> {
        match effect(sql) {
            Effect::Definition(found) => found
                .into_iter()
                .map(|(Name { database, table }, what)| {
                    (database.map_or(table.clone(), |database| format!("{database}.{table}")), what)
                })
                .collect(),
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn tables_that_change_are_named() {
        use Alteration::{Columns, Emptied, Gone, Other, Parts};
        let cases: &[(&str, &[(&str, Alteration)])] = &[
            ("TRUNCATE TABLE `a`", &[("a", Emptied)]),
            ("truncate shop.orders", &[("shop.orders", Emptied)]),
            ("DELETE FROM `shop`.`orders`", &[("shop.orders", Emptied)]),
            (
                "DROP TABLE IF EXISTS `a`,`x`.`b``c` /* generated by server */",
                &[("a", Gone), ("x.b`c", Gone)],
            ),
            ("DROP TEMPORARY TABLE a", &[]),
            ("DROP VIEW a", &[]),
            ("RENAME TABLE a TO b, x.c TO d", &[("a", Gone), ("b", Gone), ("x.c", Gone), ("d", Gone)]),
            ("CREATE TABLE a (id int)", &[]),
            ("CREATE OR REPLACE TABLE a (id int)", &[("a", Gone)]),
            ("CREATE UNIQUE INDEX i ON a (b)", &[("a", Other)]),
            ("DROP INDEX i ON x.a", &[("x.a", Other)]),
            ("ALTER TABLE a ADD COLUMN b int DEFAULT 3, ADD KEY (b)", &[("a", Columns)]),
            ("alter table a add b enum('x,y','z') first", &[("a", Columns)]),
            ("ALTER TABLE a ADD INDEX (b), COMMENT 'DROP COLUMN, b'", &[("a", Other)]),
            ("ALTER TABLE `s`.`a` MODIFY b decimal(10,1)", &[("s.a", Columns)]),
            ("ALTER TABLE a RENAME TO b", &[("a", Gone), ("b", Gone)]),
            ("ALTER TABLE a RENAME INDEX b TO c", &[("a", Other)]),
            ("ALTER TABLE a RENAME COLUMN b TO c", &[("a", Columns)]),
            ("ALTER TABLE a DROP PARTITION p1", &[("a", Parts)]),
            ("ALTER TABLE a EXCHANGE PARTITION p WITH TABLE b", &[("a", Parts), ("b", Parts)]),
            ("/*!40000 ALTER TABLE `a` DISABLE KEYS */", &[("a", Other)]),
            ("# who\nALTER /* x */ TABLE a -- y\n CONVERT TO CHARACTER SET utf8mb4", &[("a", Columns)]),
            ("CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW SET NEW.x = 1", &[]),
        ];
        for (sql, expected) in cases {
            let expected: Vec<(String, Alteration)> =
                expected.iter().map(|(name, what)| ((*name).to_owned(), *what)).collect();
            assert_eq!(of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn transactions_have_bounds() {
        assert_eq!(effect("BEGIN"), Effect::Begin);
        assert_eq!(effect("COMMIT /* implicit, from Xid_log_event */"), Effect::Commit);
        assert_eq!(effect("ROLLBACK"), Effect::RollBack);
        assert_eq!(effect("ROLLBACK TO `a`"), Effect::RollBackPart);
        assert_eq!(effect("SAVEPOINT `a`"), Effect::Nothing);
        let xa = "X'61',X'62',1".to_owned();
        let as_read = |text: &str| text.replace('\'', "");
        assert_eq!(effect(&format!("XA START {xa}")), Effect::Begin);
        assert_eq!(effect(&format!("XA END {xa}")), Effect::Nothing);
        assert_eq!(effect(&format!("XA COMMIT {xa}")), Effect::CommitPrepared { xa: as_read(&xa) });
        assert_eq!(effect(&format!("XA COMMIT {xa} ONE PHASE")), Effect::Commit);
        assert_eq!(effect("insert into a values (1)"), Effect::Rows);
        assert_eq!(effect("delete from a where b"), Effect::Rows);
        assert_eq!(effect("DROP DATABASE `x`"), Effect::DropDatabase("x".to_owned()));
    }
}
