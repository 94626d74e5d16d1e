//! Which S3 operation an HTTP request is: by method, by whether its path has a key, and by the query
//! (Amazon S3 API reference, "Actions"). Path-style addressing: the first segment is the bucket.

use hyper::{Method, Uri};
use serde::{Deserialize, Serialize};

/// An S3 operation, as far as replicators use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are Amazon's")]
pub enum Kind {
    PutObject,
    GetObject,
    HeadObject,
    DeleteObject,
    DeleteObjects,
    ListObjects,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    Bucket,
    Other,
}

impl Kind {
    /// The operation of a request.
    #[must_use]
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let query = uri.query().unwrap_or("");
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        let in_bucket = uri.path().trim_start_matches('/').split_once('/');
        let key = in_bucket.is_some_and(|(_, key)| !key.is_empty());
        match (method.as_str(), key) {
            ("PUT", true) if has("partNumber") => Self::UploadPart,
            ("PUT", true) => Self::PutObject,
            ("GET", true) if has("uploadId") => Self::ListParts,
            ("GET", true) => Self::GetObject,
            ("HEAD", true) => Self::HeadObject,
            ("DELETE", true) if has("uploadId") => Self::AbortMultipartUpload,
            ("DELETE", true) => Self::DeleteObject,
            ("POST", true) if has("uploads") => Self::CreateMultipartUpload,
            ("POST", true) if has("uploadId") => Self::CompleteMultipartUpload,
            ("POST", false) if has("delete") => Self::DeleteObjects,
            ("GET", false) if has("list-type") || has("prefix") || has("delimiter") => Self::ListObjects,
            ("GET" | "HEAD" | "PUT" | "DELETE", false) => Self::Bucket,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_told_apart() {
        let cases = [
            ("PUT", "/b/db/0000/1-2.ltx", Kind::PutObject),
            ("PUT", "/b/k?partNumber=1&uploadId=u", Kind::UploadPart),
            ("PUT", "/b", Kind::Bucket),
            ("GET", "/b/k", Kind::GetObject),
            ("GET", "/b/prefix", Kind::GetObject),
            ("GET", "/b?list-type=2&prefix=db%2F", Kind::ListObjects),
            ("GET", "/b/?prefix=db", Kind::ListObjects),
            ("GET", "/b/?location", Kind::Bucket),
            ("GET", "/b/k?uploadId=u", Kind::ListParts),
            ("HEAD", "/b/k", Kind::HeadObject),
            ("HEAD", "/b", Kind::Bucket),
            ("DELETE", "/b/k", Kind::DeleteObject),
            ("DELETE", "/b/k?uploadId=u", Kind::AbortMultipartUpload),
            ("POST", "/b/k?uploads", Kind::CreateMultipartUpload),
            ("POST", "/b/k?uploads=", Kind::CreateMultipartUpload),
            ("POST", "/b/k?uploadId=u", Kind::CompleteMultipartUpload),
            ("POST", "/b?delete", Kind::DeleteObjects),
            ("POST", "/b/?delete=", Kind::DeleteObjects),
            ("OPTIONS", "/b/k", Kind::Other),
        ];
        for (method, uri, kind) in cases {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(Kind::of(&method, &uri.parse().unwrap()), kind, "{method} {uri}");
        }
    }
}
