//! Headers that belong to one connection only, and those that tell the application who asked (RFC 9110, section 7.6).

use std::net::SocketAddr;

use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The protocol that a message wants to change to.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = listed(headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    wants.then(|| headers.get(UPGRADE).cloned()).flatten()
}

/// What the `Connection` headers list.
fn listed(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

/// Removes what belongs to one connection only, but for an upgrade, which belongs to both then.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let upgrade = upgrade(headers);
    let names: Vec<HeaderName> = listed(headers).filter_map(|name| name.parse().ok()).collect();
    for name in names {
        headers.remove(name);
    }
    let own = [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    for name in own {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// Says who asked.
pub(crate) fn forwarded(headers: &mut HeaderMap, client: SocketAddr) {
    let ip = client.ip().to_canonical().to_string();
    let chain = match headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok()) {
        Some(before) => format!("{before}, {ip}"),
        None => ip,
    };
    if let Ok(value) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if let Some(host) = headers.get(hyper::header::HOST).cloned() {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        headers.iter().map(pair).collect()
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("accept", "*/*")]));
    }

    #[test]
    fn an_upgrade_is_passed_on() {
        let mut headers =
            map(&[("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "x")]);
        strip(&mut headers);
        assert_eq!(
            headers,
            map(&[("sec-websocket-key", "x"), ("connection", "upgrade"), ("upgrade", "websocket")])
        );
    }

    #[test]
    fn the_client_is_named_after_those_before() {
        let mut headers = map(&[("x-forwarded-for", "1.2.3.4"), ("host", "a.example")]);
        forwarded(&mut headers, "[::ffff:10.0.0.1]:5000".parse().unwrap());
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 10.0.0.1");
        assert_eq!(
            (&headers["x-forwarded-proto"], &headers["x-forwarded-host"]),
            (&"http".parse().unwrap(), &"a.example".parse().unwrap())
        );
    }
}
