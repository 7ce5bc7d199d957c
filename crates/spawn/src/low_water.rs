//! How much must wait at a socket before who reads it is woken.

use nix::errno::Errno;
use nix::libc;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// Wakes who waits for a socket only once so many bytes are to be read, or there is no more to come. If as many are there
/// already, that wakes too.
///
/// # Errors
/// What the operating system says.
#[allow(unsafe_code, reason = "`nix` does not know this option")]
pub fn set_low_water(socket: &impl AsFd, bytes: u16) -> io::Result<()> {
    let value = libc::c_int::from(bytes);
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed, and so open; the option is an integer, which is only read.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            len,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    #[tokio::test]
    async fn little_wakes_nobody_until_it_may() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut reader, _) = listener.accept().await.unwrap();
        // Nothing is there yet: from now on the socket is only read once it has said that something is.
        assert!(reader.try_read(&mut [0; 8]).is_err());
        set_low_water(&reader, 100).unwrap();
        sender.write_all(&[7; 99]).await.unwrap();
        let mut bytes = [0; 200];
        let early = timeout(Duration::from_millis(50), reader.read(&mut bytes)).await;
        assert!(early.is_err());
        set_low_water(&reader, 1).unwrap();
        assert_eq!(reader.read(&mut bytes).await.unwrap(), 99);
        set_low_water(&reader, 100).unwrap();
        sender.write_all(&[7; 100]).await.unwrap();
        assert_eq!(reader.read(&mut bytes).await.unwrap(), 100);
        // Neither does the end wait.
        drop(sender);
        assert_eq!(reader.read(&mut bytes).await.unwrap(), 0);
    }
}
