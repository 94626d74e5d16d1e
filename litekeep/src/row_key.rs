//! The key of a row as people write it: `7`, `id=7` or `a=1,b=x`.

use litekeep_schema::portable::Affinity;
use litekeep_sql::MirrorTable;
use litekeep_sync::Value;

use crate::report::Failure;

/// One value of a key. A value without a column is that of the primary key, or of the rowid.
#[derive(Debug)]
pub(crate) struct Term<'a> {
    pub(crate) column: Option<&'a str>,
    pub(crate) value: &'a str,
}

/// The terms of a key. `option`: what stands before it on the command line.
///
/// # Errors
/// When it is none.
pub(crate) fn parse<'a>(
    key: &'a str,
    (table, primary_key): (&str, &[&str]),
    option: &str,
) -> Result<Vec<Term<'a>>, Failure> {
    if primary_key.len() > 1 && !key.contains('=') {
        let names: Vec<_> = primary_key.iter().map(|name| format!("{name}=…")).collect();
        let message = format!("the primary key of `{table}` has {} columns", primary_key.len());
        return Err(Failure::invalid(message).hint(format!("{option}{}", names.join(","))));
    }
    // It may have commas and more in it.
    let is_whole = primary_key.len() < 2 && (!key.contains('=') || is_literal(key.trim()));
    let terms = if is_whole { vec![key] } else { terms(key) };
    let terms = terms.into_iter().map(|term| {
        let split = term.split_once('=').filter(|_| !is_whole);
        let (column, value) = split.map_or((None, term), |(column, value)| (Some(column.trim()), value));
        if column == Some("") || column.is_none() && primary_key.len() > 1 {
            let again = format!(
                "{option}7, {option}id=7, {option}a=1,b=x, or in quotes {option}\"a='x,y',b=x'00ff'\""
            );
            return Err(Failure::invalid(format!("`{key}` has no column before `=`")).hint(again));
        }
        Ok(Term { column, value: value.trim() })
    });
    terms.collect()
}

/// The values of a key, in the order of the table's.
///
/// # Errors
/// When it is none of this table.
pub(crate) fn values(key: &str, table: &MirrorTable) -> Result<Vec<Value>, Failure> {
    let columns: Vec<_> = table.key.iter().map(|nth| &table.columns[*nth]).collect();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let again = || match names.as_slice() {
        [only] => format!("its key is `{only}`; a value that has `=` in it is written in quotes: 'a=b'"),
        several => {
            let names: Vec<_> = several.iter().map(|name| format!("{name}=…")).collect();
            format!("write {}", names.join(","))
        }
    };
    let mistake = |what: String| Failure::invalid(what).hint(again());
    let mut values: Vec<Option<Value>> = vec![None; names.len()];
    for term in parse(key, (&table.name, &names), "")? {
        let place = match term.column {
            None => Some(0),
            Some(column) => names.iter().position(|name| name.eq_ignore_ascii_case(column)),
        };
        let Some(place) = place else {
            let column = term.column.unwrap_or_default();
            return Err(mistake(format!("`{column}` is not of the primary key of `{}`", table.name)));
        };
        let value = value(term.value, &columns[place].declared).map_err(|kind| {
            let name = names[place];
            mistake(format!("`{}` is no {kind}, as `{name}` of `{}` is", term.value, table.name))
        })?;
        if values[place].replace(value).is_some() {
            return Err(mistake(format!("`{}` is there twice", names[place])));
        }
    }
    let missing = values.iter().position(Option::is_none);
    match missing {
        Some(place) => Err(mistake(format!("`{}` of the primary key is missing", names[place]))),
        None => Ok(values.into_iter().flatten().collect()),
    }
}

/// A value of a column of a declared type. `Err`: what it is not.
fn value(text: &str, declared: &str) -> Result<Value, &'static str> {
    let literal = is_literal(text).then(|| literal(text));
    let integer = || text.parse::<i64>().ok().filter(|_| !text.starts_with('+'));
    match (Affinity::of(declared), literal) {
        (Affinity::Integer, None) => integer().map(Value::Integer).ok_or("integer"),
        (Affinity::Numeric, None) => {
            let real = || text.parse::<f64>().ok().filter(|real| real.is_finite()).map(Value::Real);
            integer().map(Value::Integer).or_else(real).ok_or("number")
        }
        (Affinity::Real, None) => {
            text.parse::<f64>().ok().filter(|real| !real.is_nan()).map(Value::Real).ok_or("number")
        }
        (Affinity::Text, None) => Ok(Value::Text(text.as_bytes().to_vec())),
        // A column without a type has what comes.
        (Affinity::Blob, None) if declared.is_empty() => {
            let is_plain = |number: &i64| number.to_string() == text;
            Ok(match integer().filter(is_plain) {
                Some(number) => Value::Integer(number),
                None => Value::Text(text.as_bytes().to_vec()),
            })
        }
        (Affinity::Blob, Some(Value::Blob(bytes))) => Ok(Value::Blob(bytes)),
        (Affinity::Blob, Some(literal)) if declared.is_empty() => Ok(literal),
        (Affinity::Blob, _) => Err("blob such as x'00ff'"),
        (Affinity::Text, Some(Value::Text(text))) => Ok(Value::Text(text)),
        // `x'00'` may be a text, too.
        (Affinity::Text, Some(_)) => Ok(Value::Text(text.as_bytes().to_vec())),
        (Affinity::Integer, Some(_)) => Err("integer"),
        (Affinity::Real | Affinity::Numeric, Some(_)) => Err("number"),
    }
}

