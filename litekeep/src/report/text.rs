//! Numbers, times and tables for people.

use jiff::Timestamp;
use litekeep_env::disk;

/// `1.4 MiB`, `812 B`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// An instant in UTC, RFC 3339 to the millisecond, as JSON has it too.
pub(crate) fn rfc3339(unix_ms: i64) -> String {
    match Timestamp::from_millisecond(unix_ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{unix_ms} ms since 1970"),
    }
}

/// How long ago, in the largest fitting unit: `2 s`, `5 min`, `3 h`, `4 d`.
pub(crate) fn age(milliseconds: i64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        ..=0 => format!("{} ms", milliseconds.max(0)),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Columns, each as wide as its widest cell; those of `right` are aligned to the right. The last one is not padded.
pub(crate) fn table(header: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = String::new();
    for row in all() {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let width = widths[column];
                if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A process with the beginning of its command line.
pub(crate) fn process(pid: u32) -> String {
    let command = disk::command_of(pid).unwrap_or_else(|| "of another user".to_owned());
    let short: String = command.chars().take(60).collect();
    format!("process {pid} ({short})")
}

/// A word of a command, quoted where a shell would read more into it.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:@%+=,".contains(&b);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The system's words without `(os error 2)`, which tells nobody anything.
pub(crate) fn io_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    match (text.find(" (os error "), error.kind()) {
        (_, std::io::ErrorKind::NotFound) => "it does not exist".to_owned(),
        (_, std::io::ErrorKind::PermissionDenied) => "permission denied".to_owned(),
        (None, std::io::ErrorKind::InvalidData) => "it is no text in UTF-8".to_owned(),
        (Some(at), _) => text[..at].to_lowercase(),
        (None, _) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages() {
        let sizes = [0, 1023, 1024, 1_572_864, 1_073_741_823, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1.0 GiB", "16384.0 PiB"]);
        let ages = [-5, 0, 999, 1000, 119_999, 120_000, 7_200_000, 172_800_000].map(age);
        assert_eq!(ages, ["0 ms", "0 ms", "999 ms", "1 s", "119 s", "2 min", "2 h", "2 d"]);
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, quoted) in [
            ("a.db", "a.db"),
            ("my app.db", "'my app.db'"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
            ("s3://b/a?x", "'s3://b/a?x'"),
        ] {
            assert_eq!(shell_word(word), quoted);
        }
    }

    #[test]
    fn instants_are_utc() {
        assert_eq!(rfc3339(1_755_770_400_000), "2025-08-21T10:00:00.000Z");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "10".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["NAME", "N", "REST"], &[1], &rows), "NAME   N  REST\na     10  x\n");
    }
}
