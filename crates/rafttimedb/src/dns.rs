//! Where nodes are, by DNS: addresses by the system's resolver, and services (SRV, RFC 2782), which it does not look up, by asking a
//! server for them. A library for that would be fifty more packages, for one question.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long a server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Bytes of an answer over UDP that this node says to take (RFC 6891).
const UDP_BYTES_MAX: u16 = 1232;

/// Records of one answer that are read.
const RECORDS_MAX: u16 = 512;

/// Servers and search domains that are taken from the system.
const SYSTEM_MAX: usize = 6;

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 255;

const SRV: u16 = 33;
const OPT: u16 = 41;
const IN: u16 = 1;
const HEAD_BYTES: usize = 12;

/// Whom to ask, and in which domains to look for short names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    dots: usize,
}

impl Resolver {
    /// The system's; `server` instead of its servers, if there is one.
    pub(crate) fn new(server: Option<SocketAddr>) -> Self {
        let conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let mut it = Self::of(&conf);
        if let Some(server) = server {
            it.servers = vec![server];
        }
        it
    }

    /// What resolv.conf(5) says.
    fn of(conf: &str) -> Self {
        let (mut servers, mut search, mut dots) = (Vec::new(), Vec::new(), 1);
        for line in conf.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let ip = words.next().and_then(|ip| ip.parse::<IpAddr>().ok());
                    servers.extend(ip.map(|ip| SocketAddr::new(ip, 53)));
                }
                Some("search" | "domain") => search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let mut said = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    dots = said.next_back().unwrap_or(dots);
                }
                _ => {}
            }
        }
        if servers.is_empty() {
            servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
        }
        servers.truncate(SYSTEM_MAX);
        search.truncate(SYSTEM_MAX);
        Self {
            servers,
            search,
            dots,
        }
    }

    /// The names that a short one may stand for.
    fn names(&self, name: &str) -> Vec<String> {
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let longer = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let mut names: Vec<String> = longer.collect();
        let is_whole = name.matches('.').count() >= self.dots;
        names.insert(if is_whole { 0 } else { names.len() }, name.to_owned());
        names
    }

    /// Where a service is: `host:port` of each of its records; none if there is no such service.
    ///
    /// # Errors
    /// If no server answers.
    pub(crate) async fn services(&self, name: &str) -> io::Result<BTreeSet<String>> {
        let mut last = None;
        for name in self.names(name) {
            for server in &self.servers {
                match ask(*server, &name).await {
                    Ok(found) if found.is_empty() => {
                        last = None;
                        break;
                    }
                    Ok(found) => return Ok(found),
                    Err(error) => last = Some(error),
                }
            }
        }
        last.map_or_else(|| Ok(BTreeSet::new()), Err)
    }
}

/// The addresses of a host, by the system's resolver: `ip:port` of each.
///
/// # Errors
/// If it finds none.
pub(crate) async fn hosts(name: &str, port: u16) -> io::Result<BTreeSet<String>> {
    let found = tokio::time::timeout(ANSWER_MAX, tokio::net::lookup_host((name, port))).await??;
    Ok(found.map(|addr| addr.to_string()).collect())
}

async fn ask(server: SocketAddr, name: &str) -> io::Result<BTreeSet<String>> {
    let id = uuid::Uuid::new_v4().as_bytes()[..2]
        .try_into()
        .unwrap_or_default();
    let id = u16::from_be_bytes(id);
    let question = question(id, name).ok_or_else(|| io::Error::other(format!("`{name}` is no name")))?;
    tokio::time::timeout(ANSWER_MAX, async {
        let any: IpAddr = match server.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        // Nobody else is heard.
        socket.connect(server).await?;
        socket.send(&question).await?;
        let mut answer = vec![0; UDP_BYTES_MAX.into()];
        loop {
            let length = socket.recv(&mut answer).await?;
            match read(&answer[..length], id) {
                Read::Records(found) => return Ok(found),
                Read::Cut => return ask_by_tcp(server, &question, id).await,
                Read::Failed(code) => {
                    return Err(io::Error::other(format!("{server} answers with code {code}")));
                }
                // Somebody else's, or garbage: the right one may still come.
                Read::Other => {}
            }
        }
    })
    .await?
}

async fn ask_by_tcp(server: SocketAddr, question: &[u8], id: u16) -> io::Result<BTreeSet<String>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&(question.len() as u16).to_be_bytes()).await?;
    stream.write_all(question).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    match read(&answer, id) {
        Read::Records(found) => Ok(found),
        _ => Err(io::Error::other(format!(
            "what {server} answers is not understood"
        ))),
    }
}

/// A question for a service's records (RFC 1035, section 4); `None` if the name can't be one.
fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    // Recursion is desired; one question, and one record that says how much is taken.
    for number in [id, 0x0100, 1, 0, 0, 1] {
        bytes.extend(number.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    if bytes.len() - HEAD_BYTES > NAME_BYTES_MAX {
        return None;
    }
    for number in [SRV, IN] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.push(0);
    for number in [OPT, UDP_BYTES_MAX, 0, 0, 0] {
        bytes.extend(number.to_be_bytes());
    }
    Some(bytes)
}

#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// It may be none.
    Records(BTreeSet<String>),
    /// There is more than fits.
    Cut,
    /// The server can't say.
    Failed(u8),
    /// No answer to the question.
    Other,
}

/// No such name (RFC 1035, section 4.1.1).
const NO_NAME: u8 = 3;

