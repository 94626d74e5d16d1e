//! The newest record as one key of etcd, exchanged by compare-and-swap over its JSON gateway (etcd 3.4 or later,
//! `/v3/kv/range`, `/v3/kv/txn`, `/v3/auth/authenticate`). etcd's own leases are not used: one set of rules is enough, and its keys
//! end by the server's clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, StatusCode, Url};
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::register::{Put, Register};

/// One request to one member; the next member is asked after it.
const PATIENCE: Duration = Duration::from_millis(1_500);
const PORT: u16 = 2379;

/// Where an etcd is, and which key: `etcd://user:password@host:2379,host2/key`, with TLS `etcds://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdAddress {
    members: Vec<String>,
    login: Option<(String, String)>,
    key: String,
}

impl EtcdAddress {
    /// Reads one.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong.
    pub fn parse(text: &str) -> Result<EtcdAddress> {
        let invalid = |what: &str| {
            Error::new(
                ErrorKind::Invalid,
                format!(
                    "{what}; an address of etcd is `etcd://host:2379,host2:2379/key`, with TLS `etcds://`"
                ),
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("there is no scheme"))?;
        let http = match scheme {
            "etcd" => "http",
            "etcds" => "https",
            _ => return Err(invalid(&format!("`{scheme}` is no scheme of etcd"))),
        };
        let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        if key.is_empty() {
            return Err(invalid("there is no key"));
        }
        let mut members = vec![];
        for host in hosts.split(',') {
            // The login stands in the first; as URLs they are read with all that belongs to one.
            let url =
                Url::parse(&format!("{http}://{host}")).map_err(|e| invalid(&format!("`{host}`: {e}")))?;
            let name = url.host_str().ok_or_else(|| invalid(&format!("`{host}` names no host")))?;
            members.push(format!("{http}://{name}:{}", url.port().unwrap_or(PORT)));
        }
        let login = match login {
            None => None,
            Some(login) => {
                let url = Url::parse(&format!("http://{login}@host"))
                    .map_err(|e| invalid(&format!("the user: {e}")))?;
                let plain = |text: &str| {
                    percent_decoded(text).ok_or_else(|| invalid("the user or the password is no UTF-8"))
                };
                Some((plain(url.username())?, plain(url.password().unwrap_or_default())?))
            }
        };
        Ok(EtcdAddress { members, login, key: key.to_owned() })
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    String::from_utf8(percent_encoding::percent_decode_str(text).collect()).ok()
}

/// A register in etcd.
#[derive(Debug)]
pub struct Etcd {
    address: EtcdAddress,
    client: Client,
    /// What says who we are, once etcd was asked, and the member to ask next: the one that answered last.
    session: Mutex<Session>,
}

#[derive(Debug, Default)]
struct Session {
    token: Option<String>,
    member: usize,
}

/// How a request failed.
enum Failure {
    /// The token is none any more.
    Token,
    /// Another member may answer.
    Member(String),
    Final(Error),
}

impl Etcd {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// `Invalid` where this system has no certificates for TLS.
    pub fn open(address: EtcdAddress) -> Result<Etcd> {
        // A second program part may have chosen already, the same.
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(PATIENCE).no_proxy().build();
        let client =
            client.map_err(|e| Error::new(ErrorKind::Invalid, format!("prepare HTTP for etcd: {e}")))?;
        Ok(Etcd { address, client, session: Mutex::default() })
    }

    /// Asks one member after the other.
    async fn ask(&self, path: &str, question: &Value) -> Result<Value> {
        let members = self.address.members.len();
        let (mut last, mut renewed, mut tries) = (String::new(), false, members);
        let mut nth = self.session().member;
        while tries > 0 {
            let known = {
                let mut session = self.session();
                // Whoever asks beside us, or when nobody waits for this one any more, asks the next.
                session.member = (nth + 1) % members;
                session.token.clone()
            };
            let member = &self.address.members[nth];
            let token = match (known, &self.address.login) {
                (None, Some((user, password))) => {
                    let login = json!({ "name": user, "password": password });
                    match self.post(member, "auth/authenticate", &login, None).await {
                        Ok(said) => {
                            let token = said["token"].as_str().map(str::to_owned);
                            self.session().token.clone_from(&token);
                            token
                        }
                        Err(Failure::Member(cause)) => {
                            (last, tries, nth) = (cause, tries - 1, (nth + 1) % members);
                            continue;
                        }
                        Err(Failure::Token) => {
                            return Err(self.failed(ErrorKind::Invalid, "user or password are wrong"));
                        }
                        Err(Failure::Final(e)) => return Err(e),
                    }
                }
                (known, _) => known,
            };
            match self.post(member, path, question, token.as_deref()).await {
                Ok(said) => {
                    self.session().member = nth;
                    return Ok(said);
                }
                Err(Failure::Token) if !renewed && self.address.login.is_some() => {
                    renewed = true;
                    *self.session() = Session { token: None, member: nth };
                }
                Err(Failure::Token) => {
                    let cause = "it wants a user with a right to this key: `etcd://user:password@...`";
                    return Err(self.failed(ErrorKind::Invalid, cause));
                }
                Err(Failure::Member(cause)) => {
                    (last, tries, nth) = (cause, tries - 1, (nth + 1) % members);
                }
                Err(Failure::Final(e)) => return Err(e),
            }
        }
        Err(self.failed(ErrorKind::Unavailable, &last))
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn post(
        &self,
        member: &str,
        path: &str,
        question: &Value,
        token: Option<&str>,
    ) -> Result<Value, Failure> {
        let mut request = self.client.post(format!("{member}/v3/{path}")).body(question.to_string());
        if let Some(token) = token {
            request = request.header("Authorization", token);
        }
        let answered = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.bytes().await?))
        };
        let (status, bytes) = answered.await.map_err(|e| Failure::Member(words(&e)))?;
        if status.is_success() {
            let said = serde_json::from_slice(&bytes);
            return said
                .map_err(|e| Failure::Final(self.failed(ErrorKind::Corrupt, &format!("no JSON: {e}"))));
        }
        let said = String::from_utf8_lossy(&bytes).into_owned();
        // Codes of gRPC: 3 is "invalid argument", with which it also refuses logins; 7 "permission denied", 16 "unauthenticated".
        let code = serde_json::from_slice::<Value>(&bytes).ok().and_then(|said| said["code"].as_i64());
        match code {
            _ if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN => Err(Failure::Token),
            Some(7 | 16) => Err(Failure::Token),
            Some(3) if said.contains("authentication failed") || said.contains("user name is empty") => {
                Err(Failure::Token)
            }
            Some(3 | 12) => Err(Failure::Final(self.failed(ErrorKind::Invalid, &said))),
            _ if status == StatusCode::NOT_FOUND => Err(Failure::Final(
                self.failed(ErrorKind::Invalid, "it has no JSON gateway at /v3 (etcd 3.4 or later has)"),
            )),
            _ => Err(Failure::Member(format!("{status}: {said}"))),
        }
    }

