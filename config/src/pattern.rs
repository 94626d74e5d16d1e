//! Which file names in a watched folder are databases.

use std::fmt;

/// A glob over one file name: `*` any run of characters, `?` one character, `[a-z]` and `[!a-z]` one of a set,
/// `\` takes the next character as it is. As in Litestream it is compared with the name, never with the folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    AnyRun,
    AnyOne,
    Exactly(char),
    OneOf { ranges: Vec<(char, char)>, negated: bool },
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// A phrase that says what is wrong: empty, a slash, an open `[`, a `\` at the end.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty: write \"*.db\"".into());
        }
        if text.contains('/') {
            return Err(
                "it has a `/`, but it is compared with file names only: put the folder into `dir` and set `recursive = true`"
                    .into(),
            );
        }
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' if parts.last() == Some(&Part::AnyRun) => continue,
                '*' => Part::AnyRun,
                '?' => Part::AnyOne,
                '\\' => Part::Exactly(chars.next().ok_or("it ends in a lone `\\`")?),
                '[' => parse_set(&mut chars)?,
                c => Part::Exactly(c),
            });
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// Whether a file of this name is meant. Linear in the name for each `*`: only the last star backtracks.
    pub fn matches(&self, file_name: &str) -> bool {
        let name: Vec<char> = file_name.chars().collect();
        let (mut part, mut at) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while at < name.len() || part < self.parts.len() {
            match self.parts.get(part) {
                Some(Part::AnyRun) => {
                    star = Some((part, at));
                    part += 1;
                    continue;
                }
                Some(wanted) if name.get(at).is_some_and(|c| wanted.accepts(*c)) => {
                    part += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match star {
                Some((star_part, star_at)) if star_at < name.len() => {
                    star = Some((star_part, star_at + 1));
                    part = star_part + 1;
                    at = star_at + 1;
                }
                _ => return false,
            }
        }
        true
    }
}

impl Part {
    fn accepts(&self, c: char) -> bool {
        match self {
            Part::AnyRun | Part::AnyOne => true,
            Part::Exactly(wanted) => *wanted == c,
            Part::OneOf { ranges, negated } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

fn parse_set(chars: &mut std::str::Chars<'_>) -> Result<Part, String> {
    let unclosed = "it has a `[` without its `]`";
    let negated = chars.as_str().starts_with(['!', '^']);
    if negated {
        chars.next();
    }
    let mut ranges = Vec::new();
    loop {
        let low = match chars.next().ok_or(unclosed)? {
            ']' if !ranges.is_empty() => return Ok(Part::OneOf { ranges, negated }),
            '\\' => chars.next().ok_or(unclosed)?,
            c => c,
        };
        let mut high = low;
        let mut ahead = chars.clone();
        if ahead.next() == Some('-') && !ahead.as_str().starts_with(']') {
            chars.next();
            high = match chars.next().ok_or(unclosed)? {
                '\\' => chars.next().ok_or(unclosed)?,
                c => c,
            };
        }
        if low > high {
            return Err(format!("its range `{low}-{high}` runs backwards"));
        }
        ranges.push((low, high));
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn matching() {
        for (pattern, yes, no) in [
            ("*.db", vec!["a.db", ".db", "a.b.db"], vec!["a.db-wal", "db", ""]),
            ("t?.sqlite", vec!["t1.sqlite", "té.sqlite"], vec!["t.sqlite", "t12.sqlite"]),
            ("[a-c]*", vec!["a", "bx"], vec!["d", ""]),
            ("[!a-c]*", vec!["d"], vec!["a"]),
            ("*a*b", vec!["ab", "xaab", "aab"], vec!["ba", "abx"]),
            (r"\*", vec!["*"], vec!["a"]),
            ("[]x]", vec!["]", "x"], vec!["y"]),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert!(yes.iter().all(|name| parsed.matches(name)), "{pattern} should match {yes:?}");
            assert!(!no.iter().any(|name| parsed.matches(name)), "{pattern} should not match {no:?}");
        }
        assert!(Pattern::parse("a/*.db").unwrap_err().contains("recursive"));
        assert_eq!(Pattern::parse("[ab").unwrap_err(), "it has a `[` without its `]`");
        assert_eq!(Pattern::parse("[z-a]").unwrap_err(), "its range `z-a` runs backwards");
    }

    proptest! {
        #[test]
        fn no_pattern_panics_and_a_name_between_stars_matches(pattern in "[*?a-c\\[\\]!\\\\-]{0,9}", name in "[a-c]{0,9}") {
            if let Ok(parsed) = Pattern::parse(&pattern) {
                parsed.matches(&name);
            }
            let around = Pattern::parse(&format!("*{name}*")).unwrap();
            prop_assert!(around.matches(&format!("a{name}b")), "{}", around);
        }
    }
}
