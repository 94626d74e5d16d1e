//! A real S3 server over HTTP: `s3s` (protocol, SigV4) on `s3s-fs` (objects are files of a folder), with what a
//! replicator relies on made as strict as Amazon's:
//!
//! - A conditional write (`If-None-Match: *` on PutObject and CompleteMultipartUpload) is decided and done in one step:
//!   of any number of racing writers of a key exactly one wins, the others get 412. `s3s-fs` checks first and writes
//!   later; here both happen under a lock of the key.
//! - The decision is taken when the whole body is there, so a client that is stopped in the middle of an upload holds
//!   nobody up, and loses to a later one that finished first.
//! - An object is seen with its metadata or not at all.
//! - An upload that is unknown, finished or aborted answers NoSuchUpload.
//!
//! Objects are lost only with the folder; nothing is fsynced, since no test cuts the power of the *store*.
//! Bodies of single puts and of parts are held in memory while they arrive.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, MutexGuard};

use crate::serving::Serving;

/// The access key of every server of this module.
pub const ACCESS_KEY: &str = "litekeep-test-key";
/// The secret that belongs to [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "litekeep-test-secret";
/// The bucket that exists from the start.
pub const BUCKET: &str = "litekeep-test";
/// The region to sign for (the server accepts any).
pub const REGION: &str = "us-east-1";

/// What a server is started with; `default()` is a fresh folder, any free port, and conditions honoured.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// The folder of buckets; `None`: a temporary one that is deleted with the server.
    pub dir: Option<PathBuf>,
    /// Where it listens; `None`: on 127.0.0.1.
    pub host: Option<IpAddr>,
    /// The port there; 0: any free one.
    pub port: u16,
    /// Behave like a store that knows no conditional writes: `If-None-Match` is accepted and has no effect.
    pub ignore_conditions: bool,
    /// Take requests as Google's XML API does, which is S3's with other names of headers; without signatures. There is no
    /// emulator of that API to install: those of PyPI and npm speak Google's JSON API.
    pub google: bool,
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct S3Server {
    serving: Serving,
    dir: PathBuf,
    _temporary: Option<TempDir>,
}

impl S3Server {
    /// Starts a server with an empty bucket on a free port.
    ///
    /// # Errors
    /// When no port, thread or temporary folder is to be had.
    pub fn start() -> Result<Self> {
        Self::start_with(S3Options::default())
    }

    /// Starts a server as told; an existing folder keeps its objects, so a server can be stopped and come back.
    ///
    /// # Errors
    /// When the port is taken or the folder cannot be made.
    pub fn start_with(options: S3Options) -> Result<Self> {
        let (dir, temporary) = match options.dir {
            Some(dir) => (dir, None),
            None => {
                let temporary =
                    TempDir::with_prefix("litekeep-s3-").context("make a folder for the S3 server")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(dir.join(BUCKET)).with_context(|| format!("make the bucket in {dir:?}"))?;
        let files = FileSystem::new(&dir)
            .map_err(|error| anyhow::anyhow!("{error:?}"))
            .with_context(|| format!("open {dir:?} as an S3 store"))?;
        let mut builder = S3ServiceBuilder::new(Strict::new(files, options.ignore_conditions));
        if !options.google {
            builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        }
        let service = builder.build();
        let host = options.host.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let serving = Serving::start_at("s3-server", (host, options.port).into(), move |listener| {
            accept(listener, service, options.google)
        })?;
        Ok(Self { serving, dir, _temporary: temporary })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.serving.addr())
    }

    /// `127.0.0.1:PORT`, for a proxy in front.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.serving.addr()
    }

    /// `s3://BUCKET/PATH`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("s3://{BUCKET}/{path}")
    }

    /// The folder that holds the bucket's objects under their keys: for damaging or counting them behind its back.
    #[must_use]
    pub fn bucket_dir(&self) -> PathBuf {
        self.dir.join(BUCKET)
    }

    /// The folder that was served; give it to [`S3Options::dir`] to bring the same objects back.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The credentials as the environment variables that every S3 client reads.
    #[must_use]
    pub fn env() -> [(&'static str, &'static str); 3] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY), ("AWS_REGION", REGION)]
    }

    /// Serves until the process is killed.
    pub fn run_forever(self) {
        self.serving.join();
    }
}

async fn accept(listener: TcpListener, service: S3Service, google: bool) {
    let http = hyper::server::conn::http1::Builder::new();
    loop {
        // Only running out of descriptors fails here; the next connection may find one.
        let Ok((socket, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let _ = socket.set_nodelay(true);
        let service = service.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            if google {
                as_amazon_names_them(request.headers_mut());
            }
            Service::call(&service, request)
        });
        let connection = http.serve_connection(TokioIo::new(socket), service);
        tokio::spawn(async move {
            // A client that goes away in the middle is its own business.
            let _ = connection.await;
        });
    }
}

