//! What the words of one statement tell.

use crate::words::Word;

/// What SQLite does not do in a transaction, or not as it reads: code, what happens, and what to do.
pub(super) fn trap(words: &[Word<'_>]) -> Option<(&'static str, &'static str, &'static str)> {
    let first = words.first()?;
    let is = |keywords: &[&str]| keywords.iter().any(|keyword| first.is(keyword));
    if is(&["PRAGMA"]) {
        return pragma(words);
    }
    if is(&["VACUUM"]) {
        let message = "VACUUM does not work in a transaction, and each file is one";
        return Some(("vacuum", message, "run it by itself, when little is written"));
    }
    if is(&["ATTACH", "DETACH"]) {
        let message = "what is done to another file is in no backup of this one, and not undone with it";
        return Some(("attach", message, "migrate each database by itself"));
    }
    if is(&["ROLLBACK"]) {
        let message = "each file is one transaction, of which half would be undone";
        return Some(("transaction", message, "take it out"));
    }
    if is(&["BEGIN", "COMMIT", "END", "SAVEPOINT", "RELEASE"]) {
        let message = "each file is one transaction already: this is passed over";
        return Some((
            "transaction",
            message,
            "take it out; what shall be durable by itself belongs into a file of its own",
        ));
    }
    None
}

fn pragma(words: &[Word<'_>]) -> Option<(&'static str, &'static str, &'static str)> {
    let name = words.iter().skip(1).rev().find(|word| {
        // `main.NAME = VALUE` and `NAME(VALUE)`.
        words
            .iter()
            .any(|next| next.at >= word.at + word.text.len() && (next.text == "=" || next.text == "("))
            && word.text != "."
            && word.depth == 0
            && word.text != "="
    });
    let name = name.or(words.last())?;
    let is = |names: &[&str]| names.iter().any(|own| name.is(own));
    if is(&["user_version", "application_id", "legacy_alter_table"]) {
        return None;
    }
    if is(&["journal_mode"]) {
        let message = "the journal mode does not change in a transaction, and a backup needs it to stay";
        return Some(("journal-mode", message, "take it out"));
    }
    if is(&["foreign_keys", "defer_foreign_keys"]) {
        let message = "in a transaction this does nothing: other tools run the file with foreign keys on, and dropping a table then deletes the rows that refer to it";
        return Some((
            "pragma",
            message,
            "take it out: `litekeep migrate up` has them off before the transaction begins",
        ));
    }
    let message = "a pragma belongs to the connection that runs the file, and is gone with it";
    Some(("pragma", message, "set it where the application opens its connections"))
}

/// The verb and the table of an UPDATE or DELETE that has no WHERE.
pub(super) fn whole_table(words: &[Word<'_>]) -> Option<(&'static str, String)> {
    let starts =
        words.first().is_some_and(|word| ["WITH", "UPDATE", "DELETE"].iter().any(|verb| word.is(verb)));
    let outer: Vec<_> = words.iter().filter(|word| word.depth == 0).collect();
    if !starts || outer.iter().any(|word| word.is("WHERE") || word.is("LIMIT")) {
        return None;
    }
    let at = outer.iter().position(|word| word.is("UPDATE") || word.is("DELETE"))?;
    let verb = if outer[at].is("UPDATE") { "UPDATE" } else { "DELETE" };
    let mut rest = outer[at + 1..].iter();
    let mut name = rest.next()?;
    if name.is("OR") {
        name = rest.nth(1)?;
    }
    if name.is("FROM") {
        name = rest.next()?;
    }
    let mut rest = rest.clone();
    if rest.next().is_some_and(|dot| dot.text == ".") {
        name = rest.next()?;
    }
    Some((verb, name.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::words;

    #[test]
    fn traps_are_told_by_their_words() {
        let code = |sql: &str| trap(&words(sql)).map(|(code, ..)| code);
        for (sql, expected) in [
            ("PRAGMA foreign_keys = OFF", Some("pragma")),
            ("pragma main.journal_mode=DELETE", Some("journal-mode")),
            ("PRAGMA journal_mode(wal)", Some("journal-mode")),
            ("PRAGMA cache_size", Some("pragma")),
            ("PRAGMA user_version = 7", None),
            ("PRAGMA legacy_alter_table=ON", None),
            ("BEGIN", Some("transaction")),
            ("ROLLBACK TO x", Some("transaction")),
            ("VACUUM", Some("vacuum")),
            ("ATTACH 'x' AS y", Some("attach")),
            ("CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END", None),
        ] {
            assert_eq!(code(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_where_in_brackets_or_quotes_is_none() {
        let table = |sql: &str| whole_table(&words(sql)).map(|(verb, table)| format!("{verb} {table}"));
        assert_eq!(table("DELETE FROM main.`a b`").unwrap(), "DELETE a b");
        assert_eq!(
            table("UPDATE OR IGNORE a SET x = (SELECT 1 FROM b WHERE y), z = 'WHERE' -- WHERE").unwrap(),
            "UPDATE a"
        );
        assert_eq!(table("WITH c AS (SELECT 1 WHERE 1) DELETE FROM a").unwrap(), "DELETE a");
        assert_eq!(table("DELETE FROM a WHERE x"), None);
        assert_eq!(table("INSERT INTO a VALUES(1) ON CONFLICT DO UPDATE SET x = 1"), None);
    }
}
