//! The server that an earlier life of this node left behind. A node that is killed can't stop its server; the next
//! start has to, because two servers must not use one data directory.

use super::ServerError;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rtdb_runtime::Instant;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

/// How long a leftover server may take to end once it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How often that is looked at.
const END_POLL: Duration = Duration::from_millis(20);

/// Notes which process serves.
pub(super) fn record(pid_file: &Path, pid: i32) -> Result<(), ServerError> {
    fs::write(pid_file, pid.to_string()).map_err(|source| ServerError::File {
        path: pid_file.to_owned(),
        source,
    })
}

/// Ends the process that `pid_file` names, if it still is a server of `data_dir`: another process may have got its
/// number since.
pub(super) async fn end(pid_file: &Path, data_dir: &Path) -> Result<(), ServerError> {
    let text = match fs::read_to_string(pid_file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ServerError::File {
                path: pid_file.to_owned(),
                source,
            });
        }
    };
    // A number of 1 or less would name a group of processes, or the system's first one.
    let Some(pid) = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1) else {
        return Ok(());
    };
    if !serves(pid, data_dir) {
        return Ok(());
    }
    tracing::warn!(
        pid,
        "ending the SpacetimeDB that an earlier run of this node left behind"
    );
    let deadline = Instant::now() + END_TIMEOUT;
    while serves(pid, data_dir) {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) if Instant::now() < deadline => rtdb_runtime::sleep(END_POLL).await,
            _ => {
                return Err(ServerError::Leftover {
                    pid,
                    data_dir: data_dir.to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// Whether a live process was started with `--data-dir data_dir`. A process that has ended and whose parent has not
/// noticed has no arguments any more.
fn serves(pid: i32, data_dir: &Path) -> bool {
    let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let arguments: Vec<&OsStr> = arguments
        .split(|byte| *byte == 0)
        .map(OsStr::from_bytes)
        .collect();
    arguments
        .windows(2)
        .any(|pair| pair[0] == "--data-dir" && Path::new(pair[1]) == data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn imposter(data_dir: &str) -> std::process::Child {
        // Waits without a child of its own, and without turning into another program.
        let script = "read line";
        Command::new("sh")
            .args(["-c", script, "sh", "--data-dir", data_dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn pid(child: &std::process::Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[tokio::test]
    async fn only_a_server_of_this_folder_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let data_dir = folder.path().join("data");
        end(&pid_file, &data_dir).await.unwrap();

        let mut other = imposter("/somewhere/else");
        record(&pid_file, pid(&other)).unwrap();
        end(&pid_file, &data_dir).await.unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();

        let mut ours = imposter(data_dir.to_str().unwrap());
        record(&pid_file, pid(&ours)).unwrap();
        end(&pid_file, &data_dir).await.unwrap();
        assert!(!ours.wait().unwrap().success());

        for nonsense in ["", "-1", "0", "1", "x"] {
            fs::write(&pid_file, nonsense).unwrap();
            end(&pid_file, &data_dir).await.unwrap();
        }
    }
}
