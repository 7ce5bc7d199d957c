use super::*;
use crate::url::UrlError;
use axum::Router;
use axum::http::StatusCode as Status;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const AUTHORITY: &[u8] = include_bytes!("testdata/authority.pem");
const CERTIFICATE: &[u8] = include_bytes!("testdata/server.pem");
const KEY: &[u8] = include_bytes!("testdata/server.key");

/// Serves an issuer at `http://127.0.0.1:…`, whose configuration says what `configuration` makes of that.
async fn serve(configuration: impl Fn(&str) -> String, rest: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let configuration = configuration(&issuer);
    let path = "/.well-known/openid-configuration";
    let router = rest.route(path, get(move || async move { configuration }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    issuer
}

fn says(keys: &str) -> String {
    serde_json::json!({ "jwks_uri": keys, "issuer": "whatever" }).to_string()
}

async fn fetch(issuer: &str, reach: Reach) -> Result<Bytes, FetchError> {
    let held = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    Https::default()
        .fetch(issuer.to_owned(), reach, Arc::new(held))
        .await
}

#[tokio::test]
async fn an_issuer_says_where_its_keys_are() {
    let keys = Router::new().route("/keys", get(|| async { "keys" }));
    let issuer = serve(|issuer| says(&format!("{issuer}/keys?of=me")), keys).await;
    assert_eq!(fetch(&issuer, Reach::Named).await.unwrap(), "keys");
    assert_eq!(fetch(&format!("{issuer}/"), Reach::Named).await.unwrap(), "keys");
    let missing = fetch(&format!("{issuer}/below"), Reach::Named).await;
    assert!(matches!(missing, Err(FetchError::Status(404))), "{missing:?}");
    let refused = fetch(&issuer, Reach::Public).await;
    assert!(matches!(refused, Err(FetchError::Url(UrlError::NotHttps))));
}

#[tokio::test]
async fn nobody_is_led_elsewhere() {
    let secret = serve(|_| "secret".to_owned(), Router::new()).await;
    let to_secret = format!("{secret}/.well-known/openid-configuration");
    // Over http from one server to another.
    let issuer = serve(|_| says(&to_secret), Router::new()).await;
    let led = fetch(&issuer, Reach::Named).await;
    assert!(matches!(led, Err(FetchError::Url(UrlError::NotHttps))), "{led:?}");
    // To an address of this network.
    for address in [
        "https://127.0.0.1:9000",
        "https://localhost:9000",
        "https://[::1]:9000",
    ] {
        let issuer = serve(|_| says(address), Router::new()).await;
        let led = fetch(&issuer, Reach::Named).await;
        assert!(matches!(led, Err(FetchError::NotPublic(_))), "{led:?}");
    }
    // By redirects, to the keys and before.
    let target = to_secret.clone();
    let redirects = Router::new().route("/keys", get(move || async move { Redirect::temporary(&target) }));
    let issuer = serve(|issuer| says(&format!("{issuer}/keys")), redirects).await;
    let led = fetch(&issuer, Reach::Named).await;
    assert!(matches!(led, Err(FetchError::Status(307))), "{led:?}");
    let moved = get(move || async move { (Status::FOUND, [("location", to_secret)]).into_response() });
    let path = "/moved/.well-known/openid-configuration";
    let issuer = serve(|_| String::new(), Router::new().route(path, moved)).await;
    let led = fetch(&format!("{issuer}/moved"), Reach::Named).await;
    assert!(matches!(led, Err(FetchError::Status(302))), "{led:?}");
}

#[tokio::test]
async fn no_name_and_no_spelling_leads_a_stranger_to_a_private_address() {
    for issuer in [
        "https://localhost:9000",
        "https://localhost.:9000",
        "https://127.0.0.1:9000",
        "https://127.1:9000",
        "https://2130706433:9000",
        "https://0x7f000001:9000",
        "https://017700000001:9000",
        "https://0:9000",
        "https://[::1]:9000",
        "https://[::ffff:127.0.0.1]:9000",
        "https://[64:ff9b::7f00:1]:9000",
        "https://169.254.169.254",
        "https://10.0.0.1",
    ] {
        match fetch(issuer, Reach::Public).await {
            // Some are no addresses to some systems.
            Err(FetchError::NotPublic(_) | FetchError::Unreachable(_)) => {}
            other => panic!("{issuer}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_too_much_is_not_read() {
    let huge = get(|| async { "x".repeat(ANSWER_BYTES_MAX + 1) });
    let issuer = serve(
        |issuer| says(&format!("{issuer}/keys")),
        Router::new().route("/keys", huge),
    )
    .await;
    let refused = fetch(&issuer, Reach::Named).await;
    assert!(matches!(refused, Err(FetchError::TooLarge(_))), "{refused:?}");
    let issuer = serve(|_| "[".repeat(ANSWER_BYTES_MAX), Router::new()).await;
    let refused = fetch(&issuer, Reach::Named).await;
    assert!(
        matches!(refused, Err(FetchError::Configuration(_))),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_is_not_waited_for() {
    let slow = get(|| async { std::future::pending::<()>().await });
    let issuer = serve(
        |issuer| says(&format!("{issuer}/keys")),
        Router::new().route("/keys", slow),
    )
    .await;
    let refused = fetch(&issuer, Reach::Named).await;
    assert!(matches!(refused, Err(FetchError::Slow(_))), "{refused:?}");
}

#[tokio::test]
async fn a_server_is_who_a_trusted_certificate_says_it_is() {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
            PrivateKeyDer::from_pem_slice(KEY).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let keys = says(&format!("https://localhost:{port}/keys"));
    let router = Router::new()
        .route("/.well-known/openid-configuration", get(|| async { keys }))
        .route("/keys", get(|| async { "keys" }));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(async move { serving.serve_connection(TokioIo::new(stream), service).await });
        }
    });
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(AUTHORITY).unwrap())
        .unwrap();
    let trusting = Https {
        tls: Arc::new(OnceCell::from(connector(roots))),
    };
    let semaphore = Arc::new(Semaphore::new(3));
    let ask = |https: Https, host: &str| {
        let held = Arc::new(semaphore.clone().try_acquire_owned().unwrap());
        https.fetch(format!("https://{host}:{port}"), Reach::Named, held)
    };
    assert_eq!(ask(trusting.clone(), "localhost").await.unwrap(), "keys");
    for (https, host) in [(trusting, "127.0.0.1"), (Https::default(), "localhost")] {
        match ask(https, host).await {
            Err(FetchError::Unreachable(why)) => assert!(why.contains("certificate"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
