//! Errors and warnings with their place in the file.
//!
//! A diagnostic renders as
//!
//! ```text
//! litekeep.toml:12:1: unknown key `snapshto`: did you mean `snapshot_every`?
//!    |
//! 12 | snapshto = "24h"
//!    | ^^^^^^^^
//! ```
//!
//! Invariant: the quoted line never shows the value of a secret key or the password of a URL
//! ([`mask_secrets`] replaces them by `*`, character for character, so that the caret still points right).

use std::fmt;
use std::ops::Range;
use std::path::Path;

/// What the caller of a failed operation should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file or URL must be corrected; trying again changes nothing.
    Invalid,
}

/// Everything that is wrong with one configuration file or URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", render_all(.diagnostics))]
pub struct Error {
    diagnostics: Vec<Diagnostic>,
}

impl Error {
    /// Always [`ErrorKind::Invalid`]: a configuration is corrected by its author.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    /// The mistakes in the order of the file; at least one.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    pub(crate) fn message(message: impl Into<String>) -> Self {
        Self { diagnostics: vec![Diagnostic { place: None, message: message.into() }] }
    }
}

/// Something in the file that works, but not as its author may think.
pub type Warning = Diagnostic;

/// One message and its place in the file. `Display` gives the whole rendering, with the line and a caret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    place: Option<Place>,
    message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    file: String,
    line: usize,
    column: usize,
    text: String,
    width: usize,
}

impl Diagnostic {
    /// The message without its place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Line and column, both from 1, the column in characters. `None` for a URL that stands in no file.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else {
            return f.write_str(&self.message);
        };
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        let indent = " ".repeat(place.column - 1);
        let caret = "^".repeat(place.width);
        writeln!(f, "{}:{}:{}: {}", place.file, place.line, place.column, self.message)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", place.text)?;
        write!(f, "{gutter} | {indent}{caret}")
    }
}

fn render_all(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n\n")
}

/// Collects the diagnostics of one file while it is read.
pub(crate) struct Report<'a> {
    file: String,
    text: &'a str,
    errors: Vec<(usize, Diagnostic)>,
    warnings: Vec<(usize, Diagnostic)>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(file: &Path, text: &'a str) -> Self {
        Self { file: file.display().to_string(), text, errors: Vec::new(), warnings: Vec::new() }
    }

    pub(crate) fn error(&mut self, span: &Range<usize>, message: impl Into<String>) {
        let diagnostic = self.diagnostic(span, message.into());
        self.errors.push((span.start, diagnostic));
    }

    pub(crate) fn warn(&mut self, span: &Range<usize>, message: impl Into<String>) {
        let diagnostic = self.diagnostic(span, message.into());
        self.warnings.push((span.start, diagnostic));
    }

    pub(crate) fn line_of(&self, span: &Range<usize>) -> usize {
        locate(self.text, span).0
    }

    fn diagnostic(&self, span: &Range<usize>, message: String) -> Diagnostic {
        let (line, column, text, width) = locate(self.text, span);
        let text = mask_secrets(text);
        Diagnostic { place: Some(Place { file: self.file.clone(), line, column, text, width }), message }
    }

    /// The warnings in the order of the file, or all the errors.
    pub(crate) fn finish(self) -> Result<Vec<Warning>, Error> {
        if self.errors.is_empty() {
            return Ok(in_order(self.warnings));
        }
        Err(Error { diagnostics: in_order(self.errors) })
    }
}

fn in_order(mut diagnostics: Vec<(usize, Diagnostic)>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|(start, _)| *start);
    let mut diagnostics: Vec<_> = diagnostics.into_iter().map(|(_, diagnostic)| diagnostic).collect();
    diagnostics.dedup();
    diagnostics
}

/// Line, column (both from 1), the line's text and the caret's width; any span is clamped into the text.
fn locate<'a>(text: &'a str, span: &Range<usize>) -> (usize, usize, &'a str, usize) {
    let start = floor_boundary(text, span.start);
    let end = floor_boundary(text, span.end).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let line = text[..line_start].matches('\n').count() + 1;
    let column = text[line_start..start].chars().count() + 1;
    let width = text[start..end.min(line_end)].trim_end().chars().count().max(1);
    (line, column, text[line_start..line_end].trim_end(), width)
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Keys whose values are secret, in the spelling of either file format.
const SECRET_KEYS: [&str; 12] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "account_key",
    "sas_token",
    "password",
    "webdav_password",
    "sse_customer_key",
    "token",
    "seed",
    "jwt",
    "identities",
];

