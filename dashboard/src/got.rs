//! A row of a cache, by `/get/DATABASE/TABLE/KEY`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AGE, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::percent_decode_str;

use crate::{App, Refused, Wanted, guard};

/// Where a row is from: `hit`, `stale` or `miss`.
const CACHE: HeaderName = HeaderName::from_static("x-litekeep-cache");
/// Why it is not newer, or not kept.
const ERROR: HeaderName = HeaderName::from_static("x-litekeep-error");

pub(crate) async fn row(State(app): State<Arc<App>>, request: Request) -> Response {
    if is_foreign(request.headers()) {
        return (StatusCode::FORBIDDEN, "Rows are for programs, not for pages of other sites.\n")
            .into_response();
    }
    if let Some(name) = guard::parameter_names(request.uri()).find(|name| *name != "token") {
        let why = format!("there is no parameter `{name}`: the key is the last part of the path\n");
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    let Some(wanted) = wanted(request.uri()) else {
        let why = "ask for /get/DATABASE/TABLE/KEY, each part percent-encoded: /get/app.db/users/42\n";
        return (StatusCode::BAD_REQUEST, why).into_response();
    };
    drop(request);
    let Ok(_place) = app.getters.clone().try_acquire_owned() else {
        let later = [(RETRY_AFTER, "1")];
        return (StatusCode::SERVICE_UNAVAILABLE, later, "too many wait for rows already\n").into_response();
    };
    let got = match app.source.get(wanted).await {
        Ok(got) => got,
        Err(Refused::Unavailable(why)) => {
            return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], why).into_response();
        }
        Err(Refused::Failed(why) | Refused::Gone(why)) => {
            return (StatusCode::BAD_GATEWAY, why).into_response();
        }
        Err(Refused::Unknown(why) | Refused::Invalid(why)) => {
            return (StatusCode::BAD_REQUEST, why).into_response();
        }
    };
    let code = if got.row.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let body = got.row.unwrap_or_else(|| "null".to_owned());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(AGE, HeaderValue::from(got.age.as_secs()));
    let words = [(CACHE, Some(got.cache)), (ERROR, got.trouble)];
    for (name, words) in words.into_iter().filter_map(|(name, words)| Some((name, words?))) {
        // A header has a line of ASCII.
        let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        if let Ok(value) = HeaderValue::from_str(&words.chars().map(plain).collect::<String>()) {
            headers.insert(name, value);
        }
    }
    (code, headers, body).into_response()
}

/// Whether a browser asks for a page of another site.
fn is_foreign(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

/// The parts of the path, from its end: a database is named by folders, too.
fn wanted(uri: &Uri) -> Option<Wanted> {
    let mut parts = uri.path().strip_prefix("/get/")?.rsplitn(3, '/');
    let mut next = || Some(percent_decode_str(parts.next()?).decode_utf8().ok()?.into_owned());
    let (key, table, database) = (next()?, next()?, next()?);
    let is_whole = [&key, &table, &database].iter().all(|part| !part.is_empty());
    is_whole.then_some(Wanted { database, table, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_path() {
        let of = |path: &str| wanted(&path.parse().unwrap());
        let wants = |database: &str, table: &str, key: &str| {
            let [database, table, key] = [database, table, key].map(str::to_owned);
            Some(Wanted { database, table, key })
        };
        assert_eq!(of("/get/app.db/users/42"), wants("app.db", "users", "42"));
        assert_eq!(of("/get/srv/data/app.db/users/a=1,b=x"), wants("srv/data/app.db", "users", "a=1,b=x"));
        assert_eq!(of("/get/app.db/users/a%2Fb%20%C3%A9?token=x"), wants("app.db", "users", "a/b \u{e9}"));
        for path in ["/get/app.db/users/", "/get/users/42", "/get//users/42", "/get/app.db/users/%ff"] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn pages_of_other_sites_get_nothing() {
        let of = |site: Option<&str>| {
            let headers = site.map(|site| (HeaderName::from_static("sec-fetch-site"), site.parse().unwrap()));
            is_foreign(&headers.into_iter().collect())
        };
        for (site, expected) in [
            (None, false),
            (Some("none"), false),
            (Some("same-origin"), false),
            (Some("cross-site"), true),
            (Some("same-site"), true),
        ] {
            assert_eq!(of(site), expected, "{site:?}");
        }
    }
}
