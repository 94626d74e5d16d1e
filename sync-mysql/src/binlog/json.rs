//! Documents as MySQL keeps them, as the text that it makes of them
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/json__binary_8h.html>).

use super::Bytes;
use super::row::{calendar, decimal, seconds};
use super::table_map::kind;

const SMALL_OBJECT: u8 = 0;
const LARGE_OBJECT: u8 = 1;
const SMALL_ARRAY: u8 = 2;
const LARGE_ARRAY: u8 = 3;
const LITERAL: u8 = 4;
const INT16: u8 = 5;
const UINT16: u8 = 6;
const INT32: u8 = 7;
const UINT32: u8 = 8;
const INT64: u8 = 9;
const UINT64: u8 = 10;
const DOUBLE: u8 = 11;
const STRING: u8 = 12;
const OPAQUE: u8 = 15;

/// Documents within one another; the server admits a hundred.
const DEEPEST: usize = 128;
/// Digits of a whole number, and zeros after the point, up to which a number is written without an exponent.
const DIGITS: i32 = 15;

/// Bytes that the text of a document of so many bytes can have: no value needs eight times its own, and none is written twice.
pub(super) fn most(document: usize) -> usize {
    64 + 8 * document
}

/// The text of a document. `None`: it is damaged.
pub(crate) fn text(document: &[u8]) -> Option<String> {
    // What never was a document, in a column that cannot be NULL.
    let Some((kind, body)) = document.split_first() else { return Some("null".to_owned()) };
    let mut text = String::new();
    let limits = (DEEPEST, most(document.len()));
    value(*kind, body, limits, &mut text)?;
    Some(text).filter(|text| text.len() <= limits.1)
}

/// `limits`: so many documents may be within this one, and so long may the text become, or parts of it are within themselves.
fn value(kind: u8, body: &[u8], limits: (usize, usize), text: &mut String) -> Option<()> {
    let within = (limits.0.checked_sub(1)?, limits.1);
    if text.len() > limits.1 {
        return None;
    }
    let mut bytes = Bytes(body);
    match kind {
        SMALL_OBJECT | LARGE_OBJECT | SMALL_ARRAY | LARGE_ARRAY => return many(kind, body, within, text),
        LITERAL => literal(bytes.byte()?, text)?,
        INT16 => text.push_str(&(bytes.number(2)? as i16).to_string()),
        UINT16 => text.push_str(&bytes.number(2)?.to_string()),
        INT32 => text.push_str(&(bytes.number(4)? as i32).to_string()),
        UINT32 => text.push_str(&bytes.number(4)?.to_string()),
        INT64 => text.push_str(&(bytes.number(8)? as i64).to_string()),
        UINT64 => text.push_str(&bytes.number(8)?.to_string()),
        DOUBLE => text.push_str(&double(f64::from_bits(bytes.number(8)?))),
        STRING => {
            let length = length(&mut bytes)?;
            quoted(std::str::from_utf8(bytes.take(length)?).ok()?, text);
        }
        OPAQUE => {
            let kind = bytes.byte()?;
            let length = length(&mut bytes)?;
            opaque(kind, bytes.take(length)?, text)?;
        }
        _ => return None,
    }
    Some(())
}

fn literal(byte: u8, text: &mut String) -> Option<()> {
    text.push_str(match byte {
        0 => "null",
        1 => "true",
        2 => "false",
        _ => return None,
    });
    Some(())
}

/// How many there are and how long they are; where each name is and how long; then what each value is and where, or itself if it is small.
fn many(kind: u8, body: &[u8], within: (usize, usize), text: &mut String) -> Option<()> {
    let size = if matches!(kind, LARGE_OBJECT | LARGE_ARRAY) { 4 } else { 2 };
    let is_object = matches!(kind, SMALL_OBJECT | LARGE_OBJECT);
    let mut bytes = Bytes(body);
    let count = usize::try_from(bytes.number(size)?).ok()?;
    let whole = usize::try_from(bytes.number(size)?).ok()?;
    let body = body.get(..whole)?;
    let mut names = bytes;
    if is_object {
        bytes.take(count.checked_mul(size + 2)?)?;
    }
    text.push(if is_object { '{' } else { '[' });
    for nth in 0..count {
        if nth > 0 {
            text.push_str(", ");
        }
        if is_object {
            let at = usize::try_from(names.number(size)?).ok()?;
            let length = usize::try_from(names.number(2)?).ok()?;
            quoted(std::str::from_utf8(body.get(at..at.checked_add(length)?)?).ok()?, text);
            text.push_str(": ");
        }
        let kind = bytes.byte()?;
        let entry = bytes.take(size)?;
        let is_here = matches!(kind, LITERAL | INT16 | UINT16) || size == 4 && matches!(kind, INT32 | UINT32);
        match is_here {
            true => value(kind, entry, within, text)?,
            false => {
                let at = usize::try_from(Bytes(entry).number(size)?).ok()?;
                value(kind, body.get(at..)?, within, text)?;
            }
        }
    }
    text.push(if is_object { '}' } else { ']' });
    Some(())
}

