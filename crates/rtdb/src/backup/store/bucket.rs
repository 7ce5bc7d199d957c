//! Backups in an object store: S3, or what speaks like it.

use super::{FILE_BYTES_MAX, gone, too_large};
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{Error, ObjectStore};
use std::io;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

#[derive(Clone, Debug)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    runtime: Arc<Runtime>,
}

impl Bucket {
    /// `BUCKET/PREFIX`. Region, keys and endpoint come from the environment, as Amazon's own tools take them.
    pub(super) fn s3(place: &str) -> io::Result<Self> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "write s3://BUCKET/PREFIX",
            ));
        }
        let built = AmazonS3Builder::from_env().with_bucket_name(bucket).build();
        Self::of(Arc::new(built.map_err(lost)?), prefix.trim_matches('/'))
    }

    #[cfg(test)]
    pub(super) fn in_memory() -> Self {
        Self::of(Arc::new(object_store::memory::InMemory::new()), "a/b").unwrap()
    }

    fn of(store: Arc<dyn ObjectStore>, prefix: &str) -> io::Result<Self> {
        Ok(Self {
            store,
            prefix: prefix.to_owned(),
            runtime: Arc::new(Builder::new_current_thread().enable_all().build()?),
        })
    }

    fn path(&self, parts: &[&str]) -> Path {
        let parts = parts.iter().flat_map(|part| part.split('/'));
        let all = self.prefix.split('/').chain(parts);
        all.filter(|part| !part.is_empty()).collect()
    }

    pub(super) fn put(&self, folder: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(&[folder, name]);
        let put = self.store.put(&path, bytes.to_vec().into());
        self.runtime.block_on(put).map(drop).map_err(lost)
    }

    pub(super) fn get(&self, folder: &str, name: &str) -> io::Result<Vec<u8>> {
        let path = self.path(&[folder, name]);
        self.runtime.block_on(async {
            let found = self.store.get(&path).await.map_err(lost)?;
            if found.meta.size > FILE_BYTES_MAX {
                return Err(too_large());
            }
            Ok(found.bytes().await.map_err(lost)?.into())
        })
    }

    pub(super) fn folders(&self, of: &str) -> io::Result<Vec<String>> {
        let path = self.path(&[of]);
        let listed = self.store.list_with_delimiter(Some(&path));
        let listed = self.runtime.block_on(listed).map_err(lost)?;
        let names = listed.common_prefixes.iter();
        Ok(names
            .filter_map(|path| Some(path.filename()?.to_owned()))
            .collect())
    }

    pub(super) fn remove(&self, folder: &str, first: &str) -> io::Result<()> {
        let (path, first) = (self.path(&[folder]), self.path(&[folder, first]));
        self.runtime.block_on(async {
            gone(self.store.delete(&first).await.map_err(lost))?;
            let files: Vec<_> = self.store.list(Some(&path)).try_collect().await.map_err(lost)?;
            for file in files {
                gone(self.store.delete(&file.location).await.map_err(lost))?;
            }
            Ok(())
        })
    }
}

fn lost(error: Error) -> io::Error {
    match error {
        Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        error => io::Error::other(error),
    }
}
