//! The words of a statement, for what SQLite does not tell of it: where a name stands in its text, and whether there is a WHERE.

/// A word, a name or a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word<'a> {
    /// As it is written, with its quotes.
    pub(crate) text: &'a str,
    /// Where in the statement it begins.
    pub(crate) at: usize,
    /// How many brackets are open around it.
    pub(crate) depth: usize,
}

impl Word<'_> {
    /// Whether it is this keyword.
    pub(crate) fn is(&self, keyword: &str) -> bool {
        self.text.eq_ignore_ascii_case(keyword)
    }

    /// Without the quotes of a name.
    pub(crate) fn name(&self) -> String {
        let inner = |quote: &str| {
            self.text.get(1..self.text.len() - 1).unwrap_or_default().replace(&quote.repeat(2), quote)
        };
        match self.text.bytes().next() {
            Some(b'"') => inner("\""),
            Some(b'`') => inner("`"),
            Some(b'\'') => inner("'"),
            Some(b'[') => self.text.trim_matches(['[', ']']).to_owned(),
            _ => self.text.to_owned(),
        }
    }

    /// Whether it is this name; SQLite does not tell ASCII capitals from small letters.
    pub(crate) fn names(&self, name: &str) -> bool {
        !self.text.starts_with('\'') && self.name().eq_ignore_ascii_case(name)
    }
}

/// All words; comments are none.
pub(crate) fn words(sql: &str) -> Vec<Word<'_>> {
    let (mut words, mut at, mut depth) = (vec![], 0, 0_usize);
    while let Some(first) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let length = match first {
            _ if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            '\'' | '"' | '`' => quoted(rest, first),
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            c if is_part(c) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let is_comment = rest.starts_with("--") || rest.starts_with("/*");
        if first == ')' {
            depth = depth.saturating_sub(1);
        }
        if !is_comment && !first.is_whitespace() {
            words.push(Word { text: &rest[..length], at, depth });
        }
        if first == '(' {
            depth += 1;
        }
        at += length;
    }
    words
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The length of what begins with a quote; two of them in it are one.
fn quoted(text: &str, quote: char) -> usize {
    let mut from = 1;
    while let Some(end) = text[from..].find(quote) {
        from += end + 1;
        if !text[from..].starts_with(quote) {
            return from;
        }
        from += 1;
    }
    text.len()
}

/// What a statement does to a table as a whole, and where it names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head<'a> {
    /// CREATE TABLE.
    Create(Word<'a>),
    /// DROP TABLE.
    Drop(Word<'a>),
    /// ALTER TABLE ... RENAME TO.
    Rename(Word<'a>, Word<'a>),
    /// INSERT INTO.
    Insert(Word<'a>),
}

/// Reads the beginning of a statement; `None` for all others, and for temporary tables.
pub(crate) fn head<'a>(words: &[Word<'a>]) -> Option<Head<'a>> {
    let starts = |keywords: &[&str]| {
        keywords.len() <= words.len() && words.iter().zip(keywords).all(|(word, keyword)| word.is(keyword))
    };
    let after = |count: usize| {
        let rest = &words[count..];
        let skipped = rest.iter().take_while(|w| w.is("IF") || w.is("NOT") || w.is("EXISTS")).count();
        let rest = &rest[skipped..];
        if rest.get(1).is_some_and(|dot| dot.text == ".") { rest.get(2..) } else { Some(rest) }
    };
    let name = |count: usize| after(count).and_then(|rest| rest.first().copied());
    if starts(&["CREATE", "TABLE"]) {
        return name(2).map(Head::Create);
    }
    if starts(&["DROP", "TABLE"]) {
        return name(2).map(Head::Drop);
    }
    if starts(&["ALTER", "TABLE"]) {
        let rest = after(2)?;
        let is_rename = rest.get(1)?.is("RENAME") && rest.get(2)?.is("TO");
        return is_rename.then_some(Head::Rename(*rest.first()?, *rest.get(3)?));
    }
    if starts(&["INSERT"]) || starts(&["REPLACE"]) {
        let into = words.iter().position(|word| word.is("INTO"))?;
        return name(into + 1).map(Head::Insert);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_comments_and_brackets() {
        let texts: Vec<_> = words("a\"b\"\"c\"`d`[e f]'g''h' -- i\n/*/ j */ (k)")
            .iter()
            .map(|w| (w.name(), w.depth))
            .collect();
        let expected =
            [("a", 0), ("b\"c", 0), ("d", 0), ("e f", 0), ("g'h", 0), ("(", 0), ("k", 1), (")", 0)];
        assert_eq!(texts, expected.map(|(text, depth)| (text.to_owned(), depth)));
    }

    #[test]
    fn heads() {
        let of = |sql: &str| match head(&words(sql))? {
            Head::Create(name) => Some(format!("create {}", name.name())),
            Head::Drop(name) => Some(format!("drop {}", name.name())),
            Head::Rename(from, to) => Some(format!("rename {} {}", from.name(), to.name())),
            Head::Insert(name) => Some(format!("insert {}", name.name())),
        };
        assert_eq!(of("create table if not exists main.`a b`(x)").unwrap(), "create a b");
        assert_eq!(of("DROP TABLE IF EXISTS [a]").unwrap(), "drop a");
        assert_eq!(of("ALTER TABLE \"a\" RENAME TO b").unwrap(), "rename a b");
        assert_eq!(of("INSERT OR IGNORE INTO main.a SELECT 1").unwrap(), "insert a");
        for other in [
            "CREATE TEMP TABLE a(x)",
            "ALTER TABLE a RENAME x TO y",
            "ALTER TABLE a ADD x",
            "SELECT 1",
            "CREATE",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
