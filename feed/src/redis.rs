//! A stream of Redis.
//!
//! The events of one part of a transaction are added together or not at all. Each entry has the fields `id`, by which
//! repeated ones are known, `table` and `event`.

use std::path::Path;

use async_trait::async_trait;
use litekeep_config::FeedServer;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisError, TlsCertificates,
};

use crate::sink::{CONNECT, authorities, of_table, within};
use crate::{Error, Event, Kind, Sink};

pub(crate) struct Redis {
    connection: MultiplexedConnection,
    place: String,
    stream: String,
    max_len: Option<u64>,
    caveat: Option<String>,
}

impl Redis {
    pub(crate) async fn open(
        server: &FeedServer,
        (database, stream, max_len): (u16, &str, Option<u64>),
        ca_file: Option<&Path>,
    ) -> Result<Redis, Error> {
        let scheme = if server.tls { "rediss" } else { "redis" };
        let place = format!("{scheme}://{}", server.address());
        let authorities = ca_file.filter(|_| server.tls).map(authorities).transpose()?;
        let client = client(server, database, authorities).map_err(failed(&format!("open {place}")))?;
        let doing = || format!("connect to {place}");
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let connecting = async {
            let mut connection = client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map_err(failed(&doing()))?;
            // A login that is missing is told by the first command only; whoever has one need not be allowed to ask.
            let asked = redis::cmd("PING").query_async::<String>(&mut connection).await;
            if let Err(error) = asked
                && error.code() != Some("NOPERM")
            {
                return Err(failed(&doing())(error));
            }
            let info: Option<String> =
                redis::cmd("INFO").arg("persistence").query_async(&mut connection).await.ok();
            Ok((connection, info))
        };
        let (connection, info) = within(CONNECT, doing, connecting).await?;
        let forgets = info.is_some_and(|info| info.contains("aof_enabled:0"));
        let caveat = forgets.then(|| {
            format!("{place} forgets what it confirmed last when it is killed: set `appendonly yes` there")
        });
        Ok(Redis { connection, place, stream: stream.to_owned(), max_len, caveat })
    }
}

fn client(server: &FeedServer, database: u16, authorities: Option<String>) -> Result<Client, RedisError> {
    let (host, port) = (server.host.clone(), server.port);
    let address = match server.tls {
        false => ConnectionAddr::Tcp(host, port),
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    };
    let mut settings = RedisConnectionInfo::default().set_db(database.into());
    if let Some(user) = &server.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &server.password {
        settings = settings.set_password(password.expose());
    }
    let info = address.into_connection_info()?.set_redis_settings(settings);
    match authorities {
        Some(text) => {
            let root_cert = Some(text.into_bytes());
            Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
        }
        None => Client::open(info),
    }
}

fn failed(doing: &str) -> impl Fn(RedisError) -> Error {
    let doing = doing.to_owned();
    move |error| {
        let message = format!("{doing}: {error}");
        let hint = match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
                "check user and password: redis://user:${REDIS_PASSWORD}@host/0?stream=…"
            }
            (_, Some("NOPERM")) => "the user must be allowed to `XADD` to the stream, and `MULTI` and `EXEC`",
            (_, Some("WRONGTYPE")) => "the key is there and is no stream: name another one",
            (ErrorKind::InvalidClientConfig, _) => "check the URL",
            _ => return Error::new(Kind::Unavailable, message),
        };
        Error::with_hint(Kind::Invalid, message, hint)
    }
}

#[async_trait]
impl Sink for Redis {
    fn caveat(&self) -> Option<&str> {
        self.caveat.as_deref()
    }

    async fn deliver(&mut self, events: &[Event]) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for event in events {
            let command = pipe.cmd("XADD").arg(of_table(&self.stream, &event.table));
            if let Some(max_len) = self.max_len {
                command.arg("MAXLEN").arg("~").arg(max_len);
            }
            let (id, table, line) = (&event.id, &event.table, &event.line);
            command.arg("*").arg("id").arg(id).arg("table").arg(table).arg("event").arg(line);
        }
        let added: Vec<String> = pipe
            .query_async(&mut self.connection)
            .await
            .map_err(failed(&format!("add to the stream `{}` at {}", self.stream, self.place)))?;
        if added.len() != events.len() {
            let (of, has) = (events.len(), added.len());
            return Err(Error::new(
                Kind::Unavailable,
                format!("{} has confirmed {has} of {of} events", self.place),
            ));
        }
        Ok(())
    }
}
