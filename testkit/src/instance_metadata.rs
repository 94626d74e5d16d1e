//! What a cloud's machine asks for the keys of its role (EC2's instance metadata service, version 2), which exists nowhere
//! else.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

const SESSION: &str = "a-session-of-the-metadata-service";

/// Answers on loopback as the service at 169.254.169.254 does, for one role.
#[derive(Debug)]
pub struct InstanceMetadata {
    port: u16,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl InstanceMetadata {
    /// The role's temporary keys and their token.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(access_key: &str, secret_key: &str, token: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("bind the metadata service")?;
        let port = listener.local_addr()?.port();
        let keys = serde_json::json!({
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": access_key,
            "SecretAccessKey": secret_key,
            "Token": token,
            "LastUpdated": "2026-01-01T00:00:00Z",
            "Expiration": "2099-01-01T00:00:00Z",
        });
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let _ = answer(stream, &keys.to_string());
            }
        });
        Ok(Self { port, stopping, thread: Some(thread) })
    }

    /// For `AWS_METADATA_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for InstanceMetadata {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, keys: &str) -> std::io::Result<()> {
    let head: Vec<String> = BufReader::new(stream.try_clone()?)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .map(|line| line.to_ascii_lowercase())
        .collect();
    let has = |header: &str| head.iter().any(|line| line.starts_with(header));
    let role = "/latest/meta-data/iam/security-credentials/";
    let (method, path) = head.first().and_then(|line| line.split_once(' ')).unwrap_or_default();
    let path = path.split(' ').next().unwrap_or_default();
    let (status, body) = match (method, path.strip_prefix(role)) {
        ("put", None) if path == "/latest/api/token" && has("x-aws-ec2-metadata-token-ttl-seconds:") => {
            ("200 OK", SESSION)
        }
        // Without a session it is version 1, which machines refuse nowadays.
        _ if !has(&format!("x-aws-ec2-metadata-token: {SESSION}")) => ("401 Unauthorized", ""),
        ("get", Some("")) => ("200 OK", "backup"),
        ("get", Some("backup")) => ("200 OK", keys),
        _ => ("404 Not Found", ""),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
