//! Which key pair signs the cluster's tokens.
//!
//! Where operators run the servers, they hand the pair to each of them and to each node, and the cluster's settings
//! hold the public half, against which every node checks its own. Where the nodes run the servers, `rtdb init` makes a
//! pair, and the settings carry both halves to every node.

use crate::config::ServerArgs;
use rtdb_consensus::command::InitCluster;
use rtdb_replica::{KeyError, KeyFiles, Keys};
use thiserror::Error;

/// Why the cluster's key pair can't be used on this node.
#[derive(Debug, Error)]
pub(crate) enum ClusterKeyError {
    /// The pair on the command line can't be read.
    #[error("--stdb-jwt-priv-key, --stdb-jwt-pub-key: {0}")]
    Given(KeyError),
    /// The pair in the settings can't be read.
    #[error("the key pair in the cluster's settings: {0}")]
    Settings(KeyError),
    /// The pair on the command line is not the cluster's.
    #[error(
        "the key pair that --stdb-jwt-priv-key and --stdb-jwt-pub-key name is not the one that the cluster was \
         initialised with: give every node, and every SpacetimeDB, the same pair"
    )]
    NotTheClusters,
    /// Nobody gave the pair.
    #[error(
        "the cluster was initialised with a key pair that operators hand out: give this node \
         --stdb-jwt-priv-key and --stdb-jwt-pub-key"
    )]
    Missing,
}

/// The key pair in the settings of a new cluster; the private half only if the cluster makes it.
pub(crate) fn for_new_cluster(args: &ServerArgs) -> Result<InitCluster, ClusterKeyError> {
    let (keys, ours) = match given(args)? {
        Some(keys) => (keys, false),
        None => (Keys::generate().map_err(ClusterKeyError::Settings)?, true),
    };
    Ok(InitCluster {
        cluster_id: String::new(),
        jwt_public_key: keys.public_pem().to_owned(),
        jwt_private_key: if ours {
            keys.private_pem().to_owned()
        } else {
            String::new()
        },
    })
}

/// The key pair of the cluster that this node is part of.
pub(crate) fn of_cluster(args: &ServerArgs, settings: &InitCluster) -> Result<Keys, ClusterKeyError> {
    match given(args)? {
        Some(keys) => match keys.is_public_half(&settings.jwt_public_key) {
            Ok(true) => Ok(keys),
            Ok(false) => Err(ClusterKeyError::NotTheClusters),
            Err(error) => Err(ClusterKeyError::Settings(error)),
        },
        None if settings.jwt_private_key.is_empty() => Err(ClusterKeyError::Missing),
        None => Keys::from_pem(settings.jwt_private_key.clone(), settings.jwt_public_key.clone())
            .map_err(ClusterKeyError::Settings),
    }
}

fn given(args: &ServerArgs) -> Result<Option<Keys>, ClusterKeyError> {
    match (&args.stdb_jwt_priv_key, &args.stdb_jwt_pub_key) {
        (Some(private), Some(public)) => {
            let files = KeyFiles {
                private: private.clone(),
                public: public.clone(),
            };
            Keys::load(&files).map(Some).map_err(ClusterKeyError::Given)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(files: Option<&KeyFiles>) -> ServerArgs {
        ServerArgs {
            stdb_url: None,
            stdb_bin: None,
            stdb_memory_max: None,
            stdb_jwt_priv_key: files.map(|files| files.private.clone()),
            stdb_jwt_pub_key: files.map(|files| files.public.clone()),
        }
    }

    #[test]
    fn a_pair_that_the_cluster_made_reaches_every_node() {
        let settings = for_new_cluster(&args(None)).unwrap();
        let keys = of_cluster(&args(None), &settings).unwrap();
        assert_eq!(keys.private_pem(), settings.jwt_private_key);
    }

    #[test]
    fn a_pair_of_the_operators_must_be_the_same_on_every_node() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [ours, theirs] = folders
            .each_ref()
            .map(|it| Keys::generate().unwrap().write(it.path()).unwrap());
        let settings = for_new_cluster(&args(Some(&ours))).unwrap();
        assert_eq!(
            settings.jwt_private_key, "",
            "the private half is not for the log"
        );
        assert!(of_cluster(&args(Some(&ours)), &settings).is_ok());
        assert!(matches!(
            of_cluster(&args(Some(&theirs)), &settings),
            Err(ClusterKeyError::NotTheClusters)
        ));
        assert!(matches!(
            of_cluster(&args(None), &settings),
            Err(ClusterKeyError::Missing)
        ));
    }
}
