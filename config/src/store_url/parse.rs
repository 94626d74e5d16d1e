//! Text to [`StoreUrl`].

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::{AzureUrl, GcsUrl, SftpUrl, StoreUrl, WebDavUrl, providers};
use crate::names;
use crate::secret::Secret;

const SCHEMES: [&str; 8] = ["file", "s3", "gs", "abs", "az", "sftp", "webdav", "webdavs"];

/// The generic parts of `scheme://user:password@host/path?query`.
pub(crate) struct Parts {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
}

/// Parses a URL or plain path; the flag says whether the query has `allow-insecure=true`.
pub(super) fn parse(text: &str) -> Result<(StoreUrl, bool), String> {
    if text.trim().is_empty() {
        return Err("a destination is missing: write a folder or a URL such as s3://bucket/path".into());
    }
    if text.contains('\0') {
        return Err("a destination cannot have a NUL character".into());
    }
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return plain_path(text).map(|url| (url, false));
    };
    let scheme = scheme.to_ascii_lowercase();
    if scheme == "file" {
        return file(rest).map(|url| (url, false));
    }
    if !SCHEMES.contains(&scheme.as_str()) {
        return Err(unknown_scheme(&scheme));
    }
    let mut parts = split(rest)?;
    let consent = take_bool(&mut parts.query, "allow-insecure")?.unwrap_or(false);
    let url = match scheme.as_str() {
        "s3" => s3(&mut parts)?,
        "gs" => gcs(&mut parts)?,
        "abs" | "az" => azure(&mut parts)?,
        "sftp" => sftp(&mut parts)?,
        _ => webdav(&mut parts, scheme == "webdavs")?,
    };
    match parts.query.first() {
        Some((name, _)) => Err(unknown_parameter(&scheme, name)),
        None => Ok((url, consent)),
    }
}

pub(crate) fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn plain_path(text: &str) -> Result<StoreUrl, String> {
    if text.starts_with("s3:") || text.starts_with("gs:") {
        return Err(format!("`{}:` needs two slashes: write {0}://bucket/path", &text[..2]));
    }
    Ok(StoreUrl::File { path: PathBuf::from(text) })
}

fn unknown_scheme(scheme: &str) -> String {
    let instead = match scheme {
        "oss" => ": write s3://bucket/path with endpoint = \"https://oss-REGION.aliyuncs.com\"".into(),
        "nats" => ": NATS is not supported as a store".into(),
        "http" | "https" => {
            ": write webdavs://host/path for WebDAV, or s3://bucket/path with this address as its endpoint"
                .into()
        }
        "gcs" => ": did you mean `gs://`?".into(),
        "azure" => ": did you mean `abs://`?".into(),
        _ => match names::nearest(scheme, SCHEMES) {
            Some(near) => format!(": did you mean `{near}://`?"),
            None => String::new(),
        },
    };
    format!("unknown kind of store `{scheme}://`{instead} (there are {})", names::list(SCHEMES))
}

fn unknown_parameter(scheme: &str, name: &str) -> String {
    let known: &[&str] = match scheme {
        "s3" => &["endpoint", "region", "force-path-style", "sign-payload", "skip-verify", "allow-insecure"],
        "gs" | "abs" | "az" => &["endpoint"],
        "webdav" | "webdavs" => &["skip-verify", "allow-insecure"],
        _ => &[],
    };
    match names::nearest(name, known.iter().copied()) {
        Some(near) => format!("unknown parameter `{name}` in the URL: did you mean `{near}`?"),
        None if known.is_empty() => format!("unknown parameter `{name}`: {scheme}:// URLs have none"),
        None => {
            let known = names::list(known.iter().copied());
            format!("unknown parameter `{name}` in the URL: {scheme}:// URLs have {known}")
        }
    }
}

pub(crate) fn split(rest: &str) -> Result<Parts, String> {
    if rest.contains('#') {
        return Err("a `#` in a URL must be written %23".into());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (Some(login), host),
        None => (None, authority),
    };
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, password)) => (non_empty(decode(user)?), non_empty(decode(password)?).map(Secret::new)),
        None => (None, None),
    };
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let name = hyphenated(&decode(name)?);
        if pairs.iter().any(|(present, _)| *present == name) {
            return Err(format!("the parameter `{name}` is given twice"));
        }
        pairs.push((name, decode(value)?));
    }
    Ok(Parts { user, password, host: host.to_owned(), path: object_path(&decode(path)?)?, query: pairs })
}

