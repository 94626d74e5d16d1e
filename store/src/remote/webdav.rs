//! Files on a WebDAV server (RFC 4918).
//!
//! `MOVE` with `Overwrite: F` is how a file gets its name. Servers look and then rename, so that of two writers in the
//! same instant both may succeed; the one that comes later is refused.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::TryFutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::GetRange;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use quick_xml::Reader;
use quick_xml::events::Event;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, IF_NONE_MATCH, LAST_MODIFIED, RANGE};
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode};

use super::{Content, Entry, Files, Reading, resolve};
use crate::error::Result;
use crate::target::{REQUEST_TIMEOUT, WebDav, web_client};

/// All that a path may hold as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The largest answer to a listing that is taken: some hundred thousand files.
const LONGEST_LISTING: usize = 256 << 20;

const PROPFIND: &str = r#"<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/></prop></propfind>"#;

/// A server.
pub(crate) struct Server {
    settings: WebDav,
    client: Client,
}

impl Server {
    pub(crate) fn new(settings: &WebDav) -> Result<Server> {
        let client = web_client(&settings.endpoint, settings.ca_file.as_ref(), settings.skip_verify)?;
        Ok(Server { settings: settings.clone(), client })
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{}", self.settings.endpoint.trim_end_matches('/'), utf8_percent_encode(path, ENCODED))
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        // Only characters of tokens stand in our methods.
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let request = self.client.request(method, self.url(path));
        match &self.settings.user {
            Some(user) => request.basic_auth(user, self.settings.password.as_ref().map(|p| p.expose())),
            None => request,
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("webdav::Server").field(&self.settings).finish()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.settings.endpoint)
    }
}

#[async_trait]
impl Files for Server {
    async fn write(&self, path: &str, content: Content, _modified_ms: Option<i64>) -> io::Result<()> {
        let request = self.request("PUT", path).header(IF_NONE_MATCH, "*");
        let request = match content.size {
            // Not all servers take a body of unknown length.
            Some(bytes) => request.header(CONTENT_LENGTH, bytes),
            None => request,
        };
        answer(request.body(Body::wrap_stream(content.chunks.map(io::Result::Ok)))).await.map(drop)
    }

    async fn rename(&self, from: &str, to: &str, overwrite: bool) -> io::Result<()> {
        let request = self.request("MOVE", from).header("destination", self.url(to));
        send(request.header("overwrite", if overwrite { "T" } else { "F" })).await.map(drop)
    }

    async fn make_folder(&self, path: &str) -> io::Result<()> {
        match send(self.request("MKCOL", path)).await {
            // The answer where something is already.
            Err(e) if status_of(&e) == Some(StatusCode::METHOD_NOT_ALLOWED) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        send(self.request("DELETE", path)).await.map(drop)
    }

    async fn look(&self, path: &str) -> io::Result<Entry> {
        let answer = send(self.request("HEAD", path)).await?;
        let size = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(file(path, size.ok_or_else(|| io::Error::other("the answer has no size"))?, answer.headers()))
    }

    async fn read(&self, path: &str, range: Option<GetRange>) -> io::Result<Reading> {
        let request = self.request("GET", path);
        let answer = send(match &range {
            Some(range) => request.header(RANGE, range.to_string()),
            None => request,
        })
        .await?;
        let headers = answer.headers().clone();
        let size = match answer.status() {
            StatusCode::PARTIAL_CONTENT => total_size(&headers),
            _ => answer.content_length(),
        };
        let size = size.ok_or_else(|| io::Error::other("the answer has no size"))?;
        let range = resolve(range.as_ref(), size)?;
        // A server may ignore the range.
        let before = if answer.status() == StatusCode::PARTIAL_CONTENT { 0 } else { range.start };
        let content = answer.bytes_stream().map_err(io::Error::other);
        let content = cut(content.boxed(), before, range.end - range.start);
        Ok(Reading { file: file(path, size, &headers), range, content })
    }

    async fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let request = self.request("PROPFIND", &format!("{path}/")).header("depth", "1");
        let mut answer = send(request.header("content-type", "application/xml").body(PROPFIND)).await?;
        let mut text = Vec::new();
        while let Some(chunk) = in_time(answer.chunk().map_err(io::Error::other)).await? {
            if text.len() + chunk.len() > LONGEST_LISTING {
                return Err(io::Error::other("the listing is too long"));
            }
            text.extend_from_slice(&chunk);
        }
        entries(path, &text)
    }
}

/// A refusal of the server's.
#[derive(Debug, thiserror::Error)]
#[error("the server answers {0}")]
struct Refused(StatusCode);

fn status_of(error: &io::Error) -> Option<StatusCode> {
    Some(error.get_ref()?.downcast_ref::<Refused>()?.0)
}