/// The line with each secret value replaced by as many `*`. It works on the bare line because a file with a syntax
/// error has no tree to say which value belongs to which key.
pub(crate) fn mask_secrets(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
    mask_values(&mut chars);
    mask_url_passwords(&mut chars);
    chars.into_iter().collect()
}

fn mask_values(chars: &mut [char]) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut at = 0;
    while at < chars.len() {
        if !is_word(chars[at]) {
            at += 1;
            continue;
        }
        let start = at;
        while at < chars.len() && is_word(chars[at]) {
            at += 1;
        }
        let word = chars[start..at].iter().collect::<String>().to_ascii_lowercase().replace('-', "_");
        if names_a_secret(&word) {
            at = mask_value_after(chars, at);
        }
    }
}

/// Whether the key is secret or may have been meant as one: the message about `secret_acess_key` must not show its
/// value either.
fn names_a_secret(word: &str) -> bool {
    ["secret", "passw", "token", "_key"].iter().any(|part| word.contains(part))
        || SECRET_KEYS.iter().any(|key| strsim::normalized_damerau_levenshtein(word, key) > 0.7)
}

/// Masks the value behind `key =`, `key:` or `"key":` and returns where it ends.
fn mask_value_after(chars: &mut [char], mut at: usize) -> usize {
    let skip = |at: &mut usize, wanted: fn(char) -> bool| {
        while *at < chars.len() && wanted(chars[*at]) {
            *at += 1;
        }
    };
    skip(&mut at, |c| c == '"' || c == '\'' || c == ' ');
    if at >= chars.len() || (chars[at] != '=' && chars[at] != ':') {
        return at;
    }
    at += 1;
    skip(&mut at, |c| c == ' ');
    let quote = chars.get(at).copied().filter(|c| *c == '"' || *c == '\'');
    skip(&mut at, |c| c == '"' || c == '\'');
    let is_reference = chars[at..].starts_with(&['$', '{']);
    while at < chars.len() {
        let ends = match quote {
            Some(quote) => chars[at] == quote,
            // An unquoted value may hold spaces and commas: rather the rest of the line than half a password.
            None => false,
        };
        if ends {
            break;
        }
        if !is_reference && chars[at] != ' ' {
            chars[at] = '*';
        }
        at += 1;
    }
    at
}

/// Masks the password of `scheme://user:password@host`.
fn mask_url_passwords(chars: &mut [char]) {
    let mut at = 0;
    while at + 3 <= chars.len() {
        if chars[at..at + 3] != [':', '/', '/'] {
            at += 1;
            continue;
        }
        at += 3;
        let ends = |c: &char| matches!(c, '"' | '\'' | ' ');
        let end = chars[at..].iter().position(ends).map_or(chars.len(), |length| at + length);
        if let Some(sign) = chars[at..end].iter().rposition(|c| *c == '@').map(|length| at + length)
            && let Some(colon) = chars[at..sign].iter().position(|c| *c == ':').map(|length| at + length)
        {
            chars[colon + 1..sign].fill('*');
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_columns_kept() {
        for (line, masked) in [
            (r#"secret_access_key = "abc" # x"#, r#"secret_access_key = "***" # x"#),
            (
                r#"b = { url = "s3://b/p", password = "p,q" }"#,
                r#"b = { url = "s3://b/p", password = "***" }"#,
            ),
            ("secret-access-key: a/b+c", "secret-access-key: *****"),
            ("  account-key: '12 34'", "  account-key: '** **'"),
            ("password: one two", "password: *** ***"),
            ("password: ${SFTP_PASSWORD}", "password: ${SFTP_PASSWORD}"),
            ("url: sftp://me:se@cret@host/x", "url: sftp://me:*******@host/x"),
            ("url = \"s3://bucket/a@b\"", "url = \"s3://bucket/a@b\""),
            ("secret_acess_key = \"abc\"", "secret_acess_key = \"***\""),
            ("Pasword: abc", "Pasword: ***"),
            ("passwords are not keys", "passwords are not keys"),
            ("key_file = \"id\"", "key_file = \"id\""),
        ] {
            assert_eq!(mask_secrets(line), masked);
        }
    }

    #[test]
    fn a_place_is_counted_in_characters_and_clamped() {
        assert_eq!(locate("é = 1\nb = 22\n", &(11..13)), (2, 5, "b = 22", 2));
        assert_eq!(locate("é = 1", &(5..6)), (1, 5, "é = 1", 1));
        assert_eq!(locate("a", &(90..95)), (1, 2, "a", 1));
        assert_eq!(locate("ab\ncd", &(1..5)), (1, 2, "ab", 1));
    }
}