pub(crate) fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    match decoded {
        Ok(decoded) if !decoded.contains('\0') => Ok(decoded.into_owned()),
        _ => Err("a percent-encoded part of the URL is not UTF-8 text".into()),
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// `forcePathStyle` and `force_path_style` are `force-path-style`.
fn hyphenated(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            '_' => out.push('-'),
            c if c.is_ascii_uppercase() => {
                out.push('-');
                out.push(c.to_ascii_lowercase());
            }
            c => out.push(c),
        }
    }
    out
}

/// A path in a store, without empty segments and without a slash at either end.
pub(crate) fn object_path(path: &str) -> Result<String, String> {
    let segments: Vec<&str> =
        path.split('/').filter(|segment| !segment.is_empty() && *segment != ".").collect();
    if segments.contains(&"..") {
        return Err("a path in a store cannot have `..`".into());
    }
    Ok(segments.join("/"))
}

pub(crate) fn take(query: &mut Vec<(String, String)>, name: &str) -> Option<String> {
    let at = query.iter().position(|(present, _)| present == name)?;
    non_empty(query.remove(at).1)
}

fn take_bool(query: &mut Vec<(String, String)>, name: &str) -> Result<Option<bool>, String> {
    match take(query, name).as_deref() {
        None => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(_) => Err(format!("the parameter `{name}` is `true` or `false`")),
    }
}

fn file(rest: &str) -> Result<StoreUrl, String> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !query.is_empty() {
        return Err("a file:// URL has no parameters: write a `?` in a folder's name as %3F".into());
    }
    let path =
        rest.strip_prefix("localhost/").map(|path| format!("/{path}")).unwrap_or_else(|| rest.to_owned());
    if !path.starts_with('/') {
        return Err(format!(
            "`file://{rest}` has two slashes: write file:///{rest} for /{rest}, or ./{rest}"
        ));
    }
    Ok(StoreUrl::File { path: PathBuf::from(decode(&path)?) })
}

fn s3(parts: &mut Parts) -> Result<StoreUrl, String> {
    if parts.host.starts_with("arn:") {
        return Err(
            "access point ARNs are not supported: use the access point's alias as the bucket's name".into()
        );
    }
    no_login(parts, "access_key_id and secret_access_key, or the AWS_ variables of the environment")?;
    require_host(&parts.host, "s3://bucket/path")?;
    let mut url = providers::from_host(&parts.host)?;
    url.path = std::mem::take(&mut parts.path);
    if let Some(endpoint) = take(&mut parts.query, "endpoint") {
        url.endpoint = Some(normal_endpoint(&endpoint)?);
    }
    url.region = take(&mut parts.query, "region").or(url.region);
    url.force_path_style = take_bool(&mut parts.query, "force-path-style")?.or(url.force_path_style);
    url.sign_payload = take_bool(&mut parts.query, "sign-payload")?;
    url.skip_verify = take_bool(&mut parts.query, "skip-verify")?.unwrap_or(false);
    Ok(StoreUrl::S3(url))
}

/// An endpoint with its scheme and without a slash at its end; `https` is assumed, as Litestream does.
pub(crate) fn normal_endpoint(text: &str) -> Result<String, String> {
    let text = text.trim().trim_end_matches('/');
    let url = match text.split_once("://") {
        Some(("http" | "https", _)) => text.to_owned(),
        Some((scheme, _)) => {
            return Err(format!("an endpoint begins with https:// or http://, not {scheme}://"));
        }
        None => format!("https://{text}"),
    };
    let host = url.split_once("://").map_or("", |(_, host)| host);
    if host.is_empty() || host.starts_with('/') || host.contains(['@', ' ', '?', '#']) {
        return Err("an endpoint is https://host or https://host:port".into());
    }
    Ok(url)
}

