//! The page in a real browser, over captures of real servers.

mod browser;

use std::time::Duration;

use browser::recorded::{Recorded, Take};
use browser::{Browser, Window};
use tokio::time::sleep;

/// Three servers in trouble and one that is well.
const SCENE: [Take; 4] = [
    Take {
        capture: "avalanche",
        target: "registry",
        until: 76.0,
    },
    Take {
        capture: "orphan",
        target: "gateway",
        until: 8.0,
    },
    Take {
        capture: "kinds",
        target: "orders",
        until: 42.0,
    },
    Take {
        capture: "normal",
        target: "reports",
        until: 20.0,
    },
];

#[tokio::test]
#[ignore = "for people: serves the scene until it is stopped"]
async fn look() {
    let site = Recorded::start(&SCENE).await;
    println!("{}", site.url);
    sleep(Duration::from_secs(3600)).await;
}

#[tokio::test]
async fn the_page_shows_what_is() {
    let site = Recorded::start(&SCENE).await;
    let browser = Browser::start(Window::default()).await;
    browser.open(&site.url).await;
    browser.until_text("connection avalanche").await;
    browser.assert_no_complaint().await;
    browser.close().await;
}