/// Seven bits a byte, the least first.
fn length(bytes: &mut Bytes<'_>) -> Option<usize> {
    let mut length = 0_usize;
    for nth in 0..5 {
        let byte = bytes.byte()?;
        length |= usize::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

fn quoted(plain: &str, text: &mut String) {
    text.push('"');
    for c in plain.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            c if c < ' ' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
}

/// The shortest that is read as the same number, with a point or an exponent.
fn double(f: f64) -> String {
    let written = format!("{f:e}");
    let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits = mantissa.replace('.', "");
    // Digits before the point, or less than none where zeros follow it.
    let before = exponent + 1;
    let has_fraction = usize::try_from(before).is_ok_and(|before| before < digits.len());
    if before < 1 - DIGITS || before > DIGITS && !has_fraction {
        return written;
    }
    match usize::try_from(before) {
        Err(_) | Ok(0) => format!("{sign}0.{}{digits}", "0".repeat(before.unsigned_abs() as usize)),
        Ok(before) if before >= digits.len() => {
            format!("{sign}{digits}{}.0", "0".repeat(before - digits.len()))
        }
        Ok(before) => format!("{sign}{}.{}", &digits[..before], &digits[before..]),
    }
}

/// What other types have in a document.
fn opaque(of: u8, body: &[u8], text: &mut String) -> Option<()> {
    let packed = |body: &[u8]| Bytes(body).number(8).map(|number| number as i64);
    match of {
        kind::NEWDECIMAL => {
            let mut bytes = Bytes(body);
            let (precision, scale) = (usize::from(bytes.byte()?), usize::from(bytes.byte()?));
            text.push_str(&decimal(&mut bytes, precision, scale)?);
        }
        kind::DATE | kind::DATETIME | kind::TIMESTAMP => {
            let packed = packed(body)?.unsigned_abs();
            let time = calendar(packed >> 24, (packed & 0xff_ffff) as u32);
            let date = format!("{:04}-{:02}-{:02}", time.year, time.month, time.day);
            text.push_str(&match of {
                kind::DATE => format!("\"{date}\""),
                _ => format!(
                    "\"{date} {:02}:{:02}:{:02}.{:06}\"",
                    time.hour, time.minute, time.second, time.micros
                ),
            });
        }
        kind::TIME => {
            let packed = packed(body)?;
            let (size, sign) = (packed.unsigned_abs(), if packed < 0 { "-" } else { "" });
            let (seconds, micros) = (seconds(size >> 24), size & 0xff_ffff);
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            text.push_str(&format!("\"{sign}{hours:02}:{minutes:02}:{:02}.{micros:06}\"", seconds % 60));
        }
        other => {
            text.push_str(&format!("\"base64:type{other}:"));
            base64(body, text);
            text.push('"');
        }
    }
    Some(())
}

fn base64(bytes: &[u8], text: &mut String) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (nth, three) in bytes.chunks(3).enumerate() {
        // The server breaks lines, as mail does.
        if nth > 0 && nth % 19 == 0 {
            text.push_str("\\n");
        }
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(if place > three.len() { '=' } else { char::from(DIGITS[digit as usize]) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_server_does() {
        for (f, written) in [
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (0.0, "0.0"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (1e14, "100000000000000.0"),
            (1e15, "1e15"),
            (1e-15, "0.000000000000001"),
            (1e-16, "1e-16"),
            (1_000_000_000_000_000.5, "1000000000000000.5"),
            (12_345_678_901_234_567_890.0, "1.2345678901234567e19"),
            (123_456.789, "123456.789"),
            (1.5e300, "1.5e300"),
        ] {
            assert_eq!(double(f), written);
        }
    }

    #[test]
    fn a_document_is_its_text() {
        // {"a": 1, "b": [true, "x\n"]}
        let document = [
            0, 2, 0, 33, 0, 18, 0, 1, 0, 19, 0, 1, 0, 5, 1, 0, 2, 20, 0, b'a', b'b', 2, 0, 13, 0, 4, 1, 0,
            12, 10, 0, 2, b'x', b'\n',
        ];
        assert_eq!(text(&document).unwrap(), r#"{"a": 1, "b": [true, "x\n"]}"#);
        for end in 1..document.len() {
            assert_eq!(text(&document[..end]), None, "{end}");
        }
        assert_eq!(text(&[]).unwrap(), "null");
    }

    #[test]
    fn bytes_are_base64() {
        let of = |bytes: &[u8]| {
            let mut text = String::new();
            base64(bytes, &mut text);
            text
        };
        assert_eq!((of(b"a"), of(b"ab"), of(b"abc")), ("YQ==".into(), "YWI=".into(), "YWJj".into()));
        assert_eq!(of(&[0; 58]).find("\\n"), Some(76));
    }
}