    fn failed(&self, kind: ErrorKind, cause: &str) -> Error {
        Error::new(kind, format!("ask {}: {cause}", self.place()))
    }
}

/// The innermost cause, which is the one that tells.
fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => words(source),
        None => error.to_string(),
    }
}

#[async_trait]
impl Register for Etcd {
    async fn newest(&self, _: Option<&Record>) -> Result<Option<Record>> {
        let said = self.ask("kv/range", &json!({ "key": STANDARD.encode(&self.address.key) })).await?;
        let Some(value) = said["kvs"][0]["value"].as_str() else { return Ok(None) };
        let damaged = |cause: String| {
            self.failed(ErrorKind::Corrupt, &format!("what it has is no record of a lease: {cause}"))
        };
        let bytes = STANDARD.decode(value).map_err(|e| damaged(e.to_string()))?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(e.to_string()))
    }

    async fn put(&self, before: Option<&Record>, next: &Record) -> Result<Put> {
        let key = STANDARD.encode(&self.address.key);
        // etcd counts the puts of a key, as turns do.
        let turn = before.map_or(0, |before| before.turn).to_string();
        let compare = json!({ "key": key, "target": "VERSION", "result": "EQUAL", "version": turn });
        let value = STANDARD.encode(next.to_bytes());
        let question = json!({
            "compare": [compare],
            "success": [{ "request_put": { "key": key, "value": value } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let said = self.ask("kv/txn", &question).await?;
        let stands = || said["responses"][0]["response_range"]["kvs"][0]["value"].as_str();
        let is_done = said["succeeded"].as_bool() == Some(true) || stands() == Some(value.as_str());
        Ok(if is_done { Put::Done } else { Put::Lost })
    }

    fn place(&self) -> String {
        format!("etcd at {} (key `{}`)", self.address.members.join(", "), self.address.key)
    }
}
