//! Which key the author of a file meant.

/// The known name nearest to `written`, if one is near enough to be worth suggesting.
///
/// Two measures, the better counts: Damerau-Levenshtein finds typing slips (`pahts`), Jaro-Winkler finds names that
/// begin alike (`snapshto`, `snapshot_every`).
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let written = plain(written);
    let scored = known.into_iter().map(|name| (similarity(&written, &plain(name)), name));
    let (score, name) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score >= 0.6).then_some(name)
}

fn similarity(a: &str, b: &str) -> f64 {
    let slips = strsim::normalized_damerau_levenshtein(a, b);
    let beginning = strsim::jaro_winkler(a, b);
    // Jaro-Winkler is generous: 0.85 there is about as convincing as 0.6 here.
    if beginning >= 0.85 { slips.max(beginning - 0.25) } else { slips }
}

/// "`a`, `b` and `c`".
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_or_none() {
        let known = ["path", "snapshot_every", "keep", "upload_interval"];
        assert_eq!(nearest("snapshto", known), Some("snapshot_every"));
        assert_eq!(nearest("pahts", known), Some("path"));
        assert_eq!(nearest("upload-intervall", known), Some("upload_interval"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(list(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
