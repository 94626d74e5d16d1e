//! NATS, Redis and RabbitMQ as Debian has them, each on ports of its own with data of its own. They can be killed and come
//! back with what they had. Dropping the handle kills the server.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::leavings::folder;
use crate::process::{Process, eventually};

/// RabbitMQ takes many seconds on a busy machine.
const START: Duration = Duration::from_secs(180);

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With JetStream.
    Nats,
    /// With an append-only file.
    Redis,
    /// One node.
    RabbitMq,
}

/// Who may use it.
pub const USER: &str = "litekeep";
/// With this.
pub const PASSWORD: &str = "p:w/1";
/// The same in a URL.
const ENCODED: &str = "p%3Aw%2F1";

/// A server that runs, or is down for a while.
#[derive(Debug)]
pub struct Broker {
    kind: Kind,
    dir: TempDir,
    address: SocketAddr,
    /// Further ports.
    ports: Vec<u16>,
    certificates: Option<Certificates>,
    process: Option<Process>,
    /// What runs beside it.
    _beside: Option<Process>,
}

/// What somebody has delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it is known by.
    pub id: String,
    /// It.
    pub body: String,
}

impl Broker {
    /// Starts one without data, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(kind: Kind) -> Result<Self> {
        Self::begin(kind, None)
    }

    /// The same, and it speaks TLS too ([`Broker::url_with_tls`]).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with_tls(kind: Kind) -> Result<Self> {
        Self::begin(kind, Some(Certificates::make()?))
    }

    fn begin(kind: Kind, certificates: Option<Certificates>) -> Result<Self> {
        let dir = folder().context("make a folder for a server")?;
        // Held together, so that they differ; free when the server starts.
        let held: Vec<TcpListener> =
            (0..4).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        let addresses: Vec<SocketAddr> =
            held.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
        drop(held);
        let ports = addresses[1..].iter().map(SocketAddr::port).collect();
        let address = addresses[0];
        let mut broker = Self { kind, dir, address, ports, certificates, process: None, _beside: None };
        if kind == Kind::RabbitMq {
            // The one that Erlang starts by itself would outlive it.
            let mut epmd = Command::new("epmd");
            epmd.args(["-address", "127.0.0.1", "-port", &broker.ports[1].to_string()]);
            broker._beside = Some(Process::start(epmd, &broker.log())?);
        }
        broker.resume()?;
        Ok(broker)
    }

    /// SIGKILL, in the middle of whatever it does.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |process| process.kill().map(drop))
    }

    /// Starts it again with what it has, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume(&mut self) -> Result<()> {
        let command = match self.kind {
            Kind::Nats => self.nats()?,
            Kind::Redis => self.redis(),
            Kind::RabbitMq => self.rabbitmq()?,
        };
        let doing = || format!("start {:?} (Debian: nats-server, redis-server, rabbitmq-server)", self.kind);
        let mut process = Process::start(command, &self.log()).with_context(doing)?;
        eventually("the server answers", START, || {
            ensure!(process.is_running()?, "the server ended:\n{}", process.output());
            std::thread::sleep(Duration::from_millis(20));
            Ok(self.is_up())
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn nats(&self) -> Result<Command> {
        let tls = self.certificates.as_ref().map_or_else(String::new, |certificates| {
            let (certificate, key) = certificates.files();
            format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}\nallow_non_tls: true\n")
        });
        let config = format!(
            "{tls}listen: \"{}\"\njetstream {{ store_dir: \"{}\" }}\nauthorization {{ user: \"{USER}\", password: \"{PASSWORD}\" }}\n",
            self.address,
            self.dir.path().join("data").display()
        );
        let file = self.dir.path().join("nats.conf");
        fs::write(&file, config)?;
        // Not in the path of an ordinary user.
        let mut command = Command::new("/usr/sbin/nats-server");
        command.arg("-c").arg(file);
        Ok(command)
    }

    fn redis(&self) -> Command {
        let mut command = Command::new("redis-server");
        let port = self.address.port().to_string();
        command.args(["--bind", "127.0.0.1", "--port", &port, "--requirepass", PASSWORD]);
        command.args(["--appendonly", "yes", "--save", "", "--dir"]).arg(self.dir.path());
        if let Some(certificates) = &self.certificates {
            let (certificate, key) = certificates.files();
            command.args(["--tls-port", &self.tls_port().to_string(), "--tls-auth-clients", "no"]);
            command.arg("--tls-cert-file").arg(certificate).arg("--tls-key-file").arg(key);
            command.arg("--tls-ca-cert-file").arg(certificates.ca_file());
        }
        command
    }

    fn rabbitmq(&self) -> Result<Command> {
        let dir = self.dir.path();
        let mut config = format!(
            "listeners.tcp.1 = {}\ndefault_user = {USER}\ndefault_pass = {PASSWORD}\nloopback_users = none\n",
            self.address
        );
        if let Some(certificates) = &self.certificates {
            let (certificate, key) = certificates.files();
            config += &format!(
                "listeners.ssl.1 = 127.0.0.1:{}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
                self.tls_port(),
                certificates.ca_file().display(),
                certificate.display(),
                key.display()
            );
        }
        fs::write(dir.join("rabbitmq.conf"), config)?;
        fs::write(dir.join("plugins"), "[].\n")?;
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        for (name, file) in [
            ("HOME", ""),
            ("RABBITMQ_MNESIA_BASE", "mnesia"),
            ("RABBITMQ_LOG_BASE", "logs"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
        ] {
            command.env(name, dir.join(file));
        }
        command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null").env("RABBITMQ_LOGS", "-");
        command.env("RABBITMQ_NODENAME", format!("t{}@localhost", self.address.port()));
        command.env("RABBITMQ_DIST_PORT", self.ports[0].to_string());
        command.env("ERL_EPMD_PORT", self.ports[1].to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        // Then the script becomes the server, which can be killed.
        command.env("RUNNING_UNDER_SYSTEMD", "true");
        Ok(command)
    }

    fn is_up(&self) -> bool {
        wait(async {
            match self.kind {
                Kind::Nats => self.jetstream().await?.client().flush().await?,
                Kind::Redis => self.connect_redis().await.map(drop)?,
                Kind::RabbitMq => self.channel().await.map(drop)?,
            }
            Ok(())
        })
        .is_ok()
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL that litekeep delivers to, `name` being a subject, stream or queue.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        self.url_with(&format!("{USER}:{ENCODED}@"), name)
    }

    /// The same with another login, `""` for none.
    #[must_use]
    pub fn url_with(&self, login: &str, name: &str) -> String {
        let address = self.address;
        match self.kind {
            Kind::Nats => format!("nats://{login}{address}/{name}"),
            // Its only user has no name.
            Kind::Redis => {
                format!("redis://{}{address}/0?stream={name}", login.replace(&format!("{USER}:"), ":"))
            }
            Kind::RabbitMq => format!("amqp://{login}{address}/%2F?routing_key={name}"),
        }
    }

    /// The same with TLS, at this name: the certificate's is `localhost`.
    #[must_use]
    pub fn url_with_tls(&self, host: &str, name: &str) -> String {
        let plain = self.url(name);
        let secure = match self.kind {
            Kind::Nats => plain.replacen("nats:", "tls:", 1),
            Kind::Redis => plain.replacen("redis:", "rediss:", 1),
            Kind::RabbitMq => plain.replacen("amqp:", "amqps:", 1),
        };
        secure.replace(&self.address.to_string(), &format!("{host}:{}", self.tls_port()))
    }

    /// NATS begins to speak TLS on the port that it speaks plainly on.
    fn tls_port(&self) -> u16 {
        if self.kind == Kind::Nats { self.address.port() } else { self.ports[2] }
    }

    /// Who vouches for it.
    #[must_use]
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.certificates.as_ref().map(Certificates::ca_file)
    }

    /// Makes the stream or queue that takes what is delivered to the name.
    ///
    /// # Errors
    /// When the server does not.
    pub fn declare(&self, name: &str) -> Result<()> {
        wait(async {
            match self.kind {
                Kind::Nats => {
                    let subjects = vec![name.to_owned(), format!("{name}.*")];
                    let config =
                        jetstream::stream::Config { name: name.into(), subjects, ..Default::default() };
                    self.jetstream().await?.create_stream(config).await?;
                }
                Kind::Redis => {}
                Kind::RabbitMq => {
                    let (_connection, channel) = self.channel().await?;
                    let options = QueueDeclareOptions { durable: true, ..Default::default() };
                    channel.queue_declare(name.into(), options, FieldTable::default()).await?;
                }
            }
            Ok(())
        })
    }

    /// Everything that was delivered to the name, in the order in which it came.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn received(&self, name: &str) -> Result<Vec<Received>> {
        wait(async {
            match self.kind {
                Kind::Nats => self.received_by_nats(name).await,
                Kind::Redis => self.received_by_redis(name).await,
                Kind::RabbitMq => self.received_by_rabbitmq(name).await,
            }
        })
    }

    async fn jetstream(&self) -> Result<jetstream::Context> {
        let options = async_nats::ConnectOptions::with_user_and_password(USER.into(), PASSWORD.into());
        let options = options.event_callback(|_| async {});
        Ok(jetstream::new(options.connect(format!("nats://{}", self.address)).await?))
    }

    async fn received_by_nats(&self, name: &str) -> Result<Vec<Received>> {
        let stream = self.jetstream().await?.get_stream(name).await?;
        let mut all = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(sequence).await?;
            let id = message.headers.get("Nats-Msg-Id").map_or("", |id| id.as_str()).to_owned();
            all.push(Received { id, body: String::from_utf8(message.payload.to_vec())? });
        }
        Ok(all)
    }

    async fn connect_redis(&self) -> Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://:{ENCODED}@{}/0", self.address))?;
        // A stream is read whole, which takes longer than the usual half second.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // While it loads its file it lets nobody ask.
        redis::cmd("EXISTS").arg("x").query_async::<u8>(&mut connection).await?;
        Ok(connection)
    }

    async fn received_by_redis(&self, name: &str) -> Result<Vec<Received>> {
        type Entry = (String, std::collections::HashMap<String, String>);
        let mut connection = self.connect_redis().await?;
        let all: Vec<Entry> =
            redis::cmd("XRANGE").arg(name).arg("-").arg("+").query_async(&mut connection).await?;
        let received = |(_, fields): Entry| {
            let field = |name: &str| fields.get(name).cloned().context("a field is missing");
            Ok(Received { id: field("id")?, body: field("event")? })
        };
        all.into_iter().map(received).collect()
    }

    async fn channel(&self) -> Result<(lapin::Connection, lapin::Channel)> {
        let uri = format!("amqp://{USER}:{ENCODED}@{}/%2F", self.address);
        let connection = lapin::Connection::connect(&uri, lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    /// They stay there: nothing is acknowledged.
    async fn received_by_rabbitmq(&self, name: &str) -> Result<Vec<Received>> {
        let (_connection, channel) = self.channel().await?;
        let mut all = Vec::new();
        while let Some(message) = channel.basic_get(name.into(), BasicGetOptions::default()).await? {
            let id = message.delivery.properties.message_id().as_ref().context("a message has no id")?;
            let (id, body) = (id.to_string(), String::from_utf8(message.delivery.data.to_vec())?);
            all.push(Received { id, body });
        }
        Ok(all)
    }
}

fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await });
    runtime.shutdown_background();
    done.context("the server does not answer")?
}
