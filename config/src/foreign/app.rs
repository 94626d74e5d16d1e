//! What the formats have in common: places, watched paths, logs.

use std::ops::Range;

use super::{Table, Translation, new_entry};
use crate::node::{Entry, Node, Value, entry};

/// `all.log` of `api` is `all-api.log`.
fn own_log(path: &str, name: &str) -> String {
    let (folder, file) =
        path.rsplit_once('/').map_or(("", path), |(folder, file)| (&path[..=folder.len()], file));
    match file.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()) {
        Some((stem, extension)) => format!("{folder}{stem}-{name}.{extension}"),
        None => format!("{folder}{file}-{name}"),
    }
}

impl Translation<'_> {
    /// A name that differs from the file's is told.
    pub(super) fn name(&mut self, name: &str, span: &Range<usize>) -> Table {
        let plain = super::plain_name(name);
        let mut table = Table::new(plain, span.clone());
        if table.name != name {
            let message =
                format!("`{name}` is called `{}`: a name has letters, digits, `-`, `_` and `.`", table.name);
            self.remark(Some(&mut table), span, message);
        }
        table
    }

    /// A path that begins at `base` if it is relative, as the result has it.
    pub(super) fn place(&self, base: Option<&str>, path: &str) -> String {
        let path = path.strip_prefix("./").unwrap_or(path);
        let is_whole = path.starts_with(['/', '~', '$']);
        let folder = self.folder.map(|folder| super::escaped(&folder.to_string_lossy()));
        match base.map(str::to_owned).or(folder) {
            _ if is_whole => path.to_owned(),
            Some(base) if path.is_empty() || path == "." => base,
            Some(base) => format!("{}/{path}", base.trim_end_matches('/')),
            None if path.is_empty() => ".".into(),
            None => path.to_owned(),
        }
    }

    /// Sets the working directory, if it is not the one that the result begins in; gives what relative paths begin at.
    pub(super) fn working_directory(
        &mut self,
        table: &mut Table,
        found: Option<(String, &Range<usize>)>,
    ) -> Option<String> {
        let (cwd, span) = match found {
            Some((cwd, span)) => (self.place(None, &cwd), span.clone()),
            None => (self.place(None, ""), table.span.clone()),
        };
        if cwd == "." {
            return None;
        }
        table.set("cwd", &span, Value::String(cwd.clone()));
        Some(cwd)
    }

    /// `true`, a path, or a list of them; and which names in them do not count, `ignored` where the file does not say.
    pub(super) fn watching(
        &mut self,
        table: &mut Table,
        base: Option<&str>,
        watch: Option<&Entry>,
        ignore: Option<&Entry>,
        ignored: &[&str],
        delay: Option<(Value, &Range<usize>)>,
    ) {
        let Some(watch) = watch else { return };
        let paths = match &watch.node.value {
            Value::Bool(false) => return,
            Value::Bool(true) => vec![text_node(&watch.node, self.place(base, "."))],
            _ => {
                let places = texts(&watch.node).into_iter();
                places.map(|(text, node)| text_node(node, self.place(base, &super::escaped(text)))).collect()
            }
        };
        let span = &watch.node.span;
        let mut entries = vec![new_entry("paths", span, Value::Array(paths))];
        if let Some(ignore) = ignore {
            let mut names = Vec::new();
            for (pattern, node) in texts(&ignore.node) {
                match ignored_name(pattern) {
                    Some(name) => names.push(text_node(node, name)),
                    None => {
                        let message = format!(
                            "`{pattern}` of `{}` is not translated: what is ignored are names such as `node_modules` or `*.log`",
                            ignore.key
                        );
                        self.remark(Some(table), &node.span, message);
                    }
                }
            }
            if !names.is_empty() {
                entries.push(new_entry("ignore", &ignore.node.span, Value::Array(names)));
            }
        } else if !ignored.is_empty() {
            let names = ignored.iter().map(|name| text_node(&watch.node, (*name).to_owned()));
            entries.push(new_entry("ignore", span, Value::Array(names.collect())));
        }
        entries.extend(delay.map(|(value, span)| new_entry("delay", span, value)));
        table.set("watch", span, Value::Table(entries));
    }

    /// One file has both outputs here: that of the first entry; each other one that names another file is told.
    pub(super) fn log_path(&mut self, table: &mut Table, base: Option<&str>, files: &[Option<&Entry>]) {
        let mut first: Option<String> = None;
        for found in files.iter().flatten() {
            let Value::String(path) = &found.node.value else { continue };
            match &first {
                Some(first) if first == path => {}
                Some(_) => {
                    let message = format!("`{}` has no effect: one file has both outputs", found.key);
                    self.remark(Some(table), &found.key_span, message);
                }
                None if matches!(path.as_str(), "/dev/null" | "NULL") => {
                    let message = format!("`{}` has no effect: the log is kept, in bounded space", found.key);
                    self.remark(Some(table), &found.key_span, message);
                }
                None => {
                    let mut place = self.place(base, &self.expanded(path));
                    if self.tables.iter().any(|other| other.log() == Some(&place)) {
                        place = own_log(&place, &table.name);
                        let message =
                            format!("`{}` is another one's log, too: each has its own, `{place}`", found.key);
                        self.remark(Some(table), &found.key_span, message);
                    }
                    table.set_in("log", "path", &found.node.span, Value::String(place));
                    first = Some(path.clone());
                }
            }
        }
    }

    /// Oxmgr's texts with variables as this file has them: `$NAME` is `${NAME}`, `$$` is a dollar sign.
    pub(super) fn expanded(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let length = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            if let Some(after) = after.strip_prefix('$') {
                out.push_str(if after.starts_with('{') { "$$" } else { "$" });
                rest = after;
            } else if length > 0 && !after.starts_with(|c: char| c.is_ascii_digit()) {
                out.push_str(&format!("${{{}}}", &after[..length]));
                rest = &after[length..];
            } else {
                out.push('$');
                rest = after;
            }
        }
        out + rest
    }
}

