//! Text of columns that are not in UTF-8, which the log has as the column does.
//!
//! What the 256 bytes of a character set mean the server itself is asked, for some of its sets have the name of another and not its
//! characters.

use std::collections::HashMap;

/// A character set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Charset {
    /// UTF-8, or bytes.
    Utf8,
    /// Of one byte each: the text of each byte.
    Table(Vec<String>),
    /// Of two bytes, the greater one first or last.
    Utf16 { is_little: bool },
    /// Of four bytes.
    Utf32,
}

/// Those that need no table, by their names.
pub(crate) fn known(name: &str) -> Option<Charset> {
    Some(match name {
        "utf8mb4" | "utf8mb3" | "utf8" | "ascii" | "binary" => Charset::Utf8,
        "ucs2" | "utf16" => Charset::Utf16 { is_little: false },
        "utf16le" => Charset::Utf16 { is_little: true },
        "utf32" => Charset::Utf32,
        _ => return None,
    })
}

impl Charset {
    /// The text in UTF-8. What is none is a replacement, as the server itself gives one.
    pub(crate) fn decode(&self, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Charset::Utf8 => bytes,
            Charset::Table(table) => {
                bytes.iter().flat_map(|byte| table[usize::from(*byte)].bytes()).collect()
            }
            Charset::Utf16 { is_little } => {
                let unit = |pair: &[u8]| match (pair, is_little) {
                    ([low, high], true) | ([high, low], false) => u16::from_be_bytes([*high, *low]),
                    _ => u16::from(b'?'),
                };
                let units = bytes.chunks(2).map(unit);
                let chars = char::decode_utf16(units).map(|read| read.unwrap_or('?'));
                chars.collect::<String>().into_bytes()
            }
            Charset::Utf32 => {
                let read = |four: &[u8]| {
                    let four = four.try_into().ok()?;
                    char::from_u32(u32::from_be_bytes(four))
                };
                bytes.chunks(4).map(|four| read(four).unwrap_or('?')).collect::<String>().into_bytes()
            }
        }
    }
}

/// The character sets of a server, by the numbers of collations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Charsets {
    names: HashMap<u64, String>,
    sets: HashMap<String, Charset>,
}

impl Charsets {
    pub(crate) fn new(names: HashMap<u64, String>) -> Charsets {
        Charsets { names, sets: HashMap::new() }
    }

    pub(crate) fn name(&self, collation: u64) -> Option<&str> {
        self.names.get(&collation).map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Charset> {
        self.sets.get(name).cloned().or_else(|| known(name))
    }

    pub(crate) fn add(&mut self, name: &str, charset: Charset) {
        self.sets.insert(name.to_owned(), charset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_utf_8() {
        let of = |name: &str, bytes: &[u8]| {
            String::from_utf8(known(name).unwrap().decode(bytes.to_vec())).unwrap()
        };
        assert_eq!(of("utf16", &[0, b'a', 0xd8, 0x3d, 0xde, 0x00]), "a😀");
        assert_eq!(of("utf16le", &[b'a', 0, 0x3d, 0xd8, 0x00, 0xde]), "a😀");
        assert_eq!(of("utf32", &[0, 1, 0xf6, 0]), "😀");
        assert_eq!(known("gbk"), None);
        let mut table: Vec<String> = (0..=255_u8).map(|byte| char::from(byte).to_string()).collect();
        table[0x80] = "€".to_owned();
        assert_eq!(Charset::Table(table).decode(vec![b'a', 0x80, 0xe9]), "a€é".as_bytes());
    }
}
