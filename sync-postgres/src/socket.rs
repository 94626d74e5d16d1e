//! What a connection goes over.
//!
//! It is over when the server has closed its end, which a process of PostgreSQL's does when it is gone from the number of connections.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use litekeep_sync::Error;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;

use crate::{Address, error};

use crate::address::PORT;
/// How long a connection may take to be made, where the address does not say.
const CONNECT: Duration = Duration::from_secs(20);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

/// A connection to a server. To shut it down waits until the server has closed its end.
pub(crate) struct Socket {
    stream: Box<dyn Stream>,
    is_shut: bool,
}

impl Socket {
    async fn open(
        address: &Address,
        host: Option<&Host>,
        ip: Option<IpAddr>,
        port: u16,
    ) -> io::Result<Socket> {
        let stream: Box<dyn Stream> = match (host, ip) {
            (_, Some(ip)) => Box::new(tcp(address, TcpStream::connect((ip, port)).await?)?),
            (Some(Host::Tcp(name)), None) => {
                Box::new(tcp(address, TcpStream::connect((name.as_str(), port)).await?)?)
            }
            (Some(Host::Unix(dir)), None) => {
                Box::new(UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await?)
            }
            (None, None) => return Err(io::Error::other("it names no host")),
        };
        Ok(Socket { stream, is_shut: false })
    }
}

fn tcp(address: &Address, stream: TcpStream) -> io::Result<TcpStream> {
    let config = &address.config;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_user_timeout(config.get_tcp_user_timeout().copied())?;
    if config.get_keepalives() {
        let mut alive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            alive = alive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            alive = alive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&alive)?;
    }
    Ok(stream)
}

/// Connects to the hosts of an address, one after the other, until `open` is content with one; it is also told what the server is called.
///
/// # Errors
/// That of the last one.
pub(crate) async fn each_host<'a, T>(
    address: &'a Address,
    open: impl Fn(Socket, &'a str) -> BoxFuture<'a, Result<T, Error>> + Send,
) -> Result<T, Error> {
    let config = &address.config;
    let timeout = config.get_connect_timeout().copied().unwrap_or(CONNECT);
    let (hosts, ips, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let mut failed = None;
    for nth in 0..hosts.len().max(ips.len()) {
        let port = ports.get(nth).or(ports.first()).copied().unwrap_or(PORT);
        let name = match hosts.get(nth) {
            Some(Host::Tcp(name)) => name.as_str(),
            _ => "",
        };
        let opening = async {
            let socket = Socket::open(address, hosts.get(nth), ips.get(nth).copied(), port).await;
            let socket = socket.map_err(|e| error::lost(address, "connect", &e.to_string()))?;
            open(socket, name).await
        };
        match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => failed = Some(error),
            Err(_) => failed = Some(error::lost(address, "connect", "it does not answer")),
        }
    }
    Err(failed.unwrap_or_else(|| error::lost(address, "connect", "it names no host")))
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.is_shut = true;
        }
        loop {
            let mut ignored = [0; 4096];
            let mut buf = ReadBuf::new(&mut ignored);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
