//! `${VAR}` in strings.
//!
//! Two dialects. Ours ([`expand`]) refuses a variable that is unset, because a backup must not go to `s3://` by
//! accident. Litestream's ([`expand_litestream`]) replaces it by nothing, as Litestream's reference says; we warn.

use std::path::Path;

use crate::settings::Input;

/// Expands `${VAR}`, `${VAR:-default}` (used when VAR is unset or empty) and `${file:/path}` (the content of a file
/// without its final line break). `$${` gives a literal `${`; any other `$` stands for itself.
///
/// # Errors
/// The whole message for the user.
pub(crate) fn expand(text: &str, input: &Input<'_>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            expanded.push_str(&rest[..at - 1]);
            expanded.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        expanded.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner.find('}').ok_or("`${` without its `}`: write `$${` if the text itself has a `${`")?;
        expanded.push_str(&resolve(&inner[..end], input)?);
        rest = &inner[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn resolve(reference: &str, input: &Input<'_>) -> Result<String, String> {
    if let Some(path) = reference.strip_prefix("file:") {
        if path.is_empty() {
            return Err("`${file:}` names no file: write ${file:/run/secrets/name}".into());
        }
        return match (input.read_file)(Path::new(path)) {
            Ok(content) => Ok(content.trim_end_matches(['\n', '\r']).to_owned()),
            Err(cause) => Err(format!("could not read `{path}` for `${{file:{path}}}`: {cause}")),
        };
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_variable_name(name) {
        return Err(format!("`${{{name}}}` is not the name of an environment variable"));
    }
    match ((input.env)(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "environment variable `{name}` is not set: set it, or give a default with ${{{name}:-default}}"
        )),
    }
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Expands `$VAR` and `${VAR}`; unset variables give nothing. Each remark for the user goes to `remark`.
pub(crate) fn expand_litestream(text: &str, input: &Input<'_>, remark: &mut dyn FnMut(String)) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        if let Some((reference, tail)) = braced {
            expanded.push_str(&resolve_litestream(reference, input, remark));
            rest = tail;
            continue;
        }
        let length = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        if is_variable_name(&after[..length]) {
            expanded.push_str(&resolve_litestream(&after[..length], input, remark));
            rest = &after[length..];
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    expanded
}

fn resolve_litestream(reference: &str, input: &Input<'_>, remark: &mut dyn FnMut(String)) -> String {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if let Some(value) = (input.env)(name).filter(|value| default.is_none() || !value.is_empty()) {
        return value;
    }
    if let Some(default) = default {
        remark(format!(
            "`{name}` is not set, so its default is used; Litestream knows no defaults and would use an empty text"
        ));
        return default.to_owned();
    }
    if name == "PID" {
        remark(
            "`$PID` changes with each start, so each start begins a new backup: prefer a fixed path (litekeep \
             refuses a second writer on one path by itself)"
                .into(),
        );
        return std::process::id().to_string();
    }
    remark(format!("environment variable `{name}` is not set: an empty text is used, as Litestream does"));
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Input;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/root".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn read(path: &Path) -> Result<String, String> {
        if path == Path::new("/run/secrets/x") { Ok("se\ncret\n".into()) } else { Err("no such file".into()) }
    }

    fn input() -> Input<'static> {
        Input { path: Path::new("litekeep.toml"), text: "", env: &env, read_file: &read }
    }

    #[test]
    fn ours() {
        for (text, expanded) in [
            ("a", "a"),
            ("${HOME}/x", "/root/x"),
            ("${NOPE:-d}/${HOME}", "d//root"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY}", ""),
            ("${file:/run/secrets/x}", "se\ncret"),
            ("$${HOME} $HOME $$", "${HOME} $HOME $$"),
        ] {
            assert_eq!(expand(text, &input()), Ok(expanded.to_string()), "{text}");
        }
        for (text, message) in [
            (
                "${NOPE}",
                "environment variable `NOPE` is not set: set it, or give a default with ${NOPE:-default}",
            ),
            ("${HOME", "`${` without its `}`: write `$${` if the text itself has a `${`"),
            ("${a b}", "`${a b}` is not the name of an environment variable"),
            ("${file:/nope}", "could not read `/nope` for `${file:/nope}`: no such file"),
            ("${file:}", "`${file:}` names no file: write ${file:/run/secrets/name}"),
        ] {
            assert_eq!(expand(text, &input()), Err(message.to_string()), "{text}");
        }
    }

    #[test]
    fn litestreams() {
        let mut remarks = Vec::new();
        let text =
            expand_litestream("$HOME:${HOME}:$NOPE:${NOPE:-d}:$5:$", &input(), &mut |r| remarks.push(r));
        assert_eq!(text, "/root:/root::d:$5:$");
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks[0].contains("`NOPE` is not set"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[${}:a-z\\-é]{0,40}") {
            let _ = expand(&text, &input());
            let _ = expand_litestream(&text, &input(), &mut |_| {});
        }
    }
}
