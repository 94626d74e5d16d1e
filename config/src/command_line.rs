//! A line of text to what is executed, as a shell would take it.

use crate::process::Command;

/// What a shell does something with wherever it stands outside of single quotes or a `\`.
const EVERYWHERE: [char; 2] = ['$', '`'];
/// What a shell does something with outside of quotes.
const UNQUOTED: [char; 12] = ['|', '&', ';', '<', '>', '(', ')', '*', '?', '[', '\n', '\r'];
/// First words that are the shell's own.
const BUILTINS: &[&str] = &[
    "!", ".", ":", "{", "alias", "bg", "break", "case", "cd", "command", "continue", "eval", "exec", "exit",
    "export", "fg", "for", "hash", "if", "jobs", "local", "read", "readonly", "return", "set", "shift",
    "source", "time", "times", "trap", "type", "ulimit", "umask", "unalias", "unset", "until", "while",
];

impl Command {
    /// Reads a line: words where a shell would find nothing but words and quotes in it, else a line for the shell.
    ///
    /// # Errors
    /// A phrase that says what is wrong with it: it is empty, or a quote stays open.
    pub fn parse(line: &str) -> Result<Self, String> {
        let Line { words, needs_shell } = Line::split(line)?;
        if needs_shell { Ok(Command::Shell(line.trim().to_owned())) } else { Ok(Command::Words(words)) }
    }
}

/// The words of a line, and whether a shell would have made something else of it.
pub(crate) struct Line {
    pub(crate) words: Vec<String>,
    pub(crate) needs_shell: bool,
}

impl Line {
    /// # Errors
    /// As [`Command::parse`].
    pub(crate) fn split(line: &str) -> Result<Self, String> {
        if line.contains('\0') {
            return Err("it has a NUL character".into());
        }
        let mut words = Vec::new();
        let mut needs_shell = false;
        // `None` between words.
        let mut word: Option<String> = None;
        let mut chars = line.trim().chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                ' ' | '\t' => words.extend(word.take()),
                '\'' => quote(&mut chars, word.get_or_insert_default())?,
                '"' => needs_shell |= double_quote(&mut chars, word.get_or_insert_default())?,
                '\\' => match chars.next() {
                    Some(c) => word.get_or_insert_default().push(c),
                    None => return Err("it ends in a lone `\\`".into()),
                },
                // A comment may have any quotes.
                '#' if word.is_none() => {
                    needs_shell = true;
                    break;
                }
                c => {
                    needs_shell |=
                        EVERYWHERE.contains(&c) || UNQUOTED.contains(&c) || (c == '~' && word.is_none());
                    word.get_or_insert_default().push(c);
                }
            }
        }
        words.extend(word);
        let first: &String = words.first().ok_or("it is empty")?;
        needs_shell |= BUILTINS.contains(&first.as_str()) || is_assignment(first);
        if first.is_empty() && !needs_shell {
            return Err("its program has no name".into());
        }
        Ok(Self { words, needs_shell })
    }
}

fn quote(chars: &mut impl Iterator<Item = char>, word: &mut String) -> Result<(), String> {
    for c in chars {
        match c {
            '\'' => return Ok(()),
            c => word.push(c),
        }
    }
    Err("its quote `'` is not closed".into())
}

/// Whether there is something in it for the shell.
fn double_quote(chars: &mut impl Iterator<Item = char>, word: &mut String) -> Result<bool, String> {
    let mut needs_shell = false;
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(needs_shell),
            '\\' => match chars.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
                None => break,
            },
            c => {
                needs_shell |= EVERYWHERE.contains(&c);
                word.push(c);
            }
        }
    }
    Err("its quote `\"` is not closed".into())
}

/// `NAME=value` before the program.
fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_where_a_shell_finds_only_words() {
        for (line, words) in [
            ("node dist/server.js", vec!["node", "dist/server.js"]),
            ("  a\t b  ", vec!["a", "b"]),
            (r#"a "b c" 'd "e' f\ g '' x"y"'z'"#, vec!["a", "b c", "d \"e", "f g", "", "xyz"]),
            (r#"a "\"\$\x" '$HOME *' \$HOME"#, vec!["a", "\"$\\x", "$HOME *", "$HOME"]),
            ("serve --at=b~c a#b {x}", vec!["serve", "--at=b~c", "a#b", "{x}"]),
            ("./run A=b", vec!["./run", "A=b"]),
        ] {
            let words = words.into_iter().map(str::to_owned).collect();
            assert_eq!(Command::parse(line), Ok(Command::Words(words)), "{line}");
        }
        for line in [
            "a | b",
            "a && b",
            "a; b",
            "a > b",
            "a $B",
            "a \"$B\"",
            "a `b`",
            "rm *.db",
            "a ~/b",
            "cd /srv",
            "exec a",
            "A=b c",
            "a # don't",
            "[ -f a ]",
            "(a)",
            "a\nb",
            "if true; then a; fi",
        ] {
            assert_eq!(Command::parse(line), Ok(Command::Shell(line.into())), "{line}");
        }
        for (line, error) in [
            (" ", "it is empty"),
            ("a 'b", "its quote `'` is not closed"),
            ("a \"b\\", "its quote `\"` is not closed"),
            ("a\\", "it ends in a lone `\\`"),
            ("'' a", "its program has no name"),
            ("a\0", "it has a NUL character"),
        ] {
            assert_eq!(Command::parse(line), Err(error.to_owned()), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "[ -~\\n\\t]{0,24}|\\PC{0,24}") {
            let _ = Command::parse(&line);
        }
    }
}
