//! What is told, piece by piece: a letter, the length of what follows (4 bytes, big-endian), and that.
//!
//! | letter | what follows |
//! | --- | --- |
//! | `F` | a file of the log |
//! | `N` | how far the log is: [`Now`] as JSON |
//! | `E` | why it ends, as text |

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::LARGEST;

const HEAD: usize = 5;
/// Of what is no file.
const LARGEST_TEXT: usize = 64 << 10;

/// How far a log is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// The last transaction that the backup has, hexadecimal.
    pub confirmed: String,
    /// The last one that the primary has captured.
    pub captured: String,
    /// The primary's clock, milliseconds since the epoch.
    pub unix_ms: i64,
}

/// A piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    File(Bytes),
    Now(Now),
    End(String),
}

impl Frame {
    /// The head, and what follows it.
    pub(crate) fn into_bytes(self) -> [Bytes; 2] {
        let (letter, body) = match self {
            Frame::File(file) => (b'F', file),
            Frame::Now(now) => (b'N', serde_json::to_vec(&now).expect("texts and a number").into()),
            Frame::End(why) => (b'E', why.into()),
        };
        let len = u32::try_from(body.len()).expect("at most 16 MiB");
        let mut head = [letter, 0, 0, 0, 0];
        head[1..].copy_from_slice(&len.to_be_bytes());
        [Bytes::copy_from_slice(&head), body]
    }
}

/// Puts pieces together that come in any parts.
#[derive(Debug, Default)]
pub(crate) struct Frames(BytesMut);

impl Frames {
    pub(crate) fn add(&mut self, part: &[u8]) {
        self.0.extend_from_slice(part);
    }

    /// The next one, if it is whole.
    ///
    /// # Errors
    /// What is wrong with what came: it is nothing that [`Frame::into_bytes`] makes.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, String> {
        let Some(head) = self.0.first_chunk::<HEAD>() else { return Ok(None) };
        let letter = head[0];
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let largest = match letter {
            b'F' => LARGEST,
            b'N' | b'E' => LARGEST_TEXT,
            _ => return Err(format!("it is no stream of a log: a piece begins with byte {letter}")),
        };
        if len > largest {
            return Err(format!("a piece says that it has {len} bytes"));
        }
        if self.0.len() < HEAD + len {
            return Ok(None);
        }
        self.0.advance(HEAD);
        let body = self.0.split_to(len).freeze();
        Ok(Some(match letter {
            b'F' => Frame::File(body),
            b'N' => Frame::Now(
                serde_json::from_slice(&body).map_err(|e| format!("how far it is, is not told: {e}"))?,
            ),
            _ => Frame::End(String::from_utf8_lossy(&body).into_owned()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_any_parts() {
        let now = Now { confirmed: "7".into(), captured: "8".into(), unix_ms: -1 };
        let told =
            [Frame::File(Bytes::from_static(b"a file")), Frame::Now(now), Frame::End("enough".to_owned())];
        let bytes: Vec<u8> =
            told.iter().flat_map(|frame| frame.clone().into_bytes()).flat_map(|part| part.to_vec()).collect();
        for size in 1..bytes.len() {
            let (mut frames, mut got) = (Frames::default(), vec![]);
            for part in bytes.chunks(size) {
                frames.add(part);
                while let Some(frame) = frames.next().unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, told, "{size} bytes at once");
        }
    }

    #[test]
    fn what_is_no_piece_is_told() {
        for bytes in [&b"<html>"[..], b"F\xff\0\0\0", b"N\0\x7f\0\0", b"N\0\0\0\x02{]"] {
            let mut frames = Frames::default();
            frames.add(bytes);
            frames.next().unwrap_err();
        }
    }
}
