//! Who may look.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use crate::{App, page};

/// On every answer. Scripts and styles are files of their own, so none of a foreign hand runs inline.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];
/// A wrong token is answered this much later.
const WRONG: Duration = Duration::from_millis(300);
const COOKIE: &str = "litekeep";

/// The conditions.
pub(crate) struct Guard {
    token: Option<Token>,
    is_local: bool,
}

/// Only digests are compared, so the time that takes says nothing about the token.
struct Token {
    digest: [u8; 32],
    /// What a browser keeps: it lets in as the token does, but does not tell it to what else runs on this host, which gets
    /// the cookies of all ports.
    cookie: String,
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Verdict {
    Pass,
    /// The token came in the address: from now on the cookie.
    Enter(String),
    /// The name of the host is not one of this machine.
    ForeignHost,
    Locked {
        is_wrong: bool,
    },
    ForeignOrigin,
}

impl Guard {
    pub(crate) fn new(token: Option<&str>, is_local: bool) -> Guard {
        let token = token
            .map(|token| Token { digest: digest(token), cookie: hex(&digest(&format!("cookie {token}"))) });
        Guard { token, is_local }
    }

    fn verdict(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        let Some(token) = &self.token else {
            return if self.is_local && !is_this_machine(host) {
                Verdict::ForeignHost
            } else {
                Verdict::Pass
            };
        };
        // They hold nothing, and the page that asks for the token wants them.
        if [page::STYLE, page::ICON].contains(&uri.path()) {
            return Verdict::Pass;
        }
        let same = |given: &str| digest(given) == token.digest;
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let in_address = parameter(uri, "token");
        if method == Method::GET && uri.path() == "/" && in_address.as_deref().is_some_and(same) {
            return Verdict::Enter(format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", token.cookie));
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies =
            cookies.flat_map(|value| value.split(';')).filter_map(|one| one.trim().split_once('='));
        let has_cookie =
            cookies.any(|(name, value)| name == COOKIE && digest(value) == digest(&token.cookie));
        if !has_cookie && !bearer.is_some_and(same) {
            return Verdict::Locked { is_wrong: bearer.is_some() || in_address.is_some() };
        }
        let origin = text(header::ORIGIN);
        let is_own =
            origin.and_then(|origin| origin.split_once("://")).is_some_and(|(_, origin)| origin == host);
        // A program shows its token and has no origin; a browser always says where a POST comes from.
        let is_fine = is_own || origin.is_none() && !has_cookie;
        if method != Method::GET && method != Method::HEAD && !is_fine {
            return Verdict::ForeignOrigin;
        }
        Verdict::Pass
    }
}

pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let is_page = request.uri().path() == "/";
    let verdict = app.guard.verdict(request.method(), request.uri(), request.headers());
    let mut answer = match verdict {
        Verdict::Pass => next.run(request).await,
        // Not a redirection: the first request of the page itself must be one of this site, or the cookie stays out of it.
        Verdict::Enter(cookie) => ([(header::SET_COOKIE, cookie)], page::entered()).into_response(),
        Verdict::ForeignHost => {
            let text = "This page is for this machine: open it as http://127.0.0.1 or http://localhost.\n";
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
        Verdict::Locked { is_wrong } => {
            if is_wrong {
                tokio::time::sleep(WRONG).await;
            }
            let (code, with) = (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]);
            match is_page {
                true => (code, with, page::locked(is_wrong)).into_response(),
                false => (code, with).into_response(),
            }
        }
        Verdict::ForeignOrigin => {
            (StatusCode::FORBIDDEN, "This can be asked for from the status page only.\n").into_response()
        }
    };
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// A parameter of the address, as a form sends it.
pub(crate) fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.into_iter().find(|(key, _)| *key == name)?.1.replace('+', " ");
    Some(percent_decode_str(&value).decode_utf8().ok()?.into_owned())
}

/// The names of all parameters of an address.
pub(crate) fn parameter_names(uri: &Uri) -> impl Iterator<Item = &str> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
}

/// Whether a `Host` header names this machine, whatever the port: a tunnel has another one.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.to_ascii_lowercase();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    let is_loopback = address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    is_loopback || name == "localhost" || name.ends_with(".localhost")
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "correct horse+battery";

    fn verdict(guard: &Guard, method: Method, uri: &str, headers: &[(HeaderName, &str)]) -> Verdict {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        guard.verdict(&method, &uri.parse().unwrap(), &headers)
    }

    #[test]
    fn hosts_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:9091",
            "127.0.0.1:80",
            "127.1.2.3",
            "[::1]:9091",
            "[::1]",
            "a.localhost:1",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:9091",
            "127.0.0.1.nip.io",
            "10.0.0.1:9091",
            "notlocalhost",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn without_a_token_the_host_counts() {
        let guard = Guard::new(None, true);
        let by = |host| verdict(&guard, Method::GET, "/", &[(header::HOST, host)]);
        assert_eq!(by("127.0.0.1:9091"), Verdict::Pass);
        assert_eq!(by("rebound.example:9091"), Verdict::ForeignHost);
        assert_eq!(verdict(&guard, Method::GET, "/api/status", &[]), Verdict::ForeignHost);
    }

    #[test]
    fn with_a_token_only_the_token_counts() {
        let guard = Guard::new(Some(TOKEN), true);
        let get = |uri: &str, headers: &[(HeaderName, &str)]| verdict(&guard, Method::GET, uri, headers);
        assert_eq!(get("/", &[(header::HOST, "status.example")]), Verdict::Locked { is_wrong: false });
        assert_eq!(get("/?token=wrong", &[]), Verdict::Locked { is_wrong: true });
        assert_eq!(get("/app.css", &[]), Verdict::Pass);
        let Verdict::Enter(cookie) = get("/?token=correct+horse%2Bbattery", &[]) else { panic!() };
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict") && !cookie.contains("horse"), "{cookie}");
        let kept = cookie.split(';').next().unwrap();
        let more = format!("other=1; {kept}");
        assert_eq!(get("/", &[(header::COOKIE, &more)]), Verdict::Pass);
        assert_eq!(get("/", &[(header::COOKIE, "litekeep=")]), Verdict::Locked { is_wrong: false });
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(get("/api/status", &[(header::AUTHORIZATION, &bearer)]), Verdict::Pass);
        assert_eq!(get("/", &[(header::AUTHORIZATION, "Bearer x")]), Verdict::Locked { is_wrong: true });
    }

    #[test]
    fn what_changes_something_comes_from_the_page() {
        let guard = Guard::new(Some(TOKEN), false);
        let Verdict::Enter(cookie) = verdict(&guard, Method::GET, "/?token=correct%20horse%2Bbattery", &[])
        else {
            panic!()
        };
        let kept = cookie.split(';').next().unwrap();
        let post = |headers: &[(HeaderName, &str)]| verdict(&guard, Method::POST, "/api/reload", headers);
        let host = (header::HOST, "status.example:9091");
        let own = (header::ORIGIN, "https://status.example:9091");
        assert_eq!(post(&[host.clone(), own.clone(), (header::COOKIE, kept)]), Verdict::Pass);
        assert_eq!(post(&[host.clone(), (header::COOKIE, kept)]), Verdict::ForeignOrigin);
        let foreign = (header::ORIGIN, "https://evil.example");
        assert_eq!(post(&[host.clone(), foreign, (header::COOKIE, kept)]), Verdict::ForeignOrigin);
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(post(&[host.clone(), (header::AUTHORIZATION, &bearer)]), Verdict::Pass);
        assert_eq!(post(&[host, own]), Verdict::Locked { is_wrong: false });
    }
}