/// A put if absent, and metadata. What authorises a request is nothing to Amazon.
fn as_amazon_names_them(headers: &mut HeaderMap) {
    headers.remove("authorization");
    if headers.remove("x-goog-if-generation-match").is_some_and(|generation| generation == "0") {
        headers.insert("if-none-match", HeaderValue::from_static("*"));
    }
    let named =
        |name: &HeaderName| Some(format!("x-amz-meta-{}", name.as_str().strip_prefix("x-goog-meta-")?));
    let metadata: Vec<_> = headers
        .iter()
        .filter_map(|(name, value)| Some((named(name)?.parse().ok()?, value.clone())))
        .collect();
    headers.extend::<Vec<(HeaderName, HeaderValue)>>(metadata);
}

/// `s3s-fs` with the promises of the module's head.
struct Strict {
    files: FileSystem,
    ignore_conditions: bool,
    /// A key's lock is the one at its hash: two keys that share one only wait a little.
    locks: Arc<[Mutex<()>]>,
}

impl Strict {
    fn new(files: FileSystem, ignore_conditions: bool) -> Self {
        Self { files, ignore_conditions, locks: (0..256).map(|_| Mutex::new(())).collect() }
    }

    async fn lock(&self, bucket: &str, key: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        (bucket, key).hash(&mut hasher);
        let slot = hasher.finish() as usize % self.locks.len();
        self.locks[slot].lock().await
    }
}

/// Reads a body to its end; a client that stops early leaves nothing behind.
async fn whole(body: Option<StreamingBlob>) -> S3Result<Option<StreamingBlob>> {
    let Some(mut body) = body else { return Ok(None) };
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.try_next().await.map_err(|error| s3_error!(IncompleteBody, "{error}"))? {
        bytes.extend_from_slice(&chunk);
    }
    let bytes: Bytes = bytes.freeze();
    Ok(Some(StreamingBlob::from(Body::from(bytes))))
}

/// `s3s-fs` says AccessDenied of an upload that it does not know; credentials were checked long before.
fn unknown_upload<T>(result: S3Result<T>) -> S3Result<T> {
    result.map_err(
        |error| {
            if *error.code() == S3ErrorCode::AccessDenied { s3_error!(NoSuchUpload) } else { error }
        },
    )
}

/// Listing walks the folder and fails on a file that is deleted under it, where a store would just leave it out.
const LIST_ATTEMPTS: usize = 20;

macro_rules! listing {
    ($self:ident, $method:ident, $req:ident) => {{
        let mut attempt = 1;
        loop {
            let again = S3Request {
                input: $req.input.clone(),
                method: $req.method.clone(),
                uri: $req.uri.clone(),
                headers: $req.headers.clone(),
                extensions: Default::default(),
                credentials: $req.credentials.clone(),
                region: $req.region.clone(),
                service: $req.service.clone(),
                trailing_headers: None,
            };
            match $self.files.$method(again).await {
                Err(error) if *error.code() == S3ErrorCode::InternalError && attempt < LIST_ATTEMPTS => {
                    attempt += 1
                }
                result => return result,
            }
        }
    }};
}

#[async_trait::async_trait]
impl S3 for Strict {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.files.create_bucket(req).await
    }

    async fn delete_bucket(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.files.delete_bucket(req).await
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(req).await
    }

    async fn list_buckets(
        &self,
        req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        self.files.list_buckets(req).await
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.files.get_bucket_location(req).await
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        listing!(self, list_objects, req)
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        listing!(self, list_objects_v2, req)
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let _key = self.lock(&req.input.bucket, &req.input.key).await;
        self.files.get_object(req).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let _key = self.lock(&req.input.bucket, &req.input.key).await;
        self.files.head_object(req).await
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        if self.ignore_conditions {
            req.input.if_none_match = None;
        }
        req.input.body = whole(req.input.body.take()).await?;
        let _key = self.lock(&req.input.bucket, &req.input.key).await;
        self.files.put_object(req).await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let _key = self.lock(&req.input.bucket, &req.input.key).await;
        self.files.copy_object(req).await
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let _key = self.lock(&req.input.bucket, &req.input.key).await;
        self.files.delete_object(req).await
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.files.delete_objects(req).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.files.create_multipart_upload(req).await
    }

    async fn upload_part(
        &self,
        mut req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        req.input.body = whole(req.input.body.take()).await?;
        unknown_upload(self.files.upload_part(req).await)
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.files.list_parts(req).await
    }

    async fn complete_multipart_upload(
        &self,
        mut req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        if self.ignore_conditions {
            req.input.if_none_match = None;
        }
        let _key = self.lock(&req.input.bucket, &req.input.key).await;
        unknown_upload(self.files.complete_multipart_upload(req).await)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let _key = self.lock(&req.input.bucket, &req.input.key).await;
        self.files.abort_multipart_upload(req).await
    }
}