fn read(answer: &[u8], id: u16) -> Read {
    let number = |at| number(answer, at).unwrap_or_default();
    let flags = number(2);
    if answer.len() < HEAD_BYTES || number(0) != id || flags & 0x8000 == 0 || number(4) > 1 {
        return Read::Other;
    }
    match (flags & 0x000f) as u8 {
        0 if flags & 0x0200 != 0 => return Read::Cut,
        0 => {}
        NO_NAME => return Read::Records(BTreeSet::new()),
        code => return Read::Failed(code),
    }
    records(answer, number(4), number(6)).map_or(Read::Other, Read::Records)
}

fn records(answer: &[u8], questions: u16, count: u16) -> Option<BTreeSet<String>> {
    let mut at = HEAD_BYTES;
    for _ in 0..questions {
        at = name(answer, at)?.1 + 4;
    }
    let mut found = BTreeSet::new();
    for _ in 0..count.min(RECORDS_MAX) {
        let head = name(answer, at)?.1;
        let (kind, class) = (number(answer, head)?, number(answer, head + 2)?);
        let length = usize::from(number(answer, head + 8)?);
        let body = head + 10;
        at = body + length;
        if at > answer.len() {
            return None;
        }
        // An alias may stand before them.
        if (kind, class) == (SRV, IN) && length > 6 {
            let (host, _) = name(answer, body + 6)?;
            // A service that is decidedly not there has the root's name.
            if !host.is_empty() {
                found.insert(format!("{host}:{}", number(answer, body + 4)?));
            }
        }
    }
    Some(found)
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// The name at a place, and where it ends there. It may go on at an earlier place (RFC 1035, section 4.1.4).
fn name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut text, mut end) = (String::new(), None);
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some((text, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = bytes.get(at + 1..at + 1 + length)?;
                let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
                if text.len() + length > NAME_BYTES_MAX || !label.iter().all(is_host) {
                    return None;
                }
                if !text.is_empty() {
                    text.push('.');
                }
                text.extend(label.iter().map(|byte| char::from(*byte)));
                at += 1 + length;
            }
            192.. => {
                let to = usize::from(number(bytes, at)? & 0x3fff);
                end = end.or(Some(at + 2));
                // Only backwards, so that it ends.
                if to >= at {
                    return None;
                }
                at = to;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An answer with these services, whose names point back to the question's.
    fn answer(id: u16, flags: u16, services: &[(&str, u16)]) -> Vec<u8> {
        let question = question(id, "_raft._tcp.example.com").unwrap();
        let mut bytes = question[..question.len() - 11].to_vec();
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&(services.len() as u16).to_be_bytes());
        bytes[10..12].copy_from_slice(&[0, 0]);
        for (host, port) in services {
            let mut body = Vec::new();
            for number in [0, 0, *port] {
                body.extend(number.to_be_bytes());
            }
            body.push(host.len() as u8);
            body.extend(host.as_bytes());
            // `example.com`, in the question.
            body.extend([0xc0, 12 + 6 + 5]);
            bytes.extend([0xc0, 12]);
            for number in [SRV, IN, 0, 30, body.len() as u16] {
                bytes.extend(number.to_be_bytes());
            }
            bytes.extend(body);
        }
        bytes
    }

    #[test]
    fn services_are_read() {
        let two = [("pod-0", 4001), ("pod-1", 4002)];
        let found = ["pod-0.example.com:4001", "pod-1.example.com:4002"].map(str::to_owned);
        assert_eq!(read(&answer(7, 0x8180, &two), 7), Read::Records(found.into()));
        assert_eq!(read(&answer(7, 0x8180, &two), 8), Read::Other);
        assert_eq!(read(&answer(7, 0x0180, &two), 7), Read::Other, "a question");
        assert_eq!(read(&answer(7, 0x8380, &two), 7), Read::Cut);
        assert_eq!(read(&answer(7, 0x8182, &[]), 7), Read::Failed(2));
        assert_eq!(read(&answer(7, 0x8183, &[]), 7), Read::Records(BTreeSet::new()));
        // A name that points to itself.
        let mut endless = answer(7, 0x8180, &two);
        let at = question(7, "_raft._tcp.example.com").unwrap().len() - 11;
        endless[at + 1] = at as u8;
        assert_eq!(read(&endless, 7), Read::Other);
    }

    #[test]
    fn short_names_are_looked_for_in_the_systems_domains() {
        let conf =
            "# by hand\nnameserver 10.0.0.10\nsearch a.svc.local svc.local\noptions timeout:1 ndots:5\n";
        let it = Resolver::of(conf);
        assert_eq!(it.servers, ["10.0.0.10:53".parse().unwrap()]);
        assert_eq!(it.names("db"), ["db.a.svc.local", "db.svc.local", "db"]);
        assert_eq!(it.names("db.b.svc."), ["db.b.svc"]);
        let it = Resolver::of("search x\n");
        assert_eq!(it.names("a.b"), ["a.b", "a.b.x"]);
        assert_eq!(it.servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        for wrong in ["", "a..b", &"x".repeat(64), &"x.".repeat(150)] {
            assert_eq!(question(1, wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), id: u16) {
            read(&bytes, id);
        }

        #[test]
        fn neither_is_one_that_is_almost_right(at in 0usize..200, byte: u8, cut in 0usize..200) {
            let mut bytes = answer(7, 0x8180, &[("pod-0", 4001), ("pod-1", 4002)]);
            let end = bytes.len();
            bytes[at % end] = byte;
            read(&bytes[..end - cut % end], 7);
        }
    }
}