/// Whichever of the names comes first.
pub(super) fn any<'e>(entries: &'e [Entry], names: &[&str]) -> Option<&'e Entry> {
    names.iter().find_map(|name| entry(entries, name))
}

pub(super) fn text_node(like: &Node, text: String) -> Node {
    Node { span: like.span.clone(), value: Value::String(text) }
}

/// The text, or those of the list.
pub(super) fn texts(node: &Node) -> Vec<(&str, &Node)> {
    match &node.value {
        Value::String(text) => vec![(text, node)],
        Value::Array(nodes) => nodes.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// A value of one word as text.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) | Value::Integer(text) | Value::Float(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The name that a pattern for paths (a glob, or a regular expression of the simple kind) comes to.
fn ignored_name(pattern: &str) -> Option<String> {
    let bare = pattern
        .trim_start_matches("**/")
        .trim_start_matches("./")
        .trim_end_matches("/**")
        .trim_end_matches("/*");
    let bare = bare.trim_start_matches('^').trim_end_matches('/');
    let name = match (bare.strip_prefix(r"\."), bare.strip_suffix('$')) {
        (Some(_), Some(whole)) => format!("*.{}", &whole[2..]),
        (Some(hidden), None) => format!(".{hidden}"),
        (None, Some(whole)) => whole.replace(r"\.", "."),
        (None, None) => bare.to_owned(),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    let rest = name.strip_prefix('*').unwrap_or(&name);
    (!rest.is_empty() && rest.chars().all(is_name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_are_names() {
        for (pattern, name) in [
            ("node_modules", "node_modules"),
            ("target/", "target"),
            ("./logs", "logs"),
            ("*.log", "*.log"),
            (r"\.log$", "*.log"),
            (r"\.git", ".git"),
            ("**/dist/**", "dist"),
            ("^a\\.txt$", "a.txt"),
        ] {
            assert_eq!(ignored_name(pattern).as_deref(), Some(name), "{pattern}");
        }
        for pattern in ["src/.*", "a|b", "", "a/b", "[\\/\\\\]\\./", "*"] {
            assert_eq!(ignored_name(pattern), None, "{pattern}");
        }
    }
}