/// The answer to a request that is answered soon.
async fn send(request: RequestBuilder) -> io::Result<Response> {
    in_time(answer(request)).await
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(REQUEST_TIMEOUT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn answer(request: RequestBuilder) -> io::Result<Response> {
    // The URL holds no secret, but the error's own text repeats it.
    let answer = request.send().await.map_err(|e| io::Error::other(e.without_url()))?;
    let kind = match answer.status() {
        // Of a `PROPFIND`, and of requests that touch several files: none of ours does, so one of its parts failed.
        StatusCode::MULTI_STATUS => return Ok(answer),
        status if status.is_success() => return Ok(answer),
        // A conflict is a missing folder above.
        StatusCode::NOT_FOUND | StatusCode::CONFLICT => io::ErrorKind::NotFound,
        StatusCode::PRECONDITION_FAILED => io::ErrorKind::AlreadyExists,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    Err(io::Error::new(kind, Refused(answer.status())))
}

fn file(path: &str, size: u64, headers: &HeaderMap) -> Entry {
    let modified = headers.get(LAST_MODIFIED).and_then(|value| http_time(value.to_str().ok()?));
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    Entry { name, folder: false, size, modified: modified.unwrap_or(SystemTime::UNIX_EPOCH) }
}

/// The whole size in `bytes 0-99/1234`.
fn total_size(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.parse().ok()
}

/// Leaves out so many bytes and takes so many after them.
fn cut(
    content: stream::BoxStream<'static, io::Result<bytes::Bytes>>,
    before: u64,
    length: u64,
) -> stream::BoxStream<'static, io::Result<bytes::Bytes>> {
    let state = (content, before, length);
    stream::try_unfold(state, |(mut content, mut before, mut length)| async move {
        while length > 0 {
            let Some(mut chunk) = in_time(content.try_next()).await? else { break };
            let skipped = before.min(chunk.len() as u64);
            before -= skipped;
            let mut chunk = chunk.split_off(skipped as usize);
            chunk.truncate(usize::try_from(length).unwrap_or(usize::MAX));
            length -= chunk.len() as u64;
            if !chunk.is_empty() {
                return Ok(Some((chunk, (content, before, length))));
            }
        }
        Ok(None)
    })
    .boxed()
}

/// The members of a folder in the answer to a `PROPFIND`; without the folder itself, which is among them.
fn entries(folder: &str, xml: &[u8]) -> io::Result<Vec<Entry>> {
    let mut reader = Reader::from_reader(xml);
    let mut entries = Vec::new();
    let mut href = String::new();
    let mut entry = file("", 0, &HeaderMap::new());
    let mut text = String::new();
    let mut found = false;
    loop {
        match reader.read_event().map_err(io::Error::other)? {
            Event::Eof if found => return Ok(entries),
            Event::Eof => return Err(io::Error::other("the answer to a listing is no listing")),
            Event::Start(tag) => {
                text.clear();
                match tag.local_name().as_ref() {
                    b"multistatus" => found = true,
                    b"response" => entry = file("", 0, &HeaderMap::new()),
                    b"collection" => entry.folder = true,
                    _ => {}
                }
            }
            Event::Empty(tag) => match tag.local_name().as_ref() {
                b"multistatus" => found = true,
                b"collection" => entry.folder = true,
                _ => {}
            },
            Event::Text(part) => text.push_str(&part.decode().map_err(io::Error::other)?),
            Event::GeneralRef(name) => {
                let name = name.decode().map_err(io::Error::other)?;
                text.push_str(quick_xml::escape::resolve_predefined_entity(&name).unwrap_or_default());
            }
            Event::End(tag) => match tag.local_name().as_ref() {
                b"href" => href = text.trim().to_owned(),
                b"getcontentlength" => entry.size = text.trim().parse().unwrap_or(entry.size),
                b"getlastmodified" => entry.modified = http_time(text.trim()).unwrap_or(entry.modified),
                b"response" => {
                    let path = percent_decode_str(href.trim_end_matches('/')).decode_utf8_lossy();
                    // With or without the server's name before it.
                    if path != folder && !path.ends_with(&format!("/{folder}")) {
                        entry.name = path.rsplit('/').next().unwrap_or_default().to_owned();
                        entries.push(entry.clone());
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_time(text: &str) -> Option<SystemTime> {
    let time = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let ms = u64::try_from(time.as_millisecond()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read_whatever_their_prefixes() {
        let xml = br#"<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">
            <D:response><D:href>/a%20b/ltx/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype>
            </D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
            <D:response><D:href>http://h/a%20b/ltx/0/</D:href><D:propstat><D:prop><lp:resourcetype xmlns:lp="DAV:">
            <D:collection></D:collection></lp:resourcetype></D:prop></D:propstat></D:response>
            <D:response><D:href>/a%20b/ltx/x&amp;y.ltx</D:href><D:propstat><D:prop><D:resourcetype/>
            <D:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</D:getlastmodified><D:getcontentlength>42</D:getcontentlength>
            </D:prop></D:propstat></D:response></D:multistatus>"#;
        let found = entries("a b/ltx", xml).unwrap();
        let shown: Vec<_> = found.iter().map(|e| (e.name.as_str(), e.folder, e.size)).collect();
        assert_eq!(shown, [("0", true, 0), ("x&y.ltx", false, 42)]);
        assert_eq!(found[1].modified, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777));
        assert!(entries("a", b"<html>welcome</html>").is_err());
        assert!(entries("a", b"<multistatus xmlns='DAV:'/>").unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_range_that_the_server_ignored_is_cut_out() {
        for (before, length, expected) in [(0, 6, "abcdef"), (2, 3, "cde"), (1, 1, "b"), (5, 1, "f")] {
            let chunks = ["ab", "c", "def"].map(|chunk| Ok(bytes::Bytes::from(chunk)));
            let cut: Vec<_> = cut(stream::iter(chunks).boxed(), before, length).try_collect().await.unwrap();
            assert_eq!(cut.concat(), expected.as_bytes());
        }
    }
}
