//! A [`StoreUrl`] as text, without passwords.

use std::fmt::{self, Write as _};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::StoreUrl;

/// What would end a path or change its meaning.
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'?').add(b'\\');
/// What would end a query value; `+` is read back as a space by others.
const QUERY: &AsciiSet = &PATH.add(b'&').add(b'+').add(b'=');
/// What would end a user name.
const USER: &AsciiSet = &PATH.add(b'/').add(b':').add(b'@');

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::File { path } => match path.to_str() {
                Some(text) if path.is_absolute() => write!(f, "file://{}", utf8_percent_encode(text, PATH)),
                // A relative path has no URL; `./` keeps a name with `://` in it from being taken for one.
                _ if path.is_absolute() || path.starts_with(".") || path.starts_with("..") => {
                    write!(f, "{}", path.display())
                }
                _ => write!(f, "./{}", path.display()),
            },
            StoreUrl::S3(url) => {
                place(f, "s3", &url.bucket, &url.path)?;
                let bool_text = |value: Option<bool>| value.map(|value| value.to_string());
                query(
                    f,
                    &[
                        ("endpoint", url.endpoint.clone()),
                        ("region", url.region.clone()),
                        ("force-path-style", bool_text(url.force_path_style)),
                        ("sign-payload", bool_text(url.sign_payload)),
                        ("skip-verify", url.skip_verify.then(|| "true".into())),
                        ("allow-insecure", url.skip_verify.then(|| "true".into())),
                    ],
                )
            }
            StoreUrl::Gcs(url) => {
                place(f, "gs", &url.bucket, &url.path)?;
                query(f, &[("endpoint", url.endpoint.clone())])
            }
            StoreUrl::Azure(url) => {
                f.write_str("abs://")?;
                if let Some(account) = &url.account {
                    write!(f, "{}@", utf8_percent_encode(account, USER))?;
                }
                write!(f, "{}", url.container)?;
                path(f, &url.path)?;
                query(f, &[("endpoint", url.endpoint.clone())])
            }
            StoreUrl::Sftp(url) => {
                f.write_str("sftp://")?;
                user(f, url.user.as_deref())?;
                write!(f, "{}", url.host)?;
                if url.port != 22 {
                    write!(f, ":{}", url.port)?;
                }
                path(f, &url.path)
            }
            StoreUrl::WebDav(url) => {
                f.write_str(if url.tls { "webdavs://" } else { "webdav://" })?;
                user(f, url.user.as_deref())?;
                write!(f, "{}", url.host)?;
                path(f, &url.path)?;
                let insecure = url.skip_verify.then(|| "true".to_string());
                query(f, &[("skip-verify", insecure.clone()), ("allow-insecure", insecure)])
            }
        }
    }
}

fn place(f: &mut fmt::Formatter<'_>, scheme: &str, bucket: &str, key: &str) -> fmt::Result {
    write!(f, "{scheme}://{bucket}")?;
    path(f, key)
}

pub(crate) fn path(f: &mut fmt::Formatter<'_>, path: &str) -> fmt::Result {
    if path.is_empty() { Ok(()) } else { write!(f, "/{}", utf8_percent_encode(path, PATH)) }
}

pub(crate) fn user(f: &mut fmt::Formatter<'_>, user: Option<&str>) -> fmt::Result {
    match user {
        Some(user) => write!(f, "{}@", utf8_percent_encode(user, USER)),
        None => Ok(()),
    }
}

pub(crate) fn query(f: &mut fmt::Formatter<'_>, pairs: &[(&str, Option<String>)]) -> fmt::Result {
    let mut sign = '?';
    for (name, value) in pairs {
        if let Some(value) = value {
            f.write_char(sign)?;
            write!(f, "{name}={}", utf8_percent_encode(value, QUERY))?;
            sign = '&';
        }
    }
    Ok(())
}
