//! A stream that counts what goes through it.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Parts of frames that are written with one system call.
const PARTS_MAX: usize = 8;

/// Counts the bytes that the network took and brought: a peer that takes none is stuck, one that takes few is only slow.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    pub(crate) written: u64,
    pub(crate) read: u64,
    /// Frames that were made elsewhere are being written: nothing else may come between their bytes.
    busy: bool,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            written: 0,
            read: 0,
            busy: false,
        }
    }
}

impl<S: AsyncWrite + Unpin> Counted<S> {
    /// Writes frames that were made elsewhere, in parts. Until the last of them is written, whatever else is to be written has
    /// to wait, and is not woken for it.
    pub(crate) fn poll_write_frames(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<()>> {
        while let Some(first) = parts.front_mut() {
            if first.is_empty() {
                parts.pop_front();
                continue;
            }
            self.busy = true;
            let mut slices = [io::IoSlice::new(&[]); PARTS_MAX];
            let count = parts.len().min(PARTS_MAX);
            for (slice, part) in slices.iter_mut().zip(parts.iter()) {
                *slice = io::IoSlice::new(part);
            }
            let mut written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written as u64;
            while let Some(part) = parts.front_mut() {
                let taken = written.min(part.len());
                part.advance(taken);
                written -= taken;
                if !part.is_empty() {
                    break;
                }
                parts.pop_front();
            }
        }
        self.busy = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.read += (buf.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.busy {
            return Poll::Pending;
        }
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
