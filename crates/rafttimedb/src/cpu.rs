//! What kind of CPU this machine has: replicas on different kinds are the first suspects if they ever differ.

use std::fs::File;
use std::io::Read;

/// Bytes that are read of `/proc/cpuinfo`: its first CPU takes a few thousand, and all are alike.
const CPUINFO_BYTES_MAX: u64 = 16 << 10;

/// The fields of `/proc/cpuinfo` that tell kinds apart: on x86, and on ARM.
const FIELDS: [&str; 6] = [
    "vendor_id",
    "cpu family",
    "model",
    "CPU implementer",
    "CPU variant",
    "CPU part",
];

/// The architecture, and what the kernel tells of the CPU's vendor, family and model: `x86_64 AuthenticAMD/25/1`.
pub(crate) fn kind() -> String {
    let mut info = Vec::new();
    let read =
        File::open("/proc/cpuinfo").and_then(|file| file.take(CPUINFO_BYTES_MAX).read_to_end(&mut info));
    if let Err(error) = read {
        tracing::debug!(%error, "/proc/cpuinfo can't be read");
    }
    describe(std::env::consts::ARCH, &String::from_utf8_lossy(&info))
}

fn describe(arch: &str, cpuinfo: &str) -> String {
    let field = |name: &&str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields
            .find(|(key, _)| key.trim() == *name)
            .map(|(_, value)| value.trim())
    };
    let fields: Vec<&str> = FIELDS.iter().filter_map(field).collect();
    format!("{arch} {}", fields.join("/")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cpu_tells_the_kind() {
        let amd = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n\n\
                   processor\t: 1\nvendor_id\t: Other\n";
        assert_eq!(describe("x86_64", amd), "x86_64 AuthenticAMD/25/1");
        let arm = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU architecture: 8\n\
                   CPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n";
        assert_eq!(describe("aarch64", arm), "aarch64 0x41/0x3/0xd0c");
        for silent in ["", "no colon", "vendor_id"] {
            assert_eq!(describe("riscv64", silent), "riscv64");
        }
    }

    #[test]
    fn this_machine_has_an_architecture_at_least() {
        assert!(kind().starts_with(std::env::consts::ARCH));
    }
}
