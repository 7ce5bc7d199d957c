//! The key pair that signs the cluster's tokens: the same on every node, because a token issued through one node
//! must be good on all of them.

use p256::SecretKey;
use p256::elliptic_curve::rand_core::OsRng;
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What a key pair's files are called in a folder of ours.
const PRIVATE_FILE: &str = "id_ecdsa";
const PUBLIC_FILE: &str = "id_ecdsa.pub";

/// An ES256 key pair in PEM: PKCS#8 and SubjectPublicKeyInfo, as SpacetimeDB writes and reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    private_pem: String,
    public_pem: String,
}

/// Where a key pair's two files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFiles {
    /// The private half.
    pub private: PathBuf,
    /// The public half.
    pub public: PathBuf,
}

/// Why a key pair can't be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The private half is not one.
    #[error("the private key is not an ES256 (P-256) key in PKCS#8 PEM: {0}")]
    Private(String),
    /// The public half is not one.
    #[error("the public key is not an ES256 (P-256) key in PEM: {0}")]
    Public(String),
    /// Two halves of different pairs.
    #[error("the public key does not belong to the private key")]
    Mismatch,
}

impl Keys {
    /// Makes a new pair.
    ///
    /// # Errors
    /// [`KeyError::Private`] or [`KeyError::Public`] if the new key can't be encoded.
    pub fn generate() -> Result<Self, KeyError> {
        let secret = SecretKey::random(&mut OsRng);
        let private_pem = secret
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|e| KeyError::Private(e.to_string()))?
            .to_string();
        let public_pem = secret
            .public_key()
            .to_public_key_pem(LineEnding::LF)
            .map_err(|e| KeyError::Public(e.to_string()))?;
        Ok(Self {
            private_pem,
            public_pem,
        })
    }

    /// Takes a pair, checking that the halves belong together.
    ///
    /// # Errors
    /// [`KeyError`] if one is not a key of the right kind, or they do not match.
    pub fn from_pem(private_pem: String, public_pem: String) -> Result<Self, KeyError> {
        let secret = SecretKey::from_pkcs8_pem(&private_pem).map_err(|e| KeyError::Private(e.to_string()))?;
        if secret.public_key() != parse_public(&public_pem)? {
            return Err(KeyError::Mismatch);
        }
        Ok(Self {
            private_pem,
            public_pem,
        })
    }

    /// Reads a pair.
    ///
    /// # Errors
    /// As [`Keys::from_pem`], and [`KeyError::File`].
    pub fn load(files: &KeyFiles) -> Result<Self, KeyError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| KeyError::File {
                path: path.to_owned(),
                source,
            })
        };
        Self::from_pem(read(&files.private)?, read(&files.public)?)
    }

    /// Writes the pair into `folder`, the private half readable by its owner alone.
    ///
    /// # Errors
    /// [`KeyError::File`].
    pub fn write(&self, folder: &Path) -> Result<KeyFiles, KeyError> {
        let files = KeyFiles {
            private: folder.join(PRIVATE_FILE),
            public: folder.join(PUBLIC_FILE),
        };
        write_file(&files.private, &self.private_pem, 0o600)?;
        write_file(&files.public, &self.public_pem, 0o644)?;
        Ok(files)
    }

    /// The private half.
    pub fn private_pem(&self) -> &str {
        &self.private_pem
    }

    /// The public half.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Whether `public_pem` is this pair's public half, however it is written down.
    ///
    /// # Errors
    /// [`KeyError::Public`] if either is no public key.
    pub fn is_public_half(&self, public_pem: &str) -> Result<bool, KeyError> {
        Ok(parse_public(&self.public_pem)? == parse_public(public_pem)?)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("public_pem", &self.public_pem)
            .finish_non_exhaustive()
    }
}

fn parse_public(pem: &str) -> Result<p256::PublicKey, KeyError> {
    p256::PublicKey::from_public_key_pem(pem.trim()).map_err(|e| KeyError::Public(e.to_string()))
}

/// Replaces a file as a whole: a crash leaves the old one or the new one.
fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), KeyError> {
    let write = || -> io::Result<()> {
        let new = path.with_extension("new");
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|source| KeyError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_written_pair_reads_back_and_its_private_half_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::generate().unwrap();
        let files = keys.write(folder.path()).unwrap();
        keys.write(folder.path()).unwrap();
        assert_eq!(Keys::load(&files).unwrap(), keys);
        assert_eq!(
            fs::metadata(&files.private).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!format!("{keys:?}").contains("PRIVATE"));
    }

    #[test]
    fn halves_of_two_pairs_are_refused() {
        let (a, b) = (Keys::generate().unwrap(), Keys::generate().unwrap());
        let mixed = Keys::from_pem(a.private_pem.clone(), b.public_pem.clone());
        assert!(matches!(mixed, Err(KeyError::Mismatch)));
        assert!(!a.is_public_half(&b.public_pem).unwrap());
        assert!(a.is_public_half(&a.public_pem.replace('\n', "\r\n")).unwrap());
    }

    #[test]
    fn what_is_no_key_is_named() {
        let keys = Keys::generate().unwrap();
        let no_private = Keys::from_pem("x".into(), keys.public_pem.clone());
        assert!(matches!(no_private, Err(KeyError::Private(_))));
        assert!(matches!(keys.is_public_half(""), Err(KeyError::Public(_))));
        let missing = KeyFiles {
            private: "/nowhere/a".into(),
            public: "/nowhere/b".into(),
        };
        assert!(
            Keys::load(&missing)
                .unwrap_err()
                .to_string()
                .contains("/nowhere/a")
        );
    }
}