fn gcs(parts: &mut Parts) -> Result<StoreUrl, String> {
    no_login(parts, "credentials_file or GOOGLE_APPLICATION_CREDENTIALS")?;
    require_host(&parts.host, "gs://bucket/path")?;
    let endpoint =
        take(&mut parts.query, "endpoint").map(|endpoint| normal_endpoint(&endpoint)).transpose()?;
    let (bucket, path) = (parts.host.clone(), std::mem::take(&mut parts.path));
    Ok(StoreUrl::Gcs(GcsUrl { bucket, path, endpoint }))
}

/// `abs://ACCOUNT@CONTAINER/path`, `abs://CONTAINER/path`, or `abs://ACCOUNT.blob.core.windows.net/CONTAINER/path`.
fn azure(parts: &mut Parts) -> Result<StoreUrl, String> {
    if parts.password.is_some() {
        return Err("an Azure URL takes no key: use account_key or sas_token, or AZURE_STORAGE_KEY".into());
    }
    require_host(&parts.host, "abs://account@container/path")?;
    let mut endpoint =
        take(&mut parts.query, "endpoint").map(|endpoint| normal_endpoint(&endpoint)).transpose()?;
    let account = parts.user.clone();
    let path = std::mem::take(&mut parts.path);
    // A container's name has neither dots nor a port, so such a host is the service's.
    if !parts.host.contains(['.', ':']) {
        return Ok(StoreUrl::Azure(AzureUrl { container: parts.host.clone(), path, account, endpoint }));
    }
    let (container, path) = path.split_once('/').unwrap_or((&path, ""));
    if container.is_empty() {
        return Err(format!("the container is missing: write abs://{}/container/path", parts.host));
    }
    let of_host = parts.host.strip_suffix(".blob.core.windows.net");
    if of_host.is_none() && endpoint.is_none() {
        endpoint = Some(format!("https://{}", parts.host));
    }
    Ok(StoreUrl::Azure(AzureUrl {
        container: container.to_owned(),
        path: path.to_owned(),
        // The host decides where requests go; `account@` before it is Litestream's decoration.
        account: of_host.map(str::to_owned).or(account),
        endpoint,
    }))
}

fn sftp(parts: &mut Parts) -> Result<StoreUrl, String> {
    let (host, port) = host_and_port(&parts.host)?;
    require_host(&host, "sftp://user@host/path")?;
    Ok(StoreUrl::Sftp(SftpUrl {
        host,
        port: port.unwrap_or(22),
        user: parts.user.take(),
        password: parts.password.take(),
        path: std::mem::take(&mut parts.path),
    }))
}

/// Splits `host:port`; an IPv6 address stands in brackets.
pub(crate) fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(format!("an IPv6 address stands in brackets: [{text}]"));
    }
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port != 0 => Some(port),
            _ => return Err(format!("`{port}` is not a port (1 to 65535)")),
        },
    };
    Ok((host.to_owned(), port))
}

fn webdav(parts: &mut Parts, tls: bool) -> Result<StoreUrl, String> {
    host_and_port(&parts.host)?;
    require_host(&parts.host, "webdavs://user@host/path")?;
    Ok(StoreUrl::WebDav(WebDavUrl {
        tls,
        host: parts.host.clone(),
        path: std::mem::take(&mut parts.path),
        user: parts.user.take(),
        password: parts.password.take(),
        skip_verify: take_bool(&mut parts.query, "skip-verify")?.unwrap_or(false),
    }))
}

fn no_login(parts: &Parts, instead: &str) -> Result<(), String> {
    if parts.user.is_some() || parts.password.is_some() {
        return Err(format!("this kind of URL takes no user or password: use {instead}"));
    }
    Ok(())
}

/// A bucket, container or server name: present, and free of what would be taken for another part of the URL.
pub(crate) fn require_host(host: &str, form: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err(format!("the name behind `://` is missing: write {form}"));
    }
    let odd = |c: char| {
        c.is_whitespace() || c.is_control() || matches!(c, '%' | '\\' | '"' | '\'' | '<' | '>' | '$')
    };
    if host.contains(odd) {
        return Err(format!("the name behind `://` has a character that no name has: write {form}"));
    }
    Ok(())
}
