use super::*;

#[test]
fn only_plain_urls_without_a_path_are_taken() {
    assert_eq!(authority("ws://127.0.0.1:3000").unwrap(), "127.0.0.1:3000");
    assert_eq!(authority("http://localhost/").unwrap(), "localhost:80");
    assert_eq!(authority("http://[::1]:3000").unwrap(), "[::1]:3000");
    assert!(matches!(
        authority("https://127.0.0.1:3000"),
        Err(ServerError::Tls(_))
    ));
    assert!(matches!(
        authority("wss://127.0.0.1:3000"),
        Err(ServerError::Tls(_))
    ));
    for url in [
        "",
        "127.0.0.1:3000",
        "ftp://x",
        "http://x/path",
        "http://x?y=z",
        "http://me@x:1",
    ] {
        assert!(matches!(authority(url), Err(ServerError::Url(_))), "{url}");
    }
}

#[test]
fn a_server_is_down_only_once_it_was_up_and_since_it_went_down() {
    let (report, state) = watch::channel(ServerState::Starting);
    down(&report, "not yet".into());
    assert_eq!(*state.borrow(), ServerState::Starting);
    up(&report);
    down(&report, "gone".into());
    let first = state.borrow().clone();
    assert!(matches!(&first, ServerState::Down { error, .. } if error == "gone"));
    down(&report, "still".into());
    assert_eq!(*state.borrow(), first);
    up(&report);
    assert_eq!(*state.borrow(), ServerState::Up);
}

#[tokio::test]
async fn a_program_that_is_no_spacetimedb_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::generate().unwrap();
    for program in ["/nowhere/spacetimedb", "/bin/true"] {
        let data_dir = folder.path().to_owned();
        let config = ServerConfig::Managed {
            program: program.into(),
            data_dir,
            limits: ServerLimits::default(),
        };
        let refused = LocalServer::start(config, &keys).await.err().unwrap();
        assert!(matches!(refused, ServerError::Program { .. }), "{refused}");
    }
}

#[tokio::test]
async fn a_server_is_watched_until_it_is_stopped() {
    let keys = Keys::generate().unwrap();
    let url = "http://127.0.0.1:1".to_owned();
    let server = LocalServer::start(ServerConfig::External { url }, &keys)
        .await
        .unwrap();
    assert!(futures::FutureExt::now_or_never(server.unwatched()).is_none());
    server.stop().await;
    server.unwatched().await;
}
