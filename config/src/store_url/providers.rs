//! S3-compatible services that are recognised by the host part of `s3://BUCKET.HOST/path`.

use super::S3Url;

/// Splits the host part of an `s3://` URL into bucket, endpoint and region. A host that no known service ends is the
/// bucket's name, dots and all (`mybkt.example.com` is a valid bucket).
///
/// # Errors
/// A phrase about a host that can be neither.
pub(super) fn from_host(host: &str) -> Result<S3Url, String> {
    if let Some(url) = localhost(host) {
        return Ok(url);
    }
    if host.contains(':') {
        let (bucket, _) = host.split_once('.').unwrap_or(("BUCKET", ""));
        return Err(format!(
            "`{host}` names a server and not a bucket: write s3://{bucket}/path?endpoint=https://HOST:PORT"
        ));
    }
    Ok(known_service(host).unwrap_or_else(|| S3Url { bucket: host.to_owned(), ..S3Url::default() }))
}

/// `BUCKET.localhost:PORT`: a test server without TLS.
fn localhost(host: &str) -> Option<S3Url> {
    let (name, port) = host.split_once(':')?;
    let bucket = name.strip_suffix(".localhost")?;
    port.parse::<u16>().ok()?;
    Some(S3Url {
        bucket: bucket.to_owned(),
        endpoint: Some(format!("http://localhost:{port}")),
        region: Some("us-east-1".into()),
        force_path_style: Some(true),
        ..S3Url::default()
    })
}

/// What stands between the bucket and the provider's domain.
struct Service {
    domain: &'static str,
    /// A label before the region.
    prefix: &'static str,
}

const SERVICES: [Service; 4] = [
    Service { domain: ".backblazeb2.com", prefix: "s3." },
    Service { domain: ".scw.cloud", prefix: "s3." },
    Service { domain: ".digitaloceanspaces.com", prefix: "" },
    Service { domain: ".linodeobjects.com", prefix: "" },
];

fn known_service(host: &str) -> Option<S3Url> {
    for domain in [".s3.filebase.com", ".fly.storage.tigris.dev"] {
        if let Some(bucket) = host.strip_suffix(domain) {
            let endpoint = Some(format!("https://{}", &domain[1..]));
            return Some(S3Url { bucket: bucket.to_owned(), endpoint, ..S3Url::default() });
        }
    }
    if let Some(rest) = host.strip_suffix(".amazonaws.com") {
        let (bucket, region) = rest.split_once(".s3")?;
        let region = region.trim_start_matches(['.', '-']);
        let region = (!region.is_empty()).then(|| region.to_owned());
        return Some(S3Url { bucket: bucket.to_owned(), region, ..S3Url::default() });
    }
    let service = SERVICES.iter().find(|service| host.ends_with(service.domain))?;
    let (rest, region) = host.strip_suffix(service.domain)?.rsplit_once('.')?;
    let bucket = if service.prefix.is_empty() {
        rest
    } else {
        rest.strip_suffix(service.prefix.trim_end_matches('.'))?.strip_suffix('.')?
    };
    Some(S3Url {
        bucket: bucket.to_owned(),
        endpoint: Some(format!("https://{}{region}{}", service.prefix, service.domain)),
        region: Some(region.to_owned()),
        ..S3Url::default()
    })
}