/// The value of a [literal](is_literal).
fn literal(text: &str) -> Value {
    match text.strip_prefix(['x', 'X']) {
        Some(hex) => {
            let digits: Vec<u8> = hex
                .chars()
                .filter_map(|c| c.to_digit(16))
                .filter_map(|digit| u8::try_from(digit).ok())
                .collect();
            Value::Blob(
                digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect(),
            )
        }
        None => {
            let inner = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).unwrap_or(text);
            Value::Text(inner.replace("''", "'").into_bytes())
        }
    }
}

/// What stands between commas that are not in a value in quotes.
fn terms(key: &str) -> Vec<&str> {
    let is_open = |term: &str| {
        let value = term.split_once('=').map_or("", |(_, value)| value.trim());
        let text = value.strip_prefix(['x', 'X']).unwrap_or(value);
        text.starts_with('\'') && text.matches('\'').count() % 2 == 1
    };
    let (mut terms, mut start) = (vec![], 0);
    for (at, _) in key.match_indices(',') {
        if !is_open(&key[start..at]) {
            terms.push(&key[start..at]);
            start = at + 1;
        }
    }
    terms.push(&key[start..]);
    terms
}

/// `'text'` or `x'00ff'`, as SQL has it.
pub(crate) fn is_literal(value: &str) -> bool {
    let is_blob = value.starts_with(['x', 'X']);
    let text = value.strip_prefix(['x', 'X']).unwrap_or(value);
    let Some(inner) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) else { return false };
    if is_blob {
        return inner.len() % 2 == 0 && inner.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    !inner.replace("''", "").contains('\'')
}

#[cfg(test)]
mod tests {
    use litekeep_sql::{MirrorColumn, MirrorRules};

    use super::*;

    fn table(columns: &[(&str, &str)]) -> MirrorTable {
        let column = |(name, declared): &(&str, &str)| MirrorColumn {
            name: (*name).to_owned(),
            declared: (*declared).to_owned(),
            is_not_null: false,
        };
        MirrorTable {
            name: "t".to_owned(),
            columns: columns.iter().map(column).collect(),
            key: (0..columns.len()).rev().collect(),
            indexes: vec![],
            rules: MirrorRules::default(),
        }
    }

    #[test]
    fn keys_are_of_the_types_of_their_columns() {
        let text = |text: &str| Value::Text(text.into());
        for (declared, key, expected) in [
            ("INTEGER", "7", Value::Integer(7)),
            ("INTEGER", "id=-7", Value::Integer(-7)),
            ("INTEGER", "ID = 7", Value::Integer(7)),
            ("BOOLEAN", "1", Value::Integer(1)),
            ("TEXT", "7", text("7")),
            ("TEXT", "a,b", text("a,b")),
            ("TEXT", "'a=b'", text("a=b")),
            ("TEXT", "id='it''s, so'", text("it's, so")),
            ("TEXT", "x'00'", text("x'00'")),
            ("REAL", "1.5", Value::Real(1.5)),
            ("REAL", "2", Value::Real(2.0)),
            ("BLOB", "x'00FF'", Value::Blob(vec![0, 255])),
            ("", "7", Value::Integer(7)),
            ("", "007", text("007")),
            ("", "'7'", text("7")),
            ("", "x'07'", Value::Blob(vec![7])),
        ] {
            assert_eq!(values(key, &table(&[("id", declared)])).unwrap(), [expected], "{declared} {key}");
        }
        let two = table(&[("b", "TEXT"), ("a", "INTEGER")]);
        for key in ["a=1,b=x", "b=x,a=1", "B='x',A=1"] {
            assert_eq!(values(key, &two).unwrap(), [Value::Integer(1), text("x")], "{key}");
        }
    }

    #[test]
    fn what_is_no_key_is_told_with_the_reason() {
        let two = [("b", "TEXT"), ("a", "INTEGER")];
        for (columns, key, said) in [
            (&[("id", "INTEGER")][..], "abc", "`abc` is no integer, as `id` of `t` is"),
            (&[("id", "INTEGER")], "'7'", "`'7'` is no integer"),
            (&[("id", "INTEGER")], "1.5", "`1.5` is no integer"),
            (&[("id", "INTEGER")], "9223372036854775808", "is no integer"),
            (&[("id", "INTEGER")], "name=7", "`name` is not of the primary key of `t`"),
            (&[("id", "INTEGER")], "", "`` is no integer"),
            (&[("id", "REAL")], "x", "`x` is no number"),
            (&[("id", "BLOB")], "00ff", "`00ff` is no blob such as x'00ff'"),
            (&two, "7", "the primary key of `t` has 2 columns"),
            (&two, "a=1", "`b` of the primary key is missing"),
            (&two, "a=1,a=2,b=x", "`a` is there twice"),
            (&two, "a=1,x", "`a=1,x` has no column before `=`"),
            (&two, "a=x,b=x", "`x` is no integer, as `a` of `t` is"),
        ] {
            let error = values(key, &table(columns)).unwrap_err().to_string();
            assert!(error.contains(said), "{key}: {error}");
        }
    }
}
