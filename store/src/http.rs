//! A snapshot of several parts must not overwrite another one either.
//!
//! `object_store` makes a put conditional but not the completion of a multipart upload. S3 knows both
//! (`If-None-Match: *` on CompleteMultipartUpload). The header is added here, below the signature: a signature covers
//! the headers that it names, and others may be added. Stores that do not know the header ignore it.

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, HeaderValue};

tokio::task_local! {
    /// There while a completion is to have no condition: nothing of `object_store`'s own reaches from a completion to
    /// its request, but both run in one task.
    static UNCONDITIONAL: ();
}

/// Runs the completion of an upload that is to ask for no condition.
pub(crate) async fn unconditional<T>(completion: impl Future<Output = T>) -> T {
    UNCONDITIONAL.scope((), completion).await
}

/// Makes completions of multipart uploads conditional on the name being free.
#[derive(Debug, Default)]
pub(crate) struct ExclusiveCompletion {
    inner: ReqwestConnector,
}

impl HttpConnector for ExclusiveCompletion {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service(self.inner.connect(options)?)))
    }
}

#[derive(Debug)]
struct Service(HttpClient);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        let completes =
            request.method().as_str() == "POST" && query.split('&').any(|pair| pair.starts_with("uploadId="));
        if completes && UNCONDITIONAL.try_with(|()| ()).is_err() {
            request.headers_mut().insert("if-none-match", HeaderValue::from_static("*"));
        }
        self.0.execute(request).await
    }
}
