use std::fmt;
use std::str::FromStr;

use crate::{Header, Txid};

/// Name of an LTX file: `{min:016x}-{max:016x}.ltx`, lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// The first transaction in the file.
    pub min: Txid,
    /// The last transaction in the file.
    pub max: Txid,
}

impl From<&Header> for FileName {
    fn from(header: &Header) -> FileName {
        FileName { min: header.min_txid, max: header.max_txid }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.ltx", self.min, self.max)
    }
}

impl FromStr for FileName {
    type Err = InvalidFileName;

    fn from_str(name: &str) -> Result<FileName, InvalidFileName> {
        let (min, max) =
            name.strip_suffix(".ltx").and_then(|name| name.split_once('-')).ok_or(InvalidFileName)?;
        let txid = |digits: &str| {
            let lower_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if digits.len() == 16 && lower_hex {
                digits.parse().map_err(|_| InvalidFileName)
            } else {
                Err(InvalidFileName)
            }
        };
        let (min, max) = (txid(min)?, txid(max)?);
        if min <= max { Ok(FileName { min, max }) } else { Err(InvalidFileName) }
    }
}

/// The name of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the name of an LTX file (two ascending transaction ids of 16 lower-case hexadecimal digits: `min-max.ltx`)"
)]
pub struct InvalidFileName;
