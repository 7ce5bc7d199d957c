//! How many files and connections the process may have open: the log and the peers come first, clients get the rest.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that are not for clients: those of the log, the peers, operators, SpacetimeDB's own connections, and of those
/// that are told that there are too many.
const RESERVED: u64 = 384;

/// Descriptors of one client: its connection, the one to SpacetimeDB that it has behind it, and one more there while a view is
/// prepared for it.
const A_CLIENT: u64 = 3;

/// Raises the process's limit as far as it may, and says what it is now.
pub(crate) fn raise() -> Result<u64, Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!("the limit of open files stays {soft}: {error}");
        return Ok(soft);
    }
    Ok(hard)
}

/// How many clients' connections there may be, of those that are wanted: an error if it is none.
pub(crate) fn connections(limit: u64, wanted: usize) -> Result<usize, String> {
    let room = limit.saturating_sub(RESERVED) / A_CLIENT;
    if room == 0 {
        return Err(format!(
            "at most {limit} files may be open, and the node needs {RESERVED} besides those of its clients: raise the \
             limit (`ulimit -n`, LimitNOFILE= of systemd)"
        ));
    }
    Ok(wanted.min(usize::try_from(room).unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_rest_does_not_need() {
        assert_eq!(connections(1 << 20, 10_000), Ok(10_000));
        assert_eq!(connections(u64::MAX, 10_000), Ok(10_000));
        assert_eq!(connections(1024, 10_000), Ok(213));
        assert_eq!(connections(1024, 100), Ok(100));
        for limit in [0, 256, RESERVED + 2] {
            assert!(connections(limit, 10_000).unwrap_err().contains("ulimit"));
        }
    }

    #[test]
    fn the_limit_is_raised() {
        let limit = raise().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, limit);
    }
}
