//! What a client has seen: how far each database was.
//!
//! As text `NAME:TXID`, joined by `~`, with names percent-encoded and TXIDs in hexadecimal: characters that a cookie may have (RFC 6265,
//! section 4.1.1).

use std::collections::BTreeMap;
use std::fmt;

use hyper::header::{COOKIE as COOKIES, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use litekeep_ltx::Txid;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The cookie that browsers carry.
pub const COOKIE: &str = "litekeep-txid";
/// The header of answers, and of requests by clients that keep no cookies.
pub const HEADER: HeaderName = HeaderName::from_static("litekeep-txid");

/// More of it is not read: a server knows few databases.
const MOST_BYTES: usize = 4096;
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Databases by their names, with the last transaction of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(pub BTreeMap<String, Txid>);

impl Positions {
    /// What a request says that its client has seen. What is not understood is not there.
    pub(crate) fn seen(headers: &HeaderMap) -> Positions {
        let of_cookie = |cookies: &str| {
            let mut pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| Positions::parse(value))
        };
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let cookies = headers.get_all(COOKIES).iter().filter_map(text).filter_map(|text| of_cookie(&text));
        let own = headers.get_all(HEADER).iter().filter_map(text).map(|text| Positions::parse(&text));
        cookies.chain(own).fold(Positions::default(), Positions::and)
    }

    /// The further one of each.
    #[must_use]
    pub fn and(mut self, other: Positions) -> Positions {
        for (name, txid) in other.0 {
            let at = self.0.entry(name).or_insert(txid);
            *at = txid.max(*at);
        }
        self
    }

    /// Whether each of another's databases is as far here.
    #[must_use]
    pub fn reach(&self, other: &Positions) -> bool {
        other.0.iter().all(|(name, txid)| self.0.get(name).is_some_and(|here| here >= txid))
    }

    fn parse(text: &str) -> Positions {
        if text.len() > MOST_BYTES {
            return Positions::default();
        }
        let one = |pair: &str| {
            let (name, txid) = pair.split_once(':')?;
            let name = percent_decode_str(name).decode_utf8().ok()?.into_owned();
            Some((name, Txid::new(u64::from_str_radix(txid, 16).ok()?)?))
        };
        Positions(text.split('~').filter_map(one).collect())
    }

    /// Tells the client.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let text = self.to_string();
        let cookie = format!("{COOKIE}={text}; Path=/; HttpOnly; SameSite=Lax");
        if let (Ok(cookie), Ok(text)) = (HeaderValue::from_str(&cookie), HeaderValue::from_str(&text)) {
            headers.append(SET_COOKIE, cookie);
            headers.insert(HEADER, text);
        }
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (name, txid)) in self.0.iter().enumerate() {
            let between = if nth == 0 { "" } else { "~" };
            write!(f, "{between}{}:{:x}", utf8_percent_encode(name, ENCODED), txid.get())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(of: &[(&str, u64)]) -> Positions {
        Positions(of.iter().map(|(name, txid)| ((*name).to_owned(), Txid::new(*txid).unwrap())).collect())
    }

    #[test]
    fn what_a_client_is_told_it_says_again() {
        let all = positions(&[("app.db", 0x1f), ("data/käse;~:,.db", 2)]);
        let mut headers = HeaderMap::new();
        all.tell(&mut headers);
        let cookie = headers[SET_COOKIE].to_str().unwrap();
        let cookie = cookie.split_once(';').unwrap().0;
        assert!(cookie.bytes().all(|b| b.is_ascii_graphic() && !b";,\"\\".contains(&b)), "{cookie}");
        let mut request = HeaderMap::new();
        request.insert(COOKIES, format!("a=b; {cookie}; c=d").parse().unwrap());
        assert_eq!(Positions::seen(&request), all);
        request.insert(HEADER, "app.db:20~new:1".parse().unwrap());
        assert_eq!(Positions::seen(&request), all.and(positions(&[("app.db", 0x20), ("new", 1)])));
    }

    #[test]
    fn what_is_not_understood_is_not_there() {
        for text in ["", "~", "app", "app:", "app:0", "app:xyz", "app:-1", "%ff:1", &"a:1~".repeat(2000)] {
            assert_eq!(Positions::parse(text), Positions::default(), "{text}");
        }
    }

    #[test]
    fn a_node_has_what_it_has_of_each() {
        let here = positions(&[("a", 5), ("b", 2)]);
        assert!(here.reach(&positions(&[])) && here.reach(&positions(&[("a", 5)])));
        assert!(!here.reach(&positions(&[("a", 5), ("b", 3)])) && !here.reach(&positions(&[("c", 1)])));
    }
}
