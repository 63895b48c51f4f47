//! The pictures of `docs/images`: the five views in both themes, over captures
//! of staged incidents and one simulated one, in a real browser.
//! `make screenshots` runs it.

#[path = "../tests/browser/mod.rs"]
mod browser;
#[path = "../tests/browser/scene.rs"]
mod scene;

use std::path::Path;
use std::time::Duration;

use browser::recorded::Recorded;
use browser::{Browser, Window};
use snowpit::engine::incident::Kind;
use snowpit::eval::scenario::Family;
use tokio::time::sleep;

/// For the charts, and a few events.
const SETTLE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    std::fs::create_dir_all(&directory)?;
    let site = Recorded::with_traffic(&scene::SCENE[1..], Family::RareHeavyEndpoint, 1).await;
    println!("{}", site.url);
    for (theme, dark) in [("dark", true), ("light", false)] {
        let browser = Browser::start(Window {
            dark,
            height: 960,
            ..Window::default()
        })
        .await;
        for view in scene::VIEWS {
            let mut address = format!("{}/#/{view}", site.url);
            if view == "incident" {
                address += "/";
                address += &site.first_of(Kind::ConnectionAvalanche).await;
            }
            browser.open(&address).await;
            let ready = "return document.querySelectorAll('main [data-row]').length";
            browser.until(view, ready).await;
            sleep(SETTLE).await;
            let file = directory.join(format!("{view}-{theme}.webp"));
            std::fs::write(file, browser.picture().await)?;
        }
        browser.close().await;
    }
    Ok(())
}
