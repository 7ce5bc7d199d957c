//! The official TypeScript SDK against a cluster: `tests/sdk-typescript`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rtdb_testkit::demo_module;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, in_ci, run};

#[test]
fn the_typescript_sdk_works_as_with_the_plain_server() {
    for tool in ["node", "npm"] {
        if std::process::Command::new(tool)
            .arg("--version")
            .output()
            .is_err()
        {
            assert!(!in_ci(), "{tool} is not there");
            eprintln!("skipped: {tool} is not there");
            return;
        }
    }
    run(async {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sdk-typescript");
        // In a folder of its own: the repository stays as it is.
        let folder = tempfile::tempdir()?;
        for file in std::fs::read_dir(source)? {
            let file = file?;
            if file.file_type()?.is_file() {
                std::fs::copy(file.path(), folder.path().join(file.file_name()))?;
            }
        }
        succeeds(folder.path(), "npm", &["ci", "--no-audit", "--no-fund"]).await?;
        // The SDK and its bindings are of 1.x, whatever the server.
        let module = demo_module::wasm_named("counter-1x")?;
        let scene = Scene::publishing(module, 3, |_| {}).await?;
        let uri = |node| format!("ws://{}", scene.cluster.node(node).client_addr());
        let (one, other) = (uri(1), uri(2));
        let mut args = vec![
            "check.mjs",
            "--uri",
            &one,
            "--other-uri",
            &other,
            "--database",
            DATABASE,
        ];
        // A node speaks v3 with a server of 2.x, which does not tell it.
        if rtdb_testkit::server::major()? >= 2 {
            args.push("--no-energy");
        }
        succeeds(folder.path(), "node", &args).await?;
        scene.identical().await?;
        scene.end().await
    });
}

async fn succeeds(folder: &Path, program: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).kill_on_drop(true);
    let output = timeout(PATIENCE * 2, command.output())
        .await
        .with_context(|| format!("{program} {args:?} runs on"))??;
    ensure!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
