//! Connections to a peer, whose ends tell whether its process is gone.

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::codegen::Service;

/// Attempts to connect, after a connection has ended: a process that is about to end may still take some.
const PROBES_MAX: u32 = 5;

/// Between two of them.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// For each. A process that is gone refuses at once; what takes longer is the network's affair.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The connections to one address.
#[derive(Clone)]
pub(super) struct Lines {
    connector: HttpConnector,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Connections that are there.
    open: usize,
    /// Where the one led that has ended last.
    ended: Option<SocketAddr>,
}

impl Lines {
    /// Those of a name that has several addresses may take `timeout` for all of them together.
    pub(super) fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        let state = watch::Sender::default();
        Self { connector, state }
    }

    /// Waits until the peer's process is gone: the kernel closes all connections of a process that ends, and refuses new
    /// ones in its name. A network that fails does one of the two at most, and a process that hangs neither.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut state = self.state.subscribe();
        async move {
            while state.changed().await.is_ok() {
                let ended = state.borrow_and_update().ended;
                if let Some(addr) = ended
                    && refuses(addr).await
                    && state.borrow().open == 0
                {
                    return;
                }
            }
            std::future::pending().await
        }
    }
}

/// Whether nobody listens at an address.
async fn refuses(addr: SocketAddr) -> bool {
    for _ in 0..PROBES_MAX {
        match rtdb_runtime::timeout(PROBE_TIMEOUT, TcpStream::connect(addr)).await {
            Ok(Ok(_)) => rtdb_runtime::sleep(PROBE_PAUSE).await,
            Ok(Err(error)) => return error.kind() == ErrorKind::ConnectionRefused,
            Err(_) => return false,
        }
    }
    false
}

/// Makes connections, for tonic.
impl Service<Uri> for Lines {
    type Response = TokioIo<Line>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Line>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, state) = (self.connector.call(uri), self.state.clone());
        Box::pin(async move {
            let stream = connecting.await.map_err(io::Error::other)?.into_inner();
            let peer = stream.peer_addr()?;
            // Who watches asks only when one ends.
            state.send_if_modified(|state| {
                state.open += 1;
                false
            });
            Ok(TokioIo::new(Line { stream, peer, state }))
        })
    }
}

/// A connection.
pub(super) struct Line {
    stream: TcpStream,
    peer: SocketAddr,
    state: watch::Sender<State>,
}

/// Whoever reads from it drops it when it has ended.
impl Drop for Line {
    fn drop(&mut self) {
        self.state.send_modify(|state| {
            state.open -= 1;
            state.ended = Some(self.peer);
        });
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_process_is_gone_once_it_has_closed_a_connection_and_refuses_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut lines = Lines::new(Duration::from_secs(1));
        let mut gone = std::pin::pin!(lines.gone());
        let mut connect = async || {
            let uri = format!("http://{addr}").parse().unwrap();
            let line = lines.call(uri).await.unwrap();
            let (peer, _) = listener.accept().await.unwrap();
            (line, peer)
        };
        let (kept, _peer) = connect().await;
        let (broken, _other_peer) = connect().await;
        for _ in 0..2 {
            // A connection that breaks, while others are taken, shows nothing.
            drop(connect().await);
            let probes = async {
                for _ in 0..PROBES_MAX {
                    listener.accept().await.unwrap();
                }
            };
            tokio::select! {
                biased;
                () = &mut gone => panic!("others were taken"),
                () = probes => {}
            }
        }
        // Neither does it that none is taken, while one is still there.
        drop(listener);
        assert_eq!(futures::poll!(&mut gone), Poll::Pending);
        drop(broken);
        let early = rtdb_runtime::timeout(PROBE_TIMEOUT, &mut gone).await;
        assert!(early.is_err(), "the process holds another one");
        drop(kept);
        gone.await;
    }
}
